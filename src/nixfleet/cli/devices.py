"""``nixfleet device``: the fleet's devices, what they run and say, and the signed acts on their membership."""

import asyncio
from datetime import UTC, datetime

import click

from nixfleet.cli import output
from nixfleet.cli.options import Globals, command, confirm
from nixfleet.cli.session import connected, now
from nixfleet.cli.words import parse_tags
from nixfleet.errors import UserError
from nixfleet.model.views import DeviceView


@click.group()
def device() -> None:
    """List devices, look at one, tag, hold or retire it."""


@device.command("list")
@click.argument("query", nargs=-1)
@command
async def list_devices(given: Globals, query: tuple[str, ...]) -> None:
    """List the devices that QUERY matches, for example 'status:failed tag.site:berlin'; all without one."""
    async with connected(given) as fleet:
        devices = sorted(await fleet.client.devices(" ".join(query)), key=lambda device: device.name)
    if given.json:
        output.as_json({"devices": devices})
        return
    time = now()
    output.table(
        ("NAME", "STATE", "SYSTEM", "SEEN", "TAGS", "WHY"),
        [
            (
                device.name,
                state_of(device),
                output.system_name(device.system),
                "online" if device.online else output.age(device.seen_at, time),
                tags_of(device),
                device.reason or device.waits,
            )
            for device in devices
        ],
        "no device matches; 'nixfleet enroll token --tag KEY=VALUE' makes a token to join with",
    )


def state_of(device: DeviceView) -> str:
    """Give a device's state in one word."""
    if device.state != "active":
        return device.state
    if device.outcome is not None:
        return device.outcome.value
    return device.phase.value


def tags_of(device: DeviceView) -> str:
    """Give a device's tags as they are typed."""
    return " ".join(f"{key}={value}" for key, value in sorted(device.tags.items()))


@device.command("show")
@click.argument("name")
@command
async def show(given: Globals, name: str) -> None:
    """Show one device: what it runs, what it should run, and what it says of itself."""
    async with connected(given) as fleet:
        view = await fleet.client.device(name)
    if given.json:
        output.as_json(view)
        return
    time = now()
    output.fields(
        [
            ("name", view.name),
            ("id", view.id),
            ("key", view.key),
            ("tags", tags_of(view) or "none"),
            ("state", state_of(view)),
            ("link", "online" if view.online else f"offline, seen {output.age(view.seen_at, time)}"),
            ("system", view.system or "unknown"),
            ("intended", view.intended or "nothing yet"),
            ("release", view.release or "none"),
            ("reason", view.reason or view.waits or "none"),
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
    for line in view.lines:
        click.echo(f"  {output.clean(line)}")


@device.command("logs")
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until interrupted.")
@command
async def logs(given: Globals, name: str, follow: bool) -> None:
    """Show the output of a device's latest activation."""
    async with connected(given) as fleet:
        after = 0
        while True:
            answer = await fleet.client.device_lines(name, after)
            after = answer.next
            if given.json:
                output.as_json(answer)
            else:
                for line in answer.lines:
                    click.echo(output.clean(line))
            if not follow:
                return
            await asyncio.sleep(0.5)


@device.command("history")
@click.argument("name")
@command
async def history(given: Globals, name: str) -> None:
    """List the updates that a device has tried."""
    async with connected(given) as fleet:
        attempts = await fleet.client.device_history(name)
    if given.json:
        output.as_json({"attempts": attempts})
        return
    time = now()
    output.table(
        ("WHEN", "OUTCOME", "RELEASE", "SYSTEM", "REASON"),
        [
            (
                output.age(attempt.at, time),
                str(attempt.outcome or "under way"),
                attempt.release[:12],
                output.system_name(attempt.path),
                attempt.reason,
            )
            for attempt in attempts
        ],
        "nothing yet",
    )


@device.command("tag")
@click.argument("name")
@click.argument("tags", nargs=-1, required=True, metavar="KEY=VALUE|KEY-…")
@command
async def tag(given: Globals, name: str, tags: tuple[str, ...]) -> None:
    """Set tags (KEY=VALUE) and take tags away (KEY-)."""
    gone = [text for text in tags if text.endswith("-") and "=" not in text]
    changes: dict[str, str | None] = dict(parse_tags(text for text in tags if text not in gone))
    changes |= dict.fromkeys(text.removesuffix("-") for text in gone)
    async with connected(given) as fleet:
        await fleet.admin.tag([name], changes, note=given.note)
        view = await fleet.client.device(name)
    if not given.quiet:
        click.echo(f"{view.name} now has {tags_of(view) or 'no tags'}", err=True)


@device.command("hold")
@click.argument("name")
@click.option("--until", "until", metavar="DATE", required=True, help="A date and time, for example 2027-01-31T18:00.")
@command
async def hold(given: Globals, name: str, until: str) -> None:
    """Let a device take no updates until a date (local time unless it names an offset)."""
    try:
        when = datetime.fromisoformat(until)
    except ValueError as error:
        raise UserError(f"{until!r} is no date; write it like 2027-01-31 or 2027-01-31T18:00") from error
    until_s = int((when if when.tzinfo else when.astimezone()).timestamp())
    async with connected(given) as fleet:
        await fleet.admin.hold([name], until_s, note=given.note)
    if not given.quiet:
        said = datetime.fromtimestamp(until_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
        click.echo(f"{name} takes no updates until {said}", err=True)


@device.command("retire")
@click.argument("name")
@command
async def retire(given: Globals, name: str) -> None:
    """Take a device out of the fleet, for good: to come back it must be enrolled again."""
    async with connected(given) as fleet:
        confirm(given, f"Retire {name} for good?")
        await fleet.admin.retire([name], note=given.note)
    if not given.quiet:
        click.echo(f"{name} is retired", err=True)
