"""``nixfleet deploy``: build, push, release, preview, start and watch, in one command.

Whatever can be wrong is found before anything is pushed or signed.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from nixfleet.cli import output
from nixfleet.cli.closures import closures_of
from nixfleet.cli.fallback import check_fallback
from nixfleet.cli.options import Globals, command, confirm
from nixfleet.cli.plan import check_reach
from nixfleet.cli.previews import local_objects, previewer, show_preview
from nixfleet.cli.releases import push_all, read_release_file
from nixfleet.cli.session import Fleet, connected, now
from nixfleet.cli.shaping import Shaped, plan_options
from nixfleet.cli.watching import WAITS, begun
from nixfleet.cli.words import parse_targets
from nixfleet.client.acts import find_device
from nixfleet.errors import NixFailed, UserError
from nixfleet.model.ids import DeviceId, matches
from nixfleet.model.statements import Closure
from nixfleet.model.text import counted
from nixfleet.model.typed import check_name
from nixfleet.nix import Nix, toplevel_attr
from nixfleet.preview.plan import Target
from nixfleet.rollout.asking import Order
from nixfleet.trust.replay import State

NO_BUILD: Final = ("--offline", "--max-jobs", "0", "--builders", "")
_META: Final = "nixfleet.nix-args"
_NO_FLAKE: Final = re.compile(r"could not find a flake\.nix|does not contain a .*flake\.nix")
"""What Nix says of a folder that is no flake: version 2.8, and later ones."""


class _WithNixArgs(Shaped):
    """A command whose words behind ``--`` are Nix's, whatever stands before."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set aside what stands behind the first ``--``."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[_META] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Show them in the usage line."""
        return [*super().collect_usage_pieces(ctx), "[-- NIX-ARGS]"]


@click.command(cls=_WithNixArgs)
@click.argument("flake", required=False, metavar="[FLAKE[#NAME,…]]")
@click.option("-f", "file", type=click.Path(path_type=Path), metavar="FILE", help="A release file instead of a flake.")
@click.option("--device", "devices", multiple=True, metavar="NAME=PATH", help="A finished system; repeatable.")
@click.option("--no-build", is_flag=True, help="Fail rather than build what is not in the store.")
@click.option("--name", help="The release's name; by default made from the time.")
@click.option("--dry-run", is_flag=True, help="Build and show what it would do; push and sign nothing.")
@click.option("--watch/--no-watch", default=True, help="Stay until every online device has an outcome (the default).")
@click.option("--wait", type=click.Choice(WAITS), default="online", show_default=True, help="Whom to watch for.")
@plan_options
@command
async def deploy(
    given: Globals,
    flake: str | None,
    file: Path | None,
    devices: tuple[str, ...],
    no_build: bool,
    name: str | None,
    dry_run: bool,
    watch: bool,
    wait: str,
    plan: Order,
) -> int | None:
    """Bring systems to their devices: those of FLAKE[#NAME,…] (default '.'), of a file, or the given ones.

    Devices that are offline get it when they come back; they are listed, not waited for. Ctrl-C detaches and cancels
    nothing. Exit code 6 says that the rollout halted, 1 that a device failed.
    """
    nix_args = click.get_current_context().meta.get(_META, ())
    if (devices or file) and (flake or nix_args or no_build):
        raise UserError("say a flake, or finished systems with --device and -f, not both")
    chosen = name or datetime.fromtimestamp(now(), UTC).strftime("deploy-%Y%m%d-%H%M%S")
    check_name(chosen, "release")
    finished = {**(read_release_file(file) if file else {}), **parse_targets(devices)}
    closures = await closures_of(Nix(), finished.values())
    async with connected(given, catch_up=True) as fleet:
        if finished:
            targets = {device: finished[text] for device, text in narrowed(fleet.state, finished, plan).items()}
        else:
            targets = await _built(given, fleet, flake or ".", (*nix_args, *(NO_BUILD if no_build else ())), plan)
            closures = await closures_of(Nix(), targets.values())
        check_reach(given, fleet, plan, targets)
        await check_fallback(fleet, plan, targets)
        asks = sys.stdin.isatty() and not given.yes
        if dry_run or asks:
            await _preview(given, fleet, chosen, {device: closures[path] for device, path in targets.items()}, plan)
        if dry_run:
            return None
        if asks:
            confirm(given, f"Deploy to {counted(len(targets), 'device')}?")
        await push_all(given, fleet, sorted(set(targets.values())))
        made = await fleet.admin.release(
            chosen, devices={device: closures[path] for device, path in targets.items()}, note=given.note
        )
        acted = await fleet.admin.rollout(made.digest, plan.wishes, note=given.note)
        return await begun(given, fleet, acted, release=made.digest, wait=wait if watch else "none")


async def _preview(given: Globals, fleet: Fleet, name: str, closures: Mapping[str, Closure], plan: Order) -> None:
    """Show what a release of this machine's systems would do, though no cache has them yet."""
    root = fleet.state.root
    targets = [
        Target(
            device=device,
            name=(statement := fleet.state.devices[DeviceId(device)].statement).name,
            tags=statement.tags,
            path=closure.path,
            nar_bytes=closure.nar_size,
        )
        for device, closure in closures.items()
    ]
    local = await local_objects(Nix(), (closure.path for closure in closures.values()))
    caches = root.caches if root is not None else ()
    await show_preview(given, previewer(given, fleet).deployment(name, targets, plan.wishes, caches, local=local))


def narrowed(state: State, texts: Iterable[str], plan: Order, *, strict: bool = True) -> dict[str, str]:
    """Choose among devices (names or ids) those that ``--on`` means; gives device ids with the texts.

    With `strict` a text that is no device of the fleet is an error, else it is left out, and said.

    Raises: UserError, too when nothing is left.
    """
    known = list(texts)
    for text in sorted(plan.names - set(known)):
        raise UserError(f"there is no system for {text!r} here: --on chooses among {_some(known)}")
    chosen = [text for text in known if not plan.names or text in plan.names]
    strangers = [] if strict or plan.names else [text for text in chosen if not _is_device(state, text)]
    if strangers:
        click.echo(f"left out, for the fleet has no such device: {_some(strangers)}", err=True)
    found = {find_device(state, text): text for text in chosen if text not in strangers}
    if len(found) + len(strangers) != len(chosen):
        raise UserError("a device is named twice, by its name and by its id")
    select = plan.wishes.select or {}
    found = {device: text for device, text in found.items() if matches(select, state.devices[device].statement.tags)}
    if not found:
        raise UserError("nothing to deploy: no device of the fleet that --on means has a system here")
    return found


def _is_device(state: State, text: str) -> bool:
    return text in state.devices or bool(state.named(text))


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


async def _built(given: Globals, fleet: Fleet, flake: str, nix_args: tuple[str, ...], plan: Order) -> dict[str, str]:
    """Build the chosen devices' systems, and no others; gives store paths by device id."""
    ref, _, wanted = flake.partition("#")
    ref = _absolute(ref or ".")
    nix = Nix()
    named = [part for part in wanted.split(",") if part]
    try:
        names = named or await nix.eval_names(ref, nix_args)
    except NixFailed as error:
        if not _NO_FLAKE.search(error.reason):
            raise
        raise UserError(f"{ref} has no flake.nix; say another flake, or systems with --device NAME=PATH") from error
    if not names:
        raise UserError(f"{ref} has no nixosConfigurations")
    targets = {}
    for device, name in narrowed(fleet.state, names, plan, strict=bool(named)).items():
        meter = output.Meter(f"build {name}", quiet=given.quiet)
        targets[device] = await nix.build_flake(ref, toplevel_attr(name), nix_args, meter.show)
        meter.end(output.system_name(targets[device]))
    return targets


def _absolute(ref: str) -> str:
    """Give a flake in a folder by its whole path, for Nix runs elsewhere; also as ``path:FOLDER``."""
    scheme, colon, rest = ref.partition(":")
    if colon and scheme in {"path", "git+file"} and not rest.startswith("/"):
        return f"{scheme}:{Path(rest).absolute()}"
    is_path = bool(re.match(r"[./~]", ref)) or Path(ref).exists()
    return str(Path(ref).expanduser().absolute()) if is_path else ref
