"""Is the device healthy? Newly failed units and the checks of its own agent.toml, never of the coordinator.

Starts no process itself: it is handed a way to run a command (`agent.tools`).
"""

import asyncio
import http.client
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import msgspec

from nixfleet.agent.host import Host
from nixfleet.agent.settings import Checks, CommandCheck, HttpCheck, TcpCheck, UnitCheck
from nixfleet.model.text import one_line

UNIT_LINES = 10
UNITS_SHOWN = 8
RETRY_PAUSE_S = 2.0
TOOL_TIMEOUT_S = 20.0


class Ran(msgspec.Struct, frozen=True):
    """How a command ended: exit code (None: not in time, or it could not start) and its output as lines."""

    exit_code: int | None
    lines: tuple[str, ...]


Run = Callable[[Sequence[str], float], Awaitable[Ran]]
"""Runs a command for at most so many seconds."""
AnyCheck = UnitCheck | HttpCheck | TcpCheck | CommandCheck


async def failed_units(host: Host, run: Run) -> tuple[str, ...]:
    """Name the units that are failed now; none where there is no systemd."""
    if not host.has_systemd():
        return ()
    argv = ("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager", "--full")
    ran = await run(argv, TOOL_TIMEOUT_S)
    return tuple(sorted(line.split()[0] for line in ran.lines if line.split()))


async def problems(
    host: Host, checks: Checks, baseline: Sequence[str], run: Run
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Run all checks after a switch; give what is wrong, and the last journal lines of each newly failed unit."""
    await asyncio.sleep(checks.settle_s if host.has_systemd() else 0)
    configured: tuple[AnyCheck, ...] = (*checks.units, *checks.http, *checks.tcp, *checks.command)
    found = [trouble for trouble in await asyncio.gather(*(_patiently(one, run) for one in configured)) if trouble]
    # Only newly failed units count: one that was broken before must not make every update go back.
    new = [unit for unit in await failed_units(host, run) if unit not in baseline][:UNITS_SHOWN]
    lines: list[str] = []
    for unit in new:
        argv = ("journalctl", "--unit", unit, "--lines", str(UNIT_LINES), "--output", "cat", "--no-pager")
        lines += [f"{unit}: {line}" for line in (await run(argv, TOOL_TIMEOUT_S)).lines[-UNIT_LINES:]]
    return (*(f"{unit} failed" for unit in new), *found), tuple(lines)


def most_s(checks: Checks) -> float:
    """Say how long all checks can take at most: they run side by side."""
    configured: tuple[AnyCheck, ...] = (*checks.units, *checks.http, *checks.tcp, *checks.command)
    tries = [one.start_delay_s + (one.retries + 1) * one.timeout_s + one.retries * RETRY_PAUSE_S for one in configured]
    return checks.settle_s + max(tries, default=0) + (UNITS_SHOWN + 1) * TOOL_TIMEOUT_S


def answers(url: str, timeout_s: float) -> int | None:
    """Give the HTTP status of a GET, or None when nobody answers; blocking, for a thread."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
        try:
            connection.request("GET", f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}")
            return connection.getresponse().status
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return None


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
            status = await asyncio.to_thread(answers, check.url, check.timeout_s)
            wanted = status is not None and (status == check.status if check.status else status < 400)
            return "" if wanted else f"{check.url} answers {status or 'nothing'}"
        case TcpCheck():
            return await _connect(check)
        case CommandCheck():
            ran = await run(check.argv, check.timeout_s)
            end = "did not end in time" if ran.exit_code is None else f"ended with {ran.exit_code}"
            last = f": {one_line(ran.lines[-1], 120)}" if ran.lines else ""
            return "" if ran.exit_code == 0 else f"{check.argv[0]} {end}{last}"


async def _connect(check: TcpCheck) -> str:
    try:
        async with asyncio.timeout(check.timeout_s):
            _, writer = await asyncio.open_connection(check.host, check.port)
    except (OSError, TimeoutError):
        return f"{check.host}:{check.port} does not accept connections"
    writer.close()
    return ""
