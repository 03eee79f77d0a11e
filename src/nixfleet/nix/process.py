"""Run one Nix process: bounded output, a deadline, and no way to outlive its caller.

Every process leads a group of its own, so that a cancelled task takes the helpers of Nix with it. Standard input is
closed; the locale is fixed because faults are told by text.
"""

import asyncio
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress

import msgspec

from nixfleet.errors import UserError
from nixfleet.model.text import clean
from nixfleet.nix.faults import Fault, FaultKind, NixError, classify

TAIL_LINES = 60
LINE_BYTES = 64 << 10
KEPT_CHARS = 2000
STDOUT_BYTES = 256 << 20
DEFAULT_TIMEOUT_S = 600

_CHUNK_BYTES = 256 << 10
_GRACE_S = 3.0

LineReader = Callable[[str], str | None]
"""Takes a line of a command's errors; gives back what of it to keep for the case of failure."""


class Finished(msgspec.Struct, frozen=True):
    """How a process ended: its exit code (negative: the signal), all of its output, the last lines of its errors."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: bytes
    lines: tuple[str, ...]

    def text(self) -> str:
        """Give the output as text; store paths and hashes are ASCII, anything else is replaced."""
        return self.stdout.decode("utf-8", "replace")

    def error(self) -> NixError:
        """Make the error that this end means."""
        if self.exit_code < 0:
            name = signal.strsignal(-self.exit_code) or str(-self.exit_code)
            fault = Fault(FaultKind.interrupted, f"{self.argv[0]} was ended from outside: {name}")
        else:
            fault = classify(self.lines)
        return NixError(self.argv, self.exit_code, self.lines, fault)

    def checked(self) -> "Finished":
        """Give itself when the process succeeded. Raises: NixError."""
        if self.exit_code != 0:
            raise self.error()
        return self


async def run(
    argv: tuple[str, ...],
    env: Mapping[str, str] | None = None,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    read_line: LineReader = clean,
) -> Finished:
    """Run a command to its end.

    Raises: UserError when the program is not installed, NixError when the deadline passes or the output has no end,
    and whatever `read_line` raises, which ends the command.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    async with started(argv, env) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(timeout_s):
                stdout = await _read(argv, process.stdout, _lines(process.stderr, read_line, tail))
                code = await process.wait()
        except TimeoutError:
            fault = Fault(FaultKind.stalled, f"{argv[0]} did not end within {timeout_s:.0f} s")
            raise NixError(argv, -signal.SIGTERM, tuple(tail), fault) from None
    return Finished(argv, code, stdout, tuple(tail))


@asynccontextmanager
async def started(
    argv: tuple[str, ...], env: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a command in a process group of its own; whatever happens in the block, the group is gone after it."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**(os.environ if env is None else env), "LC_ALL": "C"},
            start_new_session=True,
        )
    except FileNotFoundError:
        raise UserError(f"{argv[0]!r} is not on PATH; install Nix, or add its folder to PATH") from None
    except OSError as error:
        raise UserError(f"{argv[0]!r} cannot be started: {error.strerror}") from None
    try:
        yield process
    finally:
        if process.returncode is None:
            await _end(process)


async def _read(argv: tuple[str, ...], stdout: asyncio.StreamReader, errors: Coroutine[None, None, None]) -> bytes:
    """Read both pipes at once; the first failure of either ends both."""
    readers = asyncio.create_task(_collect(argv, stdout)), asyncio.create_task(errors)
    try:
        collected, _ = await asyncio.gather(*readers)
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
    return collected


async def _collect(argv: tuple[str, ...], stream: asyncio.StreamReader) -> bytes:
    """Read all output. Raises: NixError over the bound."""
    found = bytearray()
    while chunk := await stream.read(_CHUNK_BYTES):
        found += chunk
        if len(found) > STDOUT_BYTES:
            fault = Fault(FaultKind.other, f"{argv[0]} printed more than {STDOUT_BYTES >> 20} MiB")
            raise NixError(argv, -signal.SIGTERM, (), fault)
    return bytes(found)


async def _lines(stream: asyncio.StreamReader, read_line: LineReader, tail: deque[str]) -> None:
    """Hand on line by line and keep what is given back; the part of a line beyond `LINE_BYTES` is dropped."""
    rest = b""
    while chunk := await stream.read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        rest = rest[:LINE_BYTES]
        for line in whole:
            _keep(line[:LINE_BYTES], read_line, tail)
    if rest:
        _keep(rest, read_line, tail)


def _keep(line: bytes, read_line: LineReader, tail: deque[str]) -> None:
    text = read_line(line.decode("utf-8", "replace"))
    if text:
        tail.append(text[:KEPT_CHARS])


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the group: ask, wait a little, kill; then read its pipes empty so that nothing of it stays open."""
    try:
        _signal(process.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await _drained(process)
    finally:
        _signal(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(_GRACE_S):
            await _drained(process)


async def _drained(process: asyncio.subprocess.Process) -> None:
    for stream in (process.stdout, process.stderr):
        while stream is not None and await stream.read(_CHUNK_BYTES):
            pass
    await process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
