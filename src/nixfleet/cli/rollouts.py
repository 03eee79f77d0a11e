"""``nixfleet rollout``: start a release's way to devices, watch it, and steer it by signed acts."""

import sys

import click

from nixfleet.cli import output
from nixfleet.cli.options import Globals, command, confirm
from nixfleet.cli.plan import Plan, plan_options, preview, wishes
from nixfleet.cli.session import Fleet, connected, now
from nixfleet.cli.watching import follow
from nixfleet.cli.words import duration
from nixfleet.client.watch import Wait
from nixfleet.errors import UserError
from nixfleet.model.ids import Selector, matches
from nixfleet.model.statements import Verb
from nixfleet.model.views import MemberView, ReleaseView, RolloutDetail, RolloutView


@click.group()
def rollout() -> None:
    """Bring releases to devices in waves, watch, and steer."""


@rollout.command("start")
@click.argument("release")
@click.option("--dry-run", is_flag=True, help="Show what it would do, and sign nothing.")
@click.option("--watch/--no-watch", default=False, help="Stay until every online device has an outcome.")
@click.option("--wait", type=click.Choice(["online", "all"]), default="online", help="Whom to watch for.")
@plan_options
@command
async def start(given: Globals, release: str, dry_run: bool, watch: bool, wait: Wait, plan: Plan) -> int | None:
    """Start bringing RELEASE (a name or digest) to its devices."""
    if plan.names:
        raise UserError("a rollout selects by tag; for single devices use 'nixfleet deploy --on NAME'")
    async with connected(given) as fleet:
        view = await fleet.client.release(release)
        targets = await _targets(fleet, view, plan)
        if not targets:
            raise UserError(f"no device with these tags has a line in release {view.name}")
        asked = sys.stdin.isatty() and not given.yes
        if dry_run or asked:
            await preview(fleet, targets, plan)
        if dry_run:
            return None
        if asked:
            confirm(
                given, f"Start the rollout of {view.name} to {len(targets)} device{'s' if len(targets) > 1 else ''}?"
            )
        digest = (await fleet.admin.rollout(view.id, wishes(plan), note=given.note)).digest
        if watch:
            return await follow(given, fleet, digest, wait=wait)
    if given.json:
        output.as_json({"rollout": digest})
    else:
        click.echo(digest)
    return None


async def _targets(fleet: Fleet, release: ReleaseView, plan: Plan) -> dict[str, str]:
    """Give the system of each device in the rollout's set, by name."""
    tags = {view.id: view.tags for view in await fleet.client.devices() if view.state != "retired"}
    select: Selector = {tag: (value,) for tag, value in plan.tags.items()}
    return {
        line.name: line.path for line in release.lines if line.device in tags and matches(select, tags[line.device])
    }


@rollout.command("list")
@command
async def list_rollouts(given: Globals) -> None:
    """List the rollouts, newest first."""
    async with connected(given) as fleet:
        rollouts = sorted(await fleet.client.rollouts(), key=lambda rollout: -rollout.index)
    if given.json:
        output.as_json({"rollouts": rollouts})
        return
    time = now()
    output.table(
        ("ROLLOUT", "RELEASE", "STATE", "DONE", "FAILED", "BY", "WHEN", "WAITS"),
        [
            (
                view.id[:12],
                view.release_name,
                view.state,
                f"{view.confirmed}/{view.total}",
                str(view.failed),
                view.principal or view.by,
                output.age(view.at, time),
                view.halted or view.waits,
            )
            for view in rollouts
        ],
        "no rollout yet; 'nixfleet deploy' makes one",
    )


@rollout.command("show")
@click.argument("rollout_id", metavar="ROLLOUT")
@command
async def show(given: Globals, rollout_id: str) -> None:
    """Show one rollout: its waves, and each device's place in it."""
    async with connected(given) as fleet:
        detail = await fleet.client.rollout(rollout_id)
    if given.json:
        output.as_json(detail)
        return
    head(detail.rollout)
    output.table(
        ("WAVE", "MEMBERS", "STATE", "DONE", "FAILED", "WAITS"),
        [
            (
                str(wave.number),
                wave.members,
                wave.state,
                f"{wave.confirmed}/{wave.total}",
                str(wave.failed),
                wave.waits,
            )
            for wave in detail.rollout.waves
        ],
        "no waves",
    )
    members(detail)


def head(view: RolloutView) -> None:
    """Write what a rollout is."""
    output.fields(
        [
            ("rollout", view.id),
            ("release", f"{view.release_name} ({view.release[:12]})"),
            ("by", f"{view.principal or view.by}{f': {view.note}' if view.note else ''}"),
            ("state", view.halted or view.waits or view.state),
            (
                "limits",
                f"{view.max_in_flight} in flight, soak {duration(view.soak_s)}, at most "
                + duration(view.device_timeout_s),
            ),
        ]
    )


def members(detail: RolloutDetail) -> None:
    """Write each member's line."""
    output.table(
        ("DEVICE", "WAVE", "STATE", "WHY"),
        [(member.name, str(member.wave), word(member), member.reason or member.waits) for member in detail.members],
        "no device is in its set",
    )


def word(member: MemberView) -> str:
    """Give a member's state in a word or two."""
    if member.outcome is not None:
        return member.outcome.value
    if member.overdue:
        return "overdue"
    return member.phase.value if member.online else f"{member.phase.value}, offline"


@rollout.command("explain")
@click.argument("rollout_id", metavar="ROLLOUT")
@click.argument("device", required=False)
@command
async def explain(given: Globals, rollout_id: str, device: str | None) -> None:
    """Say in a sentence each what a rollout, or one DEVICE in it, waits for."""
    async with connected(given) as fleet:
        detail = await fleet.client.rollout(rollout_id)
    chosen = [member for member in detail.members if device in {None, member.name, member.device}]
    if device is not None and not chosen:
        click.echo(f"{device} is not in this rollout's set", err=True)
    if given.json:
        output.as_json(
            {
                "rollout": detail.rollout.waits or detail.rollout.halted or detail.rollout.state,
                "devices": {member.name: member.waits or member.reason or word(member) for member in chosen},
            }
        )
        return
    if device is None:
        click.echo(detail.rollout.halted or detail.rollout.waits or f"the rollout is {detail.rollout.state}")
        for wave in detail.rollout.waves:
            if wave.waits:
                click.echo(wave.waits)
    for member in chosen:
        click.echo(f"{member.name}: {output.clean(member.waits or member.reason or word(member))}")


@rollout.command("watch")
@click.argument("rollout_id", metavar="ROLLOUT")
@click.option("--wait", type=click.Choice(["online", "all"]), default="online", help="Whom to watch for.")
@command
async def watch(given: Globals, rollout_id: str, wait: Wait) -> int:
    """Watch a rollout until every online device has an outcome; Ctrl-C detaches and cancels nothing."""
    async with connected(given) as fleet:
        detail = await fleet.client.rollout(rollout_id)
        return await follow(given, fleet, detail.rollout.id, wait=wait)


def _control(verb: Verb, told: str, asks: bool) -> click.Command:
    @click.argument("rollout_id", metavar="ROLLOUT")
    @command
    async def act(given: Globals, rollout_id: str) -> None:
        async with connected(given) as fleet:
            view = (await fleet.client.rollout(rollout_id)).rollout
            if asks:
                confirm(given, f"{verb.capitalize()} the rollout of {view.release_name} ({view.id[:12]})?")
            await fleet.admin.control(view.id, verb, note=given.note)
        if not given.quiet:
            click.echo(f"the rollout of {view.release_name} ({view.id[:12]}) is {told}", err=True)

    act.__doc__ = f"{verb.capitalize()} a rollout, by a signed act."
    return click.command(verb, help=act.__doc__)(act)


rollout.add_command(_control("pause", "paused", asks=False))
rollout.add_command(_control("resume", "resumed", asks=False))
rollout.add_command(_control("cancel", "cancelled", asks=True))


@rollout.command("retry")
@click.argument("rollout_id", metavar="ROLLOUT")
@click.argument("devices", nargs=-1)
@command
async def retry(given: Globals, rollout_id: str, devices: tuple[str, ...]) -> None:
    """Let failed devices, or the named DEVICES, try again."""
    async with connected(given) as fleet:
        detail = await fleet.client.rollout(rollout_id)
        ids = {member.name: member.device for member in detail.members}
        unknown = [name for name in devices if name not in ids]
        if unknown:
            raise click.UsageError(f"{unknown[0]} is not in this rollout's set")
        await fleet.admin.control(
            detail.rollout.id, "retry", devices=[ids[name] for name in devices] or "failed", note=given.note
        )


@rollout.command("advance")
@click.argument("rollout_id", metavar="ROLLOUT")
@click.argument("wave", type=click.IntRange(1))
@command
async def advance(given: Globals, rollout_id: str, wave: int) -> None:
    """Open a wave whose gate asks for a signature."""
    async with connected(given) as fleet:
        view = (await fleet.client.rollout(rollout_id)).rollout
        await fleet.admin.control(view.id, "advance", wave=wave, note=given.note)
