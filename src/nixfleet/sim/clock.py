"""The clock of a made-up world: it goes faster than the real one, and can be moved on at once.

An event loop of this module tells this time, so that every sleep, timeout and deadline in it goes as fast. It must
never go back.
"""

import asyncio
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

SPEED_MOST = 1_000.0
STALL_S = 0.05
"""Real seconds: no loop is away for longer than this without the clock standing still."""
STEP_S = 5.0
"""The most that time moves on before everybody has had a look: below the coordinator's beat, so that it saw it pass."""
SERVED_AT_ONCE = 16
"""Sockets that a loop serves before it comes round: when an act wakes a thousand agents, timers still have their turn.
"""
_LOOKS = 3


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a made-up clock began."""

    wall_s: float
    """Unix seconds at the beginning."""
    monotonic_s: float
    """What this machine's CLOCK_MONOTONIC said then."""
    speed: float = 1.0


class SimClock:
    """Unix seconds, and seconds since the beginning, `speed` times as fast as real ones.

    It waits for whoever falls behind: of a real moment in which one of its loops did not come round, only `STALL_S`
    count. So a machine that is too slow for a speed gets a slower one, instead of timeouts that no real fleet has.
    """

    def __init__(self, origin: Origin) -> None:
        """Begin."""
        self.origin = origin
        self.lost_s = 0.0
        """Real seconds that did not count so far."""
        self._publish: Callable[[float], None] = lambda _: None
        self._passed_s, self._seen_s = 0.0, origin.monotonic_s
        self._busy: dict[int, float] = {}
        self._loops: list[asyncio.AbstractEventLoop] = []
        self._guard = threading.Lock()

    @classmethod
    def begin(cls, wall_s: float, speed: float = 1.0) -> "SimClock":
        """Begin now, at this unix time."""
        assert 0 < speed <= SPEED_MOST, "a speed is above 0 and has a bound"
        return cls(Origin(wall_s=wall_s, monotonic_s=time.monotonic(), speed=speed))

    def passed_s(self) -> float:
        """Give the seconds since the beginning."""
        with self._guard:
            return self._moved_on()

    def _moved_on(self) -> float:
        now = time.monotonic()
        real_s = now - self._seen_s
        counted_s = min(real_s, STALL_S)
        if self._busy:
            counted_s = min(counted_s, max(0.0, min(self._busy.values()) + STALL_S - self._seen_s))
        self._seen_s = now
        self._passed_s += counted_s * self.origin.speed
        if counted_s < real_s:
            self.lost_s += real_s - counted_s
            self._tell()
        return self._passed_s

    def publish(self, told: Callable[[float], None]) -> None:
        """Tell `told` from now on how far it is from what origin and speed alone say, in seconds."""
        with self._guard:
            self._publish = told
            self._tell()

    def _tell(self) -> None:
        self._publish(self._passed_s - (self._seen_s - self.origin.monotonic_s) * self.origin.speed)

    def comes_round(self, loop: int) -> None:
        """Note that a loop goes to wait."""
        with self._guard:
            self._moved_on()
            self._busy.pop(loop, None)

    def sets_out(self, loop: int) -> None:
        """Note that a loop has something to do."""
        with self._guard:
            self._moved_on()
            self._busy[loop] = self._seen_s

    def wall(self) -> float:
        """Give unix seconds."""
        return self.origin.wall_s + self.passed_s()

    def wall_s(self) -> int:
        """Give whole unix seconds."""
        return int(self.wall())

    def real_s(self, span_s: float) -> float:
        """Say how long a span lasts for those outside."""
        return span_s / self.origin.speed

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Make an event loop that lives in this time."""
        loop = _SimLoop(self)
        with self._guard:
            self._loops = [one for one in self._loops if not one.is_closed()] + [loop]
        return loop

    def advance(self, span_s: float) -> None:
        """Move on by so many seconds, in steps after each of which every loop has had a look; not from within a loop.

        A coordinator that is to count this time as time in which it ran has to see it pass: see `leap`.
        """
        while span_s > 0:
            self.leap(min(span_s, STEP_S))
            span_s -= STEP_S

    def leap(self, span_s: float) -> None:
        """Move on all at once, as for a machine that slept; not from within a loop."""
        assert span_s >= 0, "time does not go back"
        with self._guard:
            self._moved_on()
            self._passed_s += span_s
            self._tell()
            loops = list(self._loops)
        for _ in range(_LOOKS):
            for loop in loops:
                _look(loop)


class _SimLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is that of a made-up clock."""

    def __init__(self, clock: SimClock) -> None:
        self._sim = clock
        super().__init__(Selector(clock))

    def time(self) -> float:
        """Give the clock's seconds (asyncio asks here for every deadline)."""
        return self._sim.passed_s()


class Selector(selectors.DefaultSelector):  # chosen by the platform at run time
    """Waits for files as long as made-up seconds last, and never so long that the clock would stand still."""

    def __init__(self, clock: SimClock) -> None:
        super().__init__()
        self._sim = clock
        self._behind = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for files, and give a few of them; `timeout` is in the loop's seconds.

        The others come next, for they stay ready. Until none is left over, the loop counts as one that is still away:
        a backlog makes the clock wait as a long turn does.
        """
        longest_s = STALL_S / 2
        real_s = longest_s if timeout is None else min(self._sim.real_s(timeout), longest_s)
        if not self._behind:
            self._sim.comes_round(id(self))
        found: list[tuple[selectors.SelectorKey, int]] = super().select(real_s)
        if not self._behind:
            self._sim.sets_out(id(self))
        self._behind = len(found) > SERVED_AT_ONCE
        return found[:SERVED_AT_ONCE]

    def close(self) -> None:
        """Let go of everything."""
        self._sim.comes_round(id(self))
        super().close()


def _look(loop: asyncio.AbstractEventLoop) -> None:
    """Let a loop that runs go round once, and wait for that."""
    gone_round = threading.Event()
    try:
        loop.call_soon_threadsafe(gone_round.set)
    except RuntimeError:
        return  # it has ended meanwhile
    if loop.is_running():
        gone_round.wait(10)


@contextmanager
def loop_thread(clock: SimClock, name: str) -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop of this clock in a thread of its own."""
    loop = clock.new_loop()
    thread = threading.Thread(target=_serve, args=(loop,), name=name, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
