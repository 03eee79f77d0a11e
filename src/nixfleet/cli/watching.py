"""Watching a rollout to its end: an honest summary as it moves, and the exit code of product.md."""

import asyncio
from contextlib import aclosing

import click

from nixfleet.cli import output
from nixfleet.cli.options import Globals
from nixfleet.cli.session import Fleet
from nixfleet.client.watch import Wait, ending, watch
from nixfleet.errors import Unreachable
from nixfleet.model.device import Outcome
from nixfleet.model.views import RolloutDetail


async def follow(given: Globals, fleet: Fleet, rollout: str, *, wait: Wait) -> int:
    """Show a rollout until its members have outcomes (offline ones only count with ``all``); give the exit code."""
    meter = output.Meter("rollout", quiet=given.quiet)
    shown: set[tuple[str, str]] = set()
    detail: RolloutDetail | None = None
    try:
        async with (
            asyncio.timeout(given.timeout_s),
            aclosing(watch(fleet.client, rollout, wait=wait, every_s=0.25)) as views,
        ):
            async for detail in views:
                _news(given, meter, detail, shown)
    except TimeoutError as error:
        raise Unreachable(f"no end in {given.timeout_s} s; 'nixfleet rollout watch {rollout[:12]}' goes on") from error
    except asyncio.CancelledError:
        click.echo(f"\ndetached; 'nixfleet rollout watch {rollout[:12]}' comes back", err=True)
        raise
    assert detail is not None
    end = ending(detail, wait)
    view = detail.rollout
    meter.end(view.halted or f"{view.confirmed} of {view.total} confirmed, {view.failed} failed")
    for member in detail.members:
        if member.outcome not in {None, Outcome.CONFIRMED}:
            click.echo(f"{member.name}: {member.outcome.value}: {output.clean(member.reason)}", err=True)
        elif member.outcome is None and not member.online:
            click.echo(f"{member.name}: offline, not updated yet", err=True)
    if given.json:
        output.as_json(detail)
    return end.value if end is not None else Unreachable.exit_code


def _news(given: Globals, meter: output.Meter, detail: RolloutDetail, shown: set[tuple[str, str]]) -> None:
    """Say each device's outcome once, and where the others stand."""
    view = detail.rollout
    for member in detail.members:
        if member.outcome is not None and (member.device, member.outcome.value) not in shown:
            shown.add((member.device, member.outcome.value))
            if not given.quiet:
                meter.interrupt(f"{member.name}: {member.outcome.value}")
    moving = [member for member in detail.members if member.outcome is None and member.transfer is not None]
    done = sum(member.transfer.done_bytes for member in moving if member.transfer)
    total = sum(member.transfer.total_bytes for member in moving if member.transfer)
    fetched = f", {output.size(done)} of {output.size(total)}" if total else ""
    phases = sorted({member.phase.value for member in detail.members if member.outcome is None})
    meter.show(f"{view.confirmed} of {view.total} confirmed{fetched}{': ' + ', '.join(phases) if phases else ''}")
