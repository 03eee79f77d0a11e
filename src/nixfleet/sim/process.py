"""A made-up fleet in a process of its own, for as long as somebody holds the other end of a pipe.

So the console's screen never waits for a thousand agents, and a fleet whose parent was killed ends by itself: the
kernel closes the pipe. It must never outlive its parent, nor write to the parent's terminal.
"""

import logging
import mmap
import multiprocessing
import os
import shutil
import signal
import struct
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

import msgspec

from nixfleet.errors import NixfleetError, UserError
from nixfleet.sim.clock import Origin
from nixfleet.sim.scenario import Scenario
from nixfleet.trust.sshsig import SecretKey

START_S = 120.0
SHIFT = "clock"
_SHIFT = struct.Struct("=d")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What fleet is to be made."""

    scenario: Scenario
    seed: int
    speed: float
    begun_s: float


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Where a fleet is, and the key to it; secret."""

    folder: str
    address: str
    fleet: str
    key: str
    origin: Origin


class Shift:
    """How far a clock is from what its origin alone says: a number in a file, which other processes read."""

    def __init__(self, path: Path) -> None:
        """Open or make it."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, _SHIFT.size)
            self._map = mmap.mmap(handle, _SHIFT.size)
        finally:
            os.close(handle)

    def write(self, shift_s: float) -> None:
        """Tell it."""
        _SHIFT.pack_into(self._map, 0, shift_s)

    def read(self) -> float:
        """Read it."""
        found: float = _SHIFT.unpack_from(self._map, 0)[0]
        return found


class Served:
    """A fleet that another process runs."""

    def __init__(self, plan: Plan) -> None:
        """Begin its process: before a screen takes the standard streams over."""
        self._plan = plan
        context = multiprocessing.get_context("spawn")
        self._here, self._there = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._there, msgspec.json.encode(plan)), daemon=True)
        self._told: Told | None = None
        self._shift: Shift | None = None
        self._process.start()
        self._there.close()

    @property
    def told(self) -> Told:
        """Where it is."""
        assert self._told is not None, "it is waited for first"
        return self._told

    @property
    def key(self) -> SecretKey:
        """The root key."""
        return SecretKey.from_openssh(self.told.key)

    def wait(self) -> None:
        """Wait until its coordinator answers. Raises: UserError."""
        try:
            if not self._here.poll(START_S):
                raise UserError(f"the fleet did not start within {START_S:.0f} s")
            answer = self._here.recv_bytes()
        except (EOFError, OSError):
            raise UserError("the fleet's process ended before it had begun") from None
        if answer.startswith(b"!"):
            raise UserError(answer[1:].decode())
        self._told = msgspec.json.decode(answer, type=Told)
        self._shift = Shift(Path(self._told.folder) / SHIFT)

    def wall_s(self) -> int:
        """Give the fleet's time, in unix seconds."""
        assert self._shift is not None, "it is waited for first"
        origin = self.told.origin
        return int(origin.wall_s + (time.monotonic() - origin.monotonic_s) * origin.speed + self._shift.read())

    def close(self) -> None:
        """End it at once, for nothing in it has to be kept, and see to it that nothing is left."""
        self._process.kill()
        self._process.join()
        self._here.close()
        if self._told is not None:
            shutil.rmtree(self._told.folder, ignore_errors=True)


def _serve(pipe: Connection, plan: bytes) -> None:
    """Run a fleet until the other end of the pipe is closed."""
    _away_from_the_terminal()
    asked = msgspec.json.decode(plan, type=Plan)
    ends = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ends.set()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=_await_end, args=(pipe, ends.set), daemon=True).start()
    from nixfleet.sim.fleet import Fleet  # late: the parent does not need what it loads

    fleet = Fleet(asked.scenario, asked.seed, speed=asked.speed, begun_s=asked.begun_s)

    def served() -> None:
        fleet.clock.publish(Shift(fleet.folder / SHIFT).write)
        told = Told(
            folder=str(fleet.folder),
            address=fleet.address,
            fleet=fleet.id,
            key=fleet.key.to_openssh(),
            origin=fleet.clock.origin,
        )
        pipe.send_bytes(msgspec.json.encode(told))

    try:
        fleet.start(served)
        ends.wait()
    except BrokenPipeError:
        return  # nobody waits for it any more
    except NixfleetError as error:
        pipe.send_bytes(f"!{error}".encode())
    finally:
        fleet.stop()


def _await_end(pipe: Connection, ended: Callable[[], None]) -> None:
    """Wait until nobody holds the other end."""
    try:
        pipe.recv_bytes()
    except (EOFError, OSError):
        ended()


def _away_from_the_terminal() -> None:
    """Leave the parent's terminal alone: its keys, its signals, and its screen. The parent's end is what ends this."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.getLogger().addHandler(logging.NullHandler())
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
