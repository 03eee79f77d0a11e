"""Watching a rollout to its end: an honest summary as it moves, and the exit code of product.md.

Leaving changes nothing: a rollout is the coordinator's and the devices' matter.
"""

import asyncio
from contextlib import aclosing
from typing import Final

import click

from nixfleet.cli import output
from nixfleet.cli.options import Globals
from nixfleet.cli.rollout_tables import about, waits_now
from nixfleet.cli.session import Fleet, now
from nixfleet.client.admin import Acted
from nixfleet.client.watch import Ending, Wait, ending, unreached, watch
from nixfleet.errors import Unreachable
from nixfleet.model.device import Outcome, Phase
from nixfleet.model.text import clean
from nixfleet.model.views import RolloutDetail, RolloutView
from nixfleet.trust.access import access_view

WAITS: Final = ("online", "all", "none")
EVERY_S: Final = 0.25
LEFT: Final = 130
"""Exit code of a watch that was left with Ctrl-C: 128 and the number of SIGINT, as shells have it."""


async def begun(given: Globals, fleet: Fleet, acted: Acted, *, release: str, wait: str) -> int | None:
    """Tell that a rollout is signed, and watch it unless it waits for others' signatures or nobody wants to wait."""
    rollout = acted.digest
    held = [one for one in access_view(fleet.state, now()).pending if one.digest in {release, rollout}]
    if held:
        ids = " ".join(one.digest[:12] for one in held)
        click.echo(f"the rollout is signed, and waits: {held[0].waits}; they run: nixfleet approve {ids}", err=True)
    if wait != "none" and not held:
        return await follow(given, fleet, rollout, wait="all" if wait == "all" else "online")
    if given.json:
        output.as_json({"release": release, "rollout": rollout, "waits": held[0].waits if held else ""})
    else:
        click.echo(rollout)
    return None


async def follow(given: Globals, fleet: Fleet, rollout: str, *, wait: Wait) -> int:
    """Show a rollout until its members have outcomes (offline ones only count with ``all``); give the exit code.

    Ctrl-C ends the watching alone, with exit code 130: a script must not take it for done.
    Raises: Unreachable after ``--timeout``.
    """
    meter = output.Meter("rollout", quiet=given.quiet)
    shown: set[tuple[str, str]] = set()
    detail: RolloutDetail | None = None
    back = f"'nixfleet rollout watch {rollout[:12]}'"
    try:
        async with (
            asyncio.timeout(given.timeout_s),
            aclosing(watch(fleet.client, rollout, wait=wait, every_s=EVERY_S)) as views,
        ):
            async for detail in views:
                _news(given, meter, detail, shown)
    except TimeoutError as error:
        raise Unreachable(f"no end in {given.timeout_s} s; the rollout goes on: {back} comes back to it") from error
    except asyncio.CancelledError:
        # Ctrl-C arrives as the cancellation of the only task there is (asyncio.Runner); nothing is left to stop.
        meter.interrupt(f"detached, the rollout goes on: {back} comes back to it")
        return LEFT
    assert detail is not None
    end = ending(detail, wait)
    assert end is not None, "a watch ends at an ending"
    _sum_up(meter, detail)
    if end is Ending.HALTED and not given.quiet:
        _ways_on(rollout[:12], detail.rollout)
    if given.json:
        output.as_json(detail)
    return end.value


def _sum_up(meter: output.Meter, detail: RolloutDetail) -> None:
    """Say what it came to, why each device failed, and whom it has not reached."""
    view = detail.rollout
    meter.end(view.halted or f"{view.confirmed} of {view.total} confirmed, {view.failed} failed")
    for member in detail.members:
        if member.outcome not in {None, Outcome.CONFIRMED}:
            click.echo(clean(f"{member.name}: {member.outcome.value}: {member.reason}"), err=True)
    for member in unreached(detail):
        state = "overdue" if member.overdue else "not updated yet" if member.online else "offline, not updated yet"
        click.echo(clean(f"{member.name}: {state}"), err=True)


def _ways_on(rollout: str, view: RolloutView) -> None:
    """Say what can be done about a halted rollout."""
    click.echo(f"to try again: 'nixfleet rollout retry {rollout}', then 'nixfleet rollout resume {rollout}'", err=True)
    if view.confirmed:
        click.echo(f"to take it back: 'nixfleet rollout rollback {rollout}'", err=True)


def _news(given: Globals, meter: output.Meter, detail: RolloutDetail, shown: set[tuple[str, str]]) -> None:
    """Say each device's outcome once, and where the others stand."""
    view = detail.rollout
    for member in detail.members:
        if member.outcome is not None and (member.device, member.outcome.value) not in shown:
            shown.add((member.device, member.outcome.value))
            if not given.quiet:
                meter.interrupt(clean(f"{member.name}: {member.outcome.value}"))
    for stop in view.stops:
        if (stop.kind, stop.path) not in shown:
            shown.add((stop.kind, stop.path))
            if not given.quiet:
                meter.interrupt(clean(f"the rollout {stop.said}"))
    meter.show(where_it_stands(detail))


def where_it_stands(detail: RolloutDetail) -> str:
    """Sum a rollout under way up: counts, bytes, time left, and what devices do, or what it waits for if none does."""
    view = detail.rollout
    moving = [member for member in detail.members if member.outcome is None and member.transfer is not None]
    done = sum(member.transfer.done_bytes for member in moving if member.transfer)
    total = sum(member.transfer.total_bytes for member in moving if member.transfer)
    fetched = f", {output.size(done)} of {output.size(total)}" if total else ""
    left = {member.phase for member in detail.members if member.outcome is None}
    phases = ", ".join(sorted(phase.value for phase in left - {Phase.IDLE}))
    idle = waits_now(view) or Phase.IDLE.value if left else ""
    where = view.waits if view.state != "running" and view.waits else phases or idle
    ends = f", about {about(view.eta_s)} left" if view.eta_s else ""
    return clean(f"{view.confirmed} of {view.total} confirmed{fetched}{ends}{f': {where}' if where else ''}")
