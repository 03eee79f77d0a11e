"""The preview of a rollout on the command line: a table of its devices, and what is to be said before signing."""

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Final

import click

from nixfleet.cli import output
from nixfleet.cli.options import Globals
from nixfleet.cli.session import Fleet, now
from nixfleet.client.previewing import Previewer
from nixfleet.config import narinfo_file
from nixfleet.model.text import age, clean, size
from nixfleet.nix import Nix
from nixfleet.preview.closures import StoreObject
from nixfleet.preview.plan import DevicePreview, Preview
from nixfleet.preview.words import Said, bound_words, said_of

ROWS_MAX: Final = 60
"""More devices are only summed up; ``--json`` has them all."""
_MARKS: Final = {"warn": "! ", "bad": "! "}


def previewer(given: Globals, fleet: Fleet) -> Previewer:
    """Give what previews for this person; narinfos are remembered in their state folder."""
    return Previewer(fleet.client, fleet.admin, now, narinfo_file(given.env))


async def show_preview(given: Globals, previews: AsyncGenerator[Preview, None]) -> None:
    """Show the last and most exact of some previews; on the way there, how far the caches are read."""
    meter, last = output.Meter("caches", quiet=given.quiet), None
    async with aclosing(previews):
        async for last in previews:
            if meter.terminal and last.reading.state == "reading" and last.reading.paths:
                meter.show(f"{last.reading.paths:,} paths")
    meter.clear()
    assert last is not None, "there is always a first preview"
    if given.json:
        output.as_json(last)
        return
    time = now()
    if len(last.devices) <= ROWS_MAX:
        head = ("DEVICE", "WAVE", "CHANGE", "FETCH", "LINK")
        output.table(head, [_row(one, time) for one in last.devices], "no device")
    say(said_of(last, time))


def say(lines: Iterable[Said]) -> None:
    """Write lines of words, their counts aligned."""
    for line in lines:
        count = "" if line.count is None else f"{line.count:>5,}  "
        click.echo(clean(f"{_MARKS.get(line.tone, '')}{count}{line.text}"))


def _row(one: DevicePreview, time: int) -> tuple[str, ...]:
    return one.name, str(one.wave or "-"), _change(one), _fetch(one), _link(one, time)


def _change(one: DevicePreview) -> str:
    if one.same:
        return "up to date"
    if not one.intended:
        return "returns to a system that only it knows"
    return f"{output.system_name(one.system) or 'unknown'} → {output.system_name(one.intended)}"


def _fetch(one: DevicePreview) -> str:
    if one.same:
        return "-"
    return "?" if one.download_bytes is None else f"{bound_words(one)}{size(one.download_bytes)}"


def _link(one: DevicePreview, time: int) -> str:
    if one.online:
        return "online"
    return f"offline, seen {age(max(0, time - one.seen_at))} ago" if one.seen_at else "never seen"


async def local_objects(nix: Nix, paths: Iterable[str]) -> Mapping[str, StoreObject]:
    """Read from this machine's own store what some systems need: they may be in no cache yet. Raises: NixFailed."""
    found: dict[str, StoreObject] = {}
    for path in sorted(set(paths)):
        for info in await nix.closure(path):
            found[info.path] = StoreObject(path=info.path, nar_bytes=info.nar_bytes, references=info.references)
    return found
