"""Start processes other than Nix: the only part of the agent that does.

Nothing here decides what is run; a command never outlives its time, except one that is detached to outlive the agent.
"""

import asyncio
import os
import signal
import subprocess
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from nixfleet.agent.units import Ran
from nixfleet.model.text import clean_lines

OUTPUT_BYTES = 256 << 10
_CHUNK_BYTES = 64 << 10
_REAP_S = 5.0
# The first shell ends at once, so what it starts is nobody's child and never a zombie of ours.
DETACH = '"$@" >/dev/null 2>&1 </dev/null &'


def run_detached(argv: tuple[str, ...], timeout_s: float) -> Ran:
    """Start a command in a session of its own, where no signal to the agent reaches it.

    Without exit code 0 whether it was started is not known: who starts a switch so has to forbid it.
    """
    try:
        done = subprocess.run(
            ("/bin/sh", "-c", DETACH, "detached", *argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Ran(None, ())
    return Ran(done.returncode, ())


def run_tool(argv: tuple[str, ...], timeout_s: float) -> Ran:
    """Run a small command to its end; its output is bounded, and it never outlives its time."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Ran(None, ())
    return Ran(done.returncode, _lines(done.stdout[-OUTPUT_BYTES:]))


async def run_beside(argv: Sequence[str], timeout_s: float) -> Ran:
    """Run a small command beside the event loop, in a process group that is gone when its time is, or it, is over.

    Its last output is kept, bounded, also of one that does not end in time.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError):
        return Ran(None, ())
    assert process.stdout is not None
    kept: deque[bytes] = deque(maxlen=max(1, OUTPUT_BYTES // _CHUNK_BYTES))
    reader = asyncio.create_task(_collect(process.stdout, kept))
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await process.wait()
    finally:
        # One that has ended may have left something that holds its output open, which some Pythons wait for.
        code = process.returncode
        # What it left in the background may hold its output open for ever, and is not to outlive it.
        _kill_group(process.pid)
        await asyncio.wait([reader], timeout=_REAP_S)
        reader.cancel()
        if process.returncode is None:
            await process.wait()
    return Ran(code, _lines(b"".join(kept)[-OUTPUT_BYTES:]))


async def _collect(stream: asyncio.StreamReader, kept: deque[bytes]) -> None:
    while chunk := await stream.read(_CHUNK_BYTES):
        # Small pieces are joined: the bound is one of bytes.
        joined = kept.pop() + chunk if kept and len(kept[-1]) + len(chunk) <= _CHUNK_BYTES else chunk
        kept.append(joined)


def _lines(output: bytes) -> tuple[str, ...]:
    lines = clean_lines(output.decode("utf-8", "replace"))
    return tuple(line.rstrip() for line in lines if line.strip())


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def end_group(pid: int) -> None:
    """Kill a supervisor with all it started in its group."""
    try:
        os.killpg(os.getpgid(pid), signal.SIGKILL)
    except ProcessLookupError:
        return
