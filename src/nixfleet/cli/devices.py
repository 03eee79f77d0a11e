"""``nixfleet device``: the fleet's devices, what they run and say, and the signed acts on their membership."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from json import dumps
from typing import Final, TypeVar

import click

from nixfleet.cli import output
from nixfleet.cli.awaiting import awaited
from nixfleet.cli.diffs import change_of, device_json
from nixfleet.cli.keys import read_key
from nixfleet.cli.options import Globals, Group, command, command_without_key, confirm
from nixfleet.cli.previews import say
from nixfleet.cli.session import Fleet, connected, fleet_time
from nixfleet.client.acts import find_device
from nixfleet.client.admin import Acted
from nixfleet.client.enrolling import rekey
from nixfleet.errors import Unreachable, UserError
from nixfleet.model.answers import Lines
from nixfleet.model.ids import HEX32, NAME
from nixfleet.model.text import clean, counted, utc
from nixfleet.model.typed import parse_date, parse_tags
from nixfleet.model.views import DeviceView
from nixfleet.preview.words import changes_lines
from nixfleet.query import FIELDS, QueryError, parse, status_of
from nixfleet.trust.words import tag_words

T = TypeVar("T")

FOLLOW_EVERY_S: Final = 0.5
FOLLOW_TRIES: Final = 240
"""How often in a row a coordinator may be away while its lines are followed: two minutes."""

QUERY_FIELDS: Final = f"{', '.join(FIELDS)}, tag.KEY"


@click.group(cls=Group)
def device() -> None:
    """List devices, look at one, tag, hold, retire or re-key it."""


@device.command(
    "list",
    epilog=f"QUERY's fields: {QUERY_FIELDS}. A word alone looks in names and tags. A query that begins with '-' needs"
    " '--' before it.",
)
@click.argument("query", nargs=-1)
@command
async def list_devices(given: Globals, query: tuple[str, ...]) -> None:
    """List the devices that QUERY matches, for example 'status:failed tag.site:berlin'; all without one."""
    wanted = " ".join(query)
    check_query(wanted)
    async with connected(given) as fleet:
        devices = sorted(await fleet.client.devices(wanted), key=lambda device: device.name)
        time = await fleet_time(fleet.client)
    if given.json:
        output.as_json({"devices": devices})
        return
    output.table(
        ("NAME", "STATE", "SYSTEM", "SEEN", "TAGS", "WHY"),
        [
            (
                device.name,
                status_of(device),
                output.system_name(device.system),
                "online" if device.online else output.age(device.seen_at, time),
                tag_words(device.tags),
                _why(device),
            )
            for device in devices
        ],
        "no device matches" if wanted else "no device yet; 'nixfleet enroll token --tag KEY=VALUE' lets some join",
    )


def check_query(text: str) -> None:
    """Read a query as the coordinator will. Raises: UserError that names the word at fault, and the fields."""
    try:
        parse(text)
    except QueryError as error:
        start = text.rfind(" ", 0, error.position + 1) + 1
        word = text[start : max(error.position + error.length, start)].strip()
        fields = f"; the fields are {QUERY_FIELDS}" if error.plain.startswith("no field") else ""
        raise UserError(f"{error.plain}, in {word[:80]!r}{fields}") from error


def _why(device: DeviceView) -> str:
    """Say why a device is in its state; of one that is well, what it once waited for is no reason."""
    return "" if status_of(device) == "ok" else device.reason or device.waits


async def _known(name: str, ask: Callable[[str], Awaitable[T]]) -> T:
    """Ask for what the coordinator knows of a device. Raises: UserError with the way on when there is none."""
    hint = "'nixfleet device list' shows them all"
    if not re.fullmatch(f"{NAME}|{HEX32}", name):
        raise UserError(f"there is no device {name[:80]!r}; {hint}")
    try:
        return await ask(name)
    except UserError as error:
        raise UserError(f"{error}; {hint}") from error


@device.command("show")
@click.argument("name")
@command
async def show(given: Globals, name: str) -> None:
    """Show one device: what it runs, what it should run, and what it says of itself."""
    async with connected(given) as fleet:
        view = await _known(name, fleet.client.device)
        changes, notes = await change_of(given, fleet, view)
        time = await fleet_time(fleet.client)
    if given.json:
        output.as_json(device_json(view, changes, notes))
        return
    output.fields(
        [
            ("name", view.name),
            ("id", view.id),
            ("key", view.key),
            ("tags", tag_words(view.tags) or "none"),
            ("state", status_of(view)),
            *([("paused", _pause(view))] if view.paused_until is not None else []),
            ("link", "online" if view.online else f"offline, seen {output.age(view.seen_at, time)}"),
            ("system", view.system or "unknown"),
            ("intended", view.intended or "nothing yet"),
            ("release", view.release or "none"),
            ("reason", _why(view) or "none"),
            ("log", f"{view.log_state or 'unknown'}, at {view.log_size} entries"),
        ]
    )
    if view.facts is not None:
        facts = view.facts
        output.fields(
            [
                ("NixOS", facts.nixos_version),
                ("kernel", facts.kernel),
                (
                    "hardware",
                    f"{facts.model or facts.architecture}, {facts.cpus} CPUs, {output.size(facts.memory_bytes)}",
                ),
                ("store", f"{output.size(facts.store_free_bytes)} free of {output.size(facts.store_bytes)}"),
                ("agent", f"{facts.agent_version}, Nix {facts.nix_version}"),
            ]
        )
    if changes:
        click.echo("what would change:")
        say([line for line in changes_lines(changes, notes) if line.count is None or line.tone != "strong"])
    for line in view.lines:
        click.echo(f"  {clean(line)}")


def _pause(view: DeviceView) -> str:
    """Say until when root has paused updates on the device itself, and why."""
    why = f": {clean(view.pause_reason)}" if view.pause_reason else ""
    return f"by root on the device until {utc(view.paused_until or 0)}{why}"


@device.command("logs")
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until Ctrl-C; with --json, a string a line.")
@command
async def logs(given: Globals, name: str, follow: bool) -> None:
    """Show the output of a device's activations, as far as the coordinator keeps it; the newest comes last."""
    async with connected(given) as fleet:
        answer = await _known(name, fleet.client.device_lines)
        if given.json and not follow:
            output.as_json(answer)
            return
        try:
            while True:
                for line in answer.lines:
                    click.echo(dumps(line) if given.json else clean(line))
                if not follow:
                    return
                await asyncio.sleep(FOLLOW_EVERY_S)
                answer = await _further(fleet, name, answer.next)
        except asyncio.CancelledError:
            return  # Ctrl-C is how one stops to follow


async def _further(fleet: Fleet, name: str, after: int) -> Lines:
    """Read the lines after a number; a coordinator that is away for a while, or was started anew, is waited for."""
    for left in reversed(range(FOLLOW_TRIES)):
        try:
            answer = await fleet.client.device_lines(name, after)
        except Unreachable:
            if not left:
                raise
            await asyncio.sleep(FOLLOW_EVERY_S)
        else:
            return answer if answer.next >= after else await fleet.client.device_lines(name)
    raise AssertionError("the last try returns or raises")


@device.command("history")
@click.argument("name")
@command
async def history(given: Globals, name: str) -> None:
    """List the updates that a device has tried."""
    async with connected(given) as fleet:
        attempts = await _known(name, fleet.client.device_history)
        time = await fleet_time(fleet.client)
    if given.json:
        output.as_json({"attempts": attempts})
        return
    output.table(
        ("WHEN", "OUTCOME", "RELEASE", "SYSTEM", "REASON"),
        [
            (
                output.age(attempt.at, time),
                str(attempt.outcome or "under way"),
                attempt.release,
                output.system_name(attempt.path),
                attempt.reason,
            )
            for attempt in attempts
        ],
        "nothing yet",
    )


@device.command("tag")
@click.argument("words", nargs=-1, required=True, metavar="NAME… KEY=VALUE|KEY-…")
@command
async def tag(given: Globals, words: tuple[str, ...]) -> None:
    """Set tags (KEY=VALUE) and take tags away (KEY-), of one device or of many with one signature."""
    gone = [text for text in words if text.endswith("-") and "=" not in text]
    named = list(dict.fromkeys(text for text in words if text not in gone and "=" not in text))
    changes: dict[str, str | None] = dict(parse_tags(text for text in words if "=" in text))
    changes |= dict.fromkeys(text.removesuffix("-") for text in gone)
    if not named or not changes:
        raise UserError("say NAME, and KEY=VALUE to set a tag or KEY- to take one away")
    async with connected(given, catch_up=True) as fleet:
        found = [find_device(fleet.state, name) for name in named]
        tags = [fleet.state.devices[one].statement.tags for one in found]
        if all(held.get(key) == value for held in tags for key, value in changes.items()):
            who = f"{named[0]} already has" if len(named) == 1 else "they already have"
            raise UserError(f"nothing is signed: {who} these tags, and none of those to take away")
        acted = await fleet.admin.tag(found, changes, note=given.note)
        statements = [fleet.state.devices[one].statement for one in found]
    if len(found) > 1:
        _done_many(given, acted, named, f"{counted(len(found), 'device')} tagged")
        return
    # As they were signed: what waits for signatures is not in the log's state yet.
    signed = {key: value for key, value in {**statements[0].tags, **changes}.items() if value is not None}
    told = tag_words(signed) or "no tags"
    value: dict[str, object] = {"name": statements[0].name, "tags": signed}
    _done(given, acted[0], value, f"{statements[0].name} now has {told}")


def _done_many(given: Globals, acted: Sequence[Acted], names: Sequence[str], text: str) -> None:
    """Tell that an act on many devices is in the log, and what it still waits for."""
    listed = [{"name": name, "index": one.index, "waits": one.waits} for name, one in zip(names, acted, strict=True)]
    output.done({"devices": listed}, f"{text}{awaited(acted)}", json=given.json, quiet=given.quiet)


def _done(given: Globals, acted: Acted, value: Mapping[str, object], text: str) -> None:
    """Tell that an act on a device is in the log, and what it still waits for."""
    output.done(
        {**value, "index": acted.index, "waits": acted.waits},
        f"{text}{awaited([acted])}",
        json=given.json,
        quiet=given.quiet,
    )


@device.command("hold")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option("--until", metavar="DATE", help="A date and time, for example 2027-01-31T18:00.")
@click.option("--end", is_flag=True, help="End the hold: it takes updates again.")
@command
async def hold(given: Globals, names: tuple[str, ...], until: str | None, end: bool) -> None:
    """Let devices take no updates until a date (local time unless it names an offset)."""
    if end == (until is not None):
        raise UserError("say --until DATE to hold it, or --end to end the hold")
    until_s = parse_date(until) if until is not None else None
    named = list(dict.fromkeys(names))
    async with connected(given, catch_up=True) as fleet:
        found = [find_device(fleet.state, name) for name in named]
        if until_s is not None:
            acted = await fleet.admin.hold(found, until_s, note=given.note)
        else:
            for name, one in zip(named, found, strict=True):
                if fleet.state.devices[one].statement.state != "held":
                    raise UserError(f"nothing is signed: {name} is not held")
            acted = await fleet.admin.unhold(found, note=given.note)
    what = "takes updates again" if until_s is None else f"takes no updates until {utc(until_s)}"
    if len(named) > 1:
        _done_many(given, acted, named, f"{counted(len(named), 'device')}: each {what}")
    else:
        _done(given, acted[0], {"name": named[0], "held_until": until_s}, f"{named[0]} {what}")


@device.command("retire")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@command
async def retire(given: Globals, names: tuple[str, ...]) -> None:
    """Take devices out of the fleet, for good: to come back they must be enrolled again."""
    named = list(dict.fromkeys(names))
    async with connected(given, catch_up=True) as fleet:
        found = [find_device(fleet.state, name) for name in named]
        called = [fleet.state.devices[one].statement.name for one in found]
        confirm(
            given, f"Retire {', '.join(called[:8])}{f' and {len(called) - 8} more' if called[8:] else ''} for good?"
        )
        acted = await fleet.admin.retire(found, note=given.note)
    if len(named) > 1:
        _done_many(given, acted, named, f"{counted(len(named), 'device')} retired")
    else:
        _done(given, acted[0], {"name": named[0], "device": found[0]}, f"{named[0]} is retired")


@device.command("rekey")
@click.argument("name")
@click.option(
    "--key", "text", required=True, metavar="KEY", help="The new public key, as in a .pub file; or that file."
)
@command_without_key
async def rekey_device(given: Globals, name: str, text: str) -> None:
    """Give a device another key; the old one is worth nothing from then on.

    A device that has its old key does it itself: 'nixfleet agent rekey'. One that asks with a new key is let in by
    'nixfleet enroll NAME'.
    """
    if text.startswith("SHA256:"):
        raise UserError("a fingerprint is not enough: give the public key itself, or its file")
    public = read_key(text)
    async with connected(given, catch_up=True) as fleet:
        found = find_device(fleet.state, name)
        old = fleet.state.devices[found]
        fingerprint = public.fingerprint
        confirm(given, f"Give {old.statement.name} the key {fingerprint} in place of {old.key}?")
        acted = await rekey(fleet.admin, found, public.text, note=given.note)
    _done(
        given,
        acted,
        {"name": old.statement.name, "device": found, "key": fingerprint},
        f"{old.statement.name} has the key {fingerprint}",
    )
