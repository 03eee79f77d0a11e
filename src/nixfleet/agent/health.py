"""Is the device healthy? Newly failed units and the checks of its own agent.toml, never of the coordinator.

Starts no process itself: it is handed a way to run a command (`agent.tools`).
"""

import asyncio
from collections.abc import Sequence

import msgspec

from nixfleet.agent import probing, units
from nixfleet.agent.host import Host
from nixfleet.agent.settings import Checks, CommandCheck, HttpCheck, TcpCheck, UnitCheck
from nixfleet.agent.units import NO_ANSWER, TOOL_TIMEOUT_S, UNITS_SHOWN, Run
from nixfleet.model.text import counted, one_line

RETRY_PAUSE_S = 2.0
AnyCheck = UnitCheck | HttpCheck | TcpCheck | CommandCheck


class Finding(msgspec.Struct, frozen=True):
    """What a check came to; no trouble means that it passed."""

    check: str
    trouble: str = ""


async def problems(
    host: Host, checks: Checks, baseline: Sequence[str], run: Run
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Run all checks after a switch; give what is wrong, and the status and last lines of each newly failed unit."""
    await asyncio.sleep(checks.settle_s if host.has_systemd() else 0)
    found = tuple(one.trouble for one in await findings(checks, run) if one.trouble)
    failed = await units.failed(host, run)
    if failed is None:
        return (NO_ANSWER, *found), ()
    # Only newly failed units count: one that was broken before must not make every update go back.
    new = [unit for unit in failed if unit not in baseline]
    more = (f"{counted(len(new) - UNITS_SHOWN, 'more unit')} failed",) if len(new) > UNITS_SHOWN else ()
    return (*(f"{unit} failed" for unit in new[:UNITS_SHOWN]), *more, *found), await units.described(new, run)


async def findings(checks: Checks, run: Run) -> tuple[Finding, ...]:
    """Run the checks of agent.toml, side by side, each as patiently as it says."""
    configured = _all(checks)
    troubles = await asyncio.gather(*(_patiently(one, run) for one in configured))
    return tuple(Finding(_name(one), trouble) for one, trouble in zip(configured, troubles, strict=True))


def most_s(checks: Checks) -> float:
    """Say how long all checks can take at most: they run side by side."""
    tries = [
        one.start_delay_s + (one.retries + 1) * one.timeout_s + one.retries * RETRY_PAUSE_S for one in _all(checks)
    ]
    asked = units.ASK_TRIES * (TOOL_TIMEOUT_S + units.ASK_AGAIN_S) + 2 * UNITS_SHOWN * TOOL_TIMEOUT_S
    return checks.settle_s + max(tries, default=0) + asked


def _all(checks: Checks) -> tuple[AnyCheck, ...]:
    return (*checks.units, *checks.http, *checks.tcp, *checks.command)


def _name(check: AnyCheck) -> str:
    match check:
        case UnitCheck():
            return f"unit {check.unit}"
        case HttpCheck():
            return f"http {check.url}"
        case TcpCheck():
            return f"tcp {check.host}:{check.port}"
        case CommandCheck():
            return f"command {one_line(' '.join(check.argv), 120)}"


async def _patiently(check: AnyCheck, run: Run) -> str:
    """Try a check until it passes or its tries are used up; give its trouble, or nothing."""
    await asyncio.sleep(check.start_delay_s)
    trouble = ""
    for number in range(check.retries + 1):
        if number:
            await asyncio.sleep(RETRY_PAUSE_S)
        trouble = await _once(check, run)
        if not trouble:
            return ""
    return trouble


async def _once(check: AnyCheck, run: Run) -> str:
    match check:
        case UnitCheck():
            ran = await run(("systemctl", "is-active", "--quiet", check.unit), check.timeout_s)
            return "" if ran.exit_code == 0 else f"{check.unit} is not active"
        case HttpCheck():
            status, why = await probing.http_status(check.url, check.timeout_s)
            wanted = status is not None and (status == check.status if check.status else status < 400)
            return "" if wanted else f"{check.url} answers {status or f'nothing: {why}'}"
        case TcpCheck():
            return await probing.tcp_trouble(check.host, check.port, check.timeout_s)
        case CommandCheck():
            ran = await run(check.argv, check.timeout_s)
            end = f"did not end within {check.timeout_s} s" if ran.exit_code is None else f"ended with {ran.exit_code}"
            last = f": {one_line(ran.lines[-1], 120)}" if ran.lines else ""
            return "" if ran.exit_code == 0 else f"{check.argv[0]} {end}{last}"
