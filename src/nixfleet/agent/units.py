"""What systemd tells of this machine's units, and putting right after going back what a failed update left.

Starts no process itself: it is handed a way to run a command (`agent.tools`). It must never take an answer that did
not come for "nothing failed", nor an error message for the name of a unit.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from nixfleet.agent.host import Host
from nixfleet.config import write_atomic

NO_ANSWER = "systemd does not tell which units have failed"
TOOL_TIMEOUT_S = 20.0
START_TIMEOUT_S = 60.0
ASK_AGAIN_S = 1.0
"""A service manager that has just been replaced does not answer at once."""
ASK_TRIES = 3
UNITS_SHOWN = 8
UNIT_LINES = 10
UNITS_MOST = 2_000

_UNIT = re.compile(r"[A-Za-z0-9:_.@\\-]{1,255}\.[a-z]{4,9}", re.ASCII)
_KINDS = "service,socket,timer,path"
_NOT_OURS = re.compile(r"(?:nixfleet-|run-|session-|user@|user-runtime-dir@|systemd-fsck)")
"""Transient, a person's, of this very update, or a file system check: nothing that going back has to start."""
_NOTE = "units-before"
_ENDS = {"1": "exited with status", "2": "was killed by signal", "3": "dumped core on signal"}
"""ExecMainCode as systemd shows it: CLD_EXITED, CLD_KILLED, CLD_DUMPED (waitid(2))."""


class Ran(msgspec.Struct, frozen=True):
    """How a command ended: exit code (None: not in time, or it could not start) and its output as lines."""

    exit_code: int | None
    lines: tuple[str, ...]


Run = Callable[[Sequence[str], float], Awaitable[Ran]]
"""Runs a command for at most so many seconds."""


async def failed(host: Host, run: Run) -> tuple[str, ...] | None:
    """Name the units that have failed; none where there is no systemd, None when that does not answer.

    One that systemd starts over and over after failures has failed, too, as switch-to-configuration sees it.
    """
    if not host.has_systemd():
        return ()
    for number in range(ASK_TRIES):
        if number:
            await asyncio.sleep(ASK_AGAIN_S)
        listed = await _list(run, "--state=failed,auto-restart,auto-restart-queued")
        if listed is None:
            continue
        return tuple(sorted([unit for unit, sub in listed.items() if sub == "failed" or await _loops(unit, sub, run)]))
    return None


async def described(units: Sequence[str], run: Run) -> tuple[str, ...]:
    """Give the status and the last journal lines of the first few units, each line with its unit's name."""
    lines: list[str] = []
    for unit in units[:UNITS_SHOWN]:
        argv = ("journalctl", "--unit", unit, "--lines", str(UNIT_LINES), "--output", "cat", "--no-pager")
        said = (await run(argv, TOOL_TIMEOUT_S)).lines[-UNIT_LINES:]
        status = _status(await _show(run, unit))
        lines += [f"{unit}: {line}" for line in (*([status] if status else []), *said)]
    return tuple(lines)


async def note_active(host: Host, folder: Path, run: Run) -> None:
    """Write down what runs before a switch. Raises: OSError. A systemd that does not answer leaves nothing noted."""
    listed = await _list(run, "--state=active", f"--type={_KINDS}") if host.has_systemd() else None
    names = [unit for unit in listed or () if not _NOT_OURS.match(unit)][:UNITS_MOST]
    if names:
        write_atomic(folder / _NOTE, "".join(f"{name}\n" for name in names).encode())
    else:
        forget_active(folder)


def forget_active(folder: Path) -> None:
    """Let go of what was written down."""
    (folder / _NOTE).unlink(missing_ok=True)


async def start_again(host: Host, folder: Path, baseline: Collection[str], run: Run) -> tuple[str, ...]:
    """Start what ran before the failed switch and does not now, its failures forgotten; name what still does not.

    The switch back starts what differs between the systems, and not what failed while the bad one ran (a start limit
    that was hit, a dependency that was away).
    """
    before: list[str] = []
    with suppress(OSError):
        before = [line for line in (folder / _NOTE).read_text().splitlines() if _UNIT.fullmatch(line)]
    if not host.has_systemd():
        return ()
    broken = [unit for unit in await failed(host, run) or () if unit not in baseline]
    active = await _list(run, "--state=active", f"--type={_KINDS}")
    stopped = [unit for unit in before if active is not None and unit not in active and unit not in broken]
    wanted = (*broken, *stopped)[:UNITS_MOST]
    if not wanted:
        return ()
    if broken:
        await run(("systemctl", "reset-failed", "--", *broken), TOOL_TIMEOUT_S)
    await run(("systemctl", "start", "--", *wanted), START_TIMEOUT_S)
    left = await failed(host, run) or ()
    return tuple(unit for unit in wanted if unit in left)


async def _loops(unit: str, sub: str, run: Run) -> bool:
    """Tell whether a unit that waits to be started again does so after a failure."""
    return sub.startswith("auto-restart") and (await _show(run, unit)).get("Result", "success") != "success"


async def _list(run: Run, *options: str) -> dict[str, str] | None:
    """List units with their sub-state (systemctl(1)); None when systemd did not answer."""
    how = ("--plain", "--no-legend", "--no-pager", "--full")
    ran = await run(("systemctl", "list-units", *options, *how), TOOL_TIMEOUT_S)
    if ran.exit_code != 0:
        return None
    rows = [line.split() for line in ran.lines]
    return {row[0]: row[3] for row in rows if len(row) >= 4 and _UNIT.fullmatch(row[0])}


async def _show(run: Run, unit: str) -> Mapping[str, str]:
    """Read a few properties of a unit; what systemd does not tell is left out."""
    wanted = "--property=SubState,Result,ExecMainCode,ExecMainStatus"
    ran = await run(("systemctl", "show", "--no-pager", wanted, "--", unit), TOOL_TIMEOUT_S)
    pairs = (line.partition("=") for line in ran.lines if ran.exit_code == 0)
    return {name: value for name, divider, value in pairs if divider}


def _status(told: Mapping[str, str]) -> str:
    """Say how a unit ended; nothing of one that systemd told nothing of."""
    result = told.get("Result", "")
    if not result:
        return ""
    end = _ENDS.get(told.get("ExecMainCode", ""), "")
    ended = f": its main process {end} {told.get('ExecMainStatus', '')}" if end and result != "success" else ""
    again = ", and starts over and over" if told.get("SubState", "").startswith("auto-restart") else ""
    return f"result {result}{ended}{again}"
