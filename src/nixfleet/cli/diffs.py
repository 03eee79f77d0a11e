"""``nixfleet release diff`` and a device's "what would change": differences of systems, by package, without Nix."""

from collections.abc import Sequence

import click
import msgspec

from nixfleet.cli import output
from nixfleet.cli.options import Globals, command
from nixfleet.cli.previews import say
from nixfleet.cli.session import Fleet, connected
from nixfleet.client.acts import find_device, find_release
from nixfleet.client.checks import check_lines, members_of
from nixfleet.client.previewing import changes_between
from nixfleet.config import narinfo_file
from nixfleet.errors import UserError
from nixfleet.model.ids import DeviceId
from nixfleet.model.statements import CacheRef
from nixfleet.model.views import DeviceView, ReleaseLineView
from nixfleet.preview.groups import ChangePreview
from nixfleet.preview.words import Said, changes_lines

SHOW_S = 20.0
"""How long showing a device waits for caches."""


@click.command("diff")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--device", "device", metavar="NAME", help="Only this device's lines.")
@command
async def diff(given: Globals, before: str, after: str, device: str | None) -> None:
    """Show what changes from release A to B by package, for each device that both have a line for.

    Devices that change alike are shown together. What is in a system is read from the caches; no Nix is needed.
    """
    async with connected(given, catch_up=True) as fleet:
        old, new = await _lines(fleet, before), await _lines(fleet, after)
        wanted = old.keys() & new.keys()
        if device is not None:
            wanted &= {find_device(fleet.state, device)}
        if not wanted:
            whom = "any device" if device is None else device
            raise UserError(f"{before} and {after} do not both have a line for {whom}; see 'nixfleet release show'")
        names = {one: fleet.state.devices[DeviceId(one)].statement.name for one in old.keys() | new.keys()}
        named = sorted((names[one], old[one].path, new[one].path) for one in wanted)
        only = [sorted(names[one] for one in a.keys() - b.keys()) for a, b in ((old, new), (new, old))]
        caches = _caches(fleet, before, after)
        changes, notes = await changes_between(fleet.client, named, caches, memory=narinfo_file(given.env))
    if given.json:
        output.as_json({"changes": changes, "only_a": only[0], "only_b": only[1], "notes": notes})
        return
    say(changes_lines(changes, notes))
    if device is None:
        say(Said(len(some), f"only in {name}", "dim") for name, some in ((before, only[0]), (after, only[1])) if some)


async def _lines(fleet: Fleet, name: str) -> dict[str, ReleaseLineView]:
    """Give what each device gets of a release, held against what was signed. Raises: UserError, Untrusted."""
    view = await fleet.client.release(find_release(fleet.state, name))
    check_lines(view, fleet.state)
    return members_of(view, fleet.state, {})


def _caches(fleet: Fleet, *names: str) -> Sequence[CacheRef]:
    found = (fleet.state.releases[find_release(fleet.state, name)].statement.caches for name in names)
    return tuple(dict.fromkeys(cache for caches in found for cache in caches))


async def change_of(
    given: Globals, fleet: Fleet, view: DeviceView
) -> tuple[tuple[ChangePreview, ...], tuple[str, ...]]:
    """Tell what would change on a device that does not run what it should; nothing where it does."""
    root = fleet.state.root
    if not view.system or not view.intended or view.system == view.intended:
        return (), ()
    named = [(view.name, view.system, view.intended)]
    caches = root.caches if root is not None else ()
    return await changes_between(fleet.client, named, caches, memory=narinfo_file(given.env), walk_s=SHOW_S)


def device_json(view: DeviceView, changes: Sequence[ChangePreview], notes: Sequence[str]) -> dict[str, object]:
    """Give a device's record with what would change on it; `change` is null where nothing would, or it is unknown."""
    found: ChangePreview | None = changes[0] if changes else None
    return {**msgspec.to_builtins(view), "change": found.diff if found is not None else None, "change_notes": notes}
