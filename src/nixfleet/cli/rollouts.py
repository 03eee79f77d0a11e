"""``nixfleet rollout``: start a release's way to devices, watch it, and steer it by signed acts."""

import sys
from collections.abc import Sequence
from typing import Final, Literal

import click

from nixfleet.cli import output
from nixfleet.cli.awaiting import awaited
from nixfleet.cli.explaining import explain_rollout
from nixfleet.cli.fallback import check_fallback
from nixfleet.cli.options import Count, Globals, Group, command, confirm
from nixfleet.cli.plan import check_reach
from nixfleet.cli.previews import previewer, show_preview
from nixfleet.cli.rollout_tables import head, listing, members, waves
from nixfleet.cli.session import Fleet, connected, fleet_time
from nixfleet.cli.shaping import Shaped, plan_options
from nixfleet.cli.watching import WAITS, begun, follow
from nixfleet.client.acts import find_device, find_release, find_rollout
from nixfleet.client.checks import check_lines, members_of
from nixfleet.client.previewing import release_targets, rollback_wishes
from nixfleet.client.watch import Wait
from nixfleet.errors import UserError
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Verb
from nixfleet.model.text import counted
from nixfleet.model.views import ReleaseLineView, ReleaseView, RolloutView
from nixfleet.rollout.asking import Order
from nixfleet.trust.replay import State
from nixfleet.trust.replay.state import RolloutState

ENDED: Final = {"finished", "cancelled", "superseded", "expired"}


@click.group(cls=Group)
def rollout() -> None:
    """Bring releases to devices in waves, watch, and steer."""


@rollout.command("start", cls=Shaped)
@click.argument("release")
@click.option("--dry-run", is_flag=True, help="Show what it would do, and sign nothing.")
@click.option("--watch/--no-watch", default=False, help="Stay until every online device has an outcome.")
@click.option("--wait", type=click.Choice(WAITS), default="online", show_default=True, help="Whom to watch for.")
@plan_options
@command
async def start(given: Globals, release: str, dry_run: bool, watch: bool, wait: str, plan: Order) -> int | None:
    """Start bringing RELEASE (a name or digest) to its devices; --on NAME makes a release of just their lines first.

    With --watch the exit code is 6 when it halted, 1 when a device failed; Ctrl-C detaches and cancels nothing.
    """
    async with connected(given, catch_up=True) as fleet:
        # What is started, and what the preview shows, is what the log says, whatever the coordinator answers.
        digest = find_release(fleet.state, release)
        view = await fleet.client.release(digest)
        check_lines(view, fleet.state)
        lines = _chosen(given, fleet, view, plan)
        await check_fallback(fleet, plan, lines)
        asked = sys.stdin.isatty() and not given.yes
        # What is previewed and then signed is one and the same rollout, whose digest draws the waves.
        draft = fleet.admin.draft(plan.wishes, release=digest, note=given.note) if asked and not plan.names else None
        if dry_run or asked:
            targets = release_targets(fleet.state, lines)
            caches = fleet.state.releases[digest].statement.caches
            drawn = None if dry_run else draft
            await show_preview(
                given, previewer(given, fleet).deployment(view.name, targets, plan.wishes, caches, draft=drawn)
            )
        if dry_run:
            return None
        if asked:
            confirm(given, f"Start the rollout of {view.name} to {counted(len(lines), 'device')}?")
        if plan.names:
            digest = await fleet.admin.part(view.name, lines, note=given.note)
        acted = await fleet.admin.rollout(digest, plan.wishes, note=given.note, draft=draft)
        return await begun(given, fleet, acted, release=digest, wait=wait if watch else "none")


def _chosen(given: Globals, fleet: Fleet, release: ReleaseView, plan: Order) -> dict[str, ReleaseLineView]:
    """Give the line of each device that the rollout is for, by device id.

    Raises: UserError when it is for none, Refused when the signer has a right to none.
    """
    lines = members_of(release, fleet.state, plan.wishes.select or {})
    wanted = {find_device(fleet.state, name) for name in plan.names}
    # First: who may not update a device is not shown its line either.
    check_reach(given, fleet, plan, wanted or lines or None, release=None if wanted else release.id)
    for device in sorted(wanted - set(lines)):
        raise UserError(f"release {release.name} has nothing for {fleet.state.devices[device].statement.name}")
    chosen = {device: line for device, line in lines.items() if not wanted or device in wanted}
    if not chosen:
        raise UserError(f"no device with these tags has a line in release {release.name}")
    return chosen


def release_name(state: State, rollout: Digest) -> str:
    """Name the release that a rollout of the log is about; empty where the log does not have it."""
    of = state.rollouts[rollout].names(state.rollouts)
    record = None if of is None else state.releases.get(of)
    return "" if record is None else record.statement.name


@rollout.command("list")
@command
async def list_rollouts(given: Globals) -> None:
    """List the rollouts, newest first."""
    async with connected(given) as fleet:
        rollouts = sorted(await fleet.client.rollouts(), key=lambda rollout: -rollout.index)
        time = await fleet_time(fleet.client)
    if given.json:
        output.as_json({"rollouts": rollouts})
        return
    listing(rollouts, time)


@rollout.command("show")
@click.argument("rollout_id", metavar="ROLLOUT")
@command
async def show(given: Globals, rollout_id: str) -> None:
    """Show one rollout: its waves, and each device's place in it."""
    async with connected(given, catch_up=True) as fleet:
        detail = await fleet.client.rollout(find_rollout(fleet.state, rollout_id))
        time = await fleet_time(fleet.client)
    if given.json:
        output.as_json(detail)
        return
    head(detail.rollout, time)
    waves(detail, time)
    members(detail)


rollout.add_command(explain_rollout)


@rollout.command("watch")
@click.argument("rollout_id", metavar="ROLLOUT")
@click.option("--wait", type=click.Choice(["online", "all"]), default="online", show_default=True, help="Whom for.")
@command
async def watch(given: Globals, rollout_id: str, wait: Wait) -> int:
    """Watch a rollout until every online device has an outcome; Ctrl-C detaches (exit code 130), cancels nothing."""
    async with connected(given, catch_up=True) as fleet:
        return await follow(given, fleet, find_rollout(fleet.state, rollout_id), wait=wait)


async def _act(
    given: Globals,
    rollout_id: str,
    verb: Verb,
    *,
    wave: int | None = None,
    devices: Sequence[str] | None = None,
    asks: bool = False,
) -> None:
    """Sign a control of a rollout that the log has, and say so."""
    async with connected(given, catch_up=True) as fleet:
        digest = find_rollout(fleet.state, rollout_id)
        name = f"{release_name(fleet.state, digest)} ({digest[:12]})"
        view = (await fleet.client.rollout(digest)).rollout
        check_sense(verb, fleet.state.rollouts[digest], view, wave)
        if asks:
            confirm(given, f"{verb.capitalize()} the rollout of {name}?")
        which: Literal["failed"] | Sequence[str] | None = devices
        if verb == "retry":
            which = devices or "failed"
        acted = await fleet.admin.control(digest, verb, wave=wave, devices=which, note=given.note)
    is_stuck = verb == "retry" and view.state == "halted"
    still = f"; it is still halted; 'nixfleet rollout resume {digest[:12]}' lets it start" if is_stuck else ""
    output.done(
        {"rollout": digest, "verb": verb, "index": acted.index, "waits": acted.waits},
        f"{verb} of the rollout of {name} is signed{awaited([acted])}{still}",
        json=given.json,
        quiet=given.quiet,
    )


def check_sense(verb: Verb, logged: RolloutState, view: RolloutView, wave: int | None = None) -> None:
    """Check that a control would change something: what is paused the log says, what halted it does not.

    Raises: UserError.
    """
    short = logged.digest[:12]
    if logged.cancelled:
        raise UserError(f"rollout {short} is cancelled; start another one")
    if verb == "pause" and logged.paused:
        raise UserError(f"rollout {short} is already paused; nothing is signed")
    stands = verb == "resume" and view.state == "finished" and view.stops
    if verb in {"pause", "resume"} and view.state in ENDED and not stands:
        raise UserError(f"rollout {short} is {view.state}, there is nothing to {verb}; nothing is signed")
    if verb == "resume" and not (logged.paused or view.state == "halted" or view.stops):
        raise UserError(f"rollout {short} is neither paused nor halted, but {view.state}; nothing is signed")
    if wave is not None:
        _check_advance(logged, wave)


def _check_advance(logged: RolloutState, wave: int) -> None:
    """Check that a wave waits for an `advance`: other gates open by themselves, and no signature hurries them."""
    short, waves = logged.digest[:12], logged.statement.waves
    if wave > len(waves):
        raise UserError(f"rollout {short} has {counted(len(waves), 'wave')}; nothing is signed")
    if waves[wave - 1].gate != "signed":
        raise UserError(f"wave {wave} of {short} opens by itself, when the one before has soaked; nothing is signed")
    if wave in logged.advanced:
        raise UserError(f"wave {wave} of {short} is advanced already; nothing is signed")


@rollout.command("pause")
@click.argument("rollout_id", metavar="ROLLOUT")
@command
async def pause(given: Globals, rollout_id: str) -> None:
    """Let no further device start; those under way come to their end."""
    await _act(given, rollout_id, "pause")


@rollout.command("resume")
@click.argument("rollout_id", metavar="ROLLOUT")
@command
async def resume(given: Globals, rollout_id: str) -> None:
    """Go on with a paused or halted rollout."""
    await _act(given, rollout_id, "resume")


@rollout.command("cancel")
@click.argument("rollout_id", metavar="ROLLOUT")
@command
async def cancel(given: Globals, rollout_id: str) -> None:
    """End a rollout for good; devices keep what they have."""
    await _act(given, rollout_id, "cancel", asks=True)


@rollout.command("retry")
@click.argument("rollout_id", metavar="ROLLOUT")
@click.argument("devices", nargs=-1)
@command
async def retry(given: Globals, rollout_id: str, devices: tuple[str, ...]) -> None:
    """Let failed devices, or the named DEVICES, try again."""
    await _act(given, rollout_id, "retry", devices=devices)


@rollout.command("advance")
@click.argument("rollout_id", metavar="ROLLOUT")
@click.argument("wave", type=Count(1, 10_000))
@command
async def advance(given: Globals, rollout_id: str, wave: int) -> None:
    """Open wave number WAVE, whose gate asks for a signature."""
    await _act(given, rollout_id, "advance", wave=wave)


@rollout.command("rollback", cls=Shaped)
@click.argument("rollout_id", metavar="ROLLOUT")
@click.option("--dry-run", is_flag=True, help="Show what it would do, and sign nothing.")
@click.option("--watch/--no-watch", default=False, help="Stay until every online device has an outcome.")
@click.option("--wait", type=click.Choice(WAITS), default="online", show_default=True, help="Whom to watch for.")
@plan_options
@command
async def rollback(given: Globals, rollout_id: str, dry_run: bool, watch: bool, wait: str, plan: Order) -> int | None:
    """Bring the devices that confirmed a rollout back to the system they had before; data is not rolled back."""
    if plan.names:
        raise UserError("a rollback selects by tag: --on KEY=VALUE")
    if plan.wishes.prefetch:
        raise UserError("a rollback downloads nothing: what a device goes back to it has kept; leave --prefetch out")
    async with connected(given, catch_up=True) as fleet:
        digest = find_rollout(fleet.state, rollout_id)
        name = f"{release_name(fleet.state, digest)} ({digest[:12]})"
        if not (await fleet.client.rollout(digest)).rollout.confirmed:
            raise UserError(f"no device has confirmed rollout {digest[:12]}; there is nothing to take back")
        wanted = await rollback_wishes(fleet.client, fleet.state, digest, plan.wishes)
        draft = fleet.admin.draft(wanted, of=digest, note=given.note)
        if dry_run or (sys.stdin.isatty() and not given.yes):
            of = release_name(fleet.state, digest)
            await show_preview(given, previewer(given, fleet).rollback(of, digest, draft, drawn=not dry_run))
        if dry_run:
            return None
        confirm(given, f"Take back the rollout of {name}? Data is not rolled back.")
        acted = await fleet.admin.rollback(digest, wanted, note=given.note, draft=draft)
        return await begun(given, fleet, acted, release="", wait=wait if watch else "none")
