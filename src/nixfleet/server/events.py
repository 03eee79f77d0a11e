"""Who is listening, and waking them: consoles by a ring of numbered deltas, agents by a flag each.

Nothing here queues per listener: a console is a place in the ring, an agent's wake-ups melt into one. So memory is
bounded whatever a listener does, and one that falls out of the ring is told to start over.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from nixfleet.model.ids import Tags
from nixfleet.model.views import Delta

CONSOLE_PING_S = 10
CONSOLE_KEPT_S = 60
"""How long after the last console has left deltas are made for its return."""
RING = 8_192
PING = b": ping\n\n"
RESET = b"event: reset\ndata: {}\n\n"

_BATCH_BYTES = 262_144
_encoder = msgspec.json.Encoder()


class Flag:
    """A wake-up call that can be missed by nobody and heard once; also says when listening is over."""

    __slots__ = ("_event", "closed", "farewell")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.closed = False
        self.farewell = False
        """Whether the listener still gets what is new before listening is over."""

    def wake(self) -> None:
        """Wake the listener, now or when it next waits."""
        self._event.set()

    def close(self) -> None:
        """Wake the listener for good."""
        self.closed = True
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a wake-up; False when none came in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        if not self.closed:
            self._event.clear()
        return True


@dataclass(frozen=True, slots=True)
class Mark:
    """What a change is about, and the tags by which it is judged who may read of it.

    `before` and `after` are the subject's tags as last told and now, None where it was not there or is not any more;
    `moved`: a rollout is told because a device that it touches has got other tags.
    """

    kind: Literal["device", "lines", "rollout", "request"]
    id: str
    before: Tags | None = None
    after: Tags | None = None
    moved: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """A change with its number, encoded for whoever may read everything; without a mark it is for everybody."""

    seq: int
    data: bytes
    mark: Mark | None


class Screening(Protocol):
    """Decides what of a stream its reader gets."""

    @property
    def open(self) -> bool:
        """Whether nothing is hidden."""

    def holds(self) -> bool:
        """Tell whether it may go on as it began."""

    def through(self, told: Told) -> bytes:
        """Give a change as the reader may have it."""


def encoded(delta: Delta) -> bytes:
    """Write a change as a server-sent event."""
    return b"id: %d\nevent: delta\ndata: %b\n\n" % (delta.seq, _encoder.encode(delta))


class ConsoleHub:
    """Numbered deltas, encoded once, kept for those who come back; numbers differ from run to run."""

    def __init__(self, start: int, ring: int = RING, clock: Callable[[], float] = time.monotonic) -> None:
        # A number of an earlier run lies below `start`, so that whoever still holds one is told to start over.
        self.seq = start
        self._ring: deque[Told] = deque(maxlen=ring)
        self._listeners: set[Flag] = set()
        self._clock = clock
        self._until = clock()
        self.closed = False

    def __len__(self) -> int:
        return len(self._listeners)

    def expect(self) -> None:
        """Make deltas from now on: a console has, or has just had, what they go on from."""
        self._until = self._clock() + CONSOLE_KEPT_S

    def expected(self) -> bool:
        """Tell whether a console listens or may come back; to nobody nothing need be told."""
        return bool(self._listeners) or self._clock() < self._until

    def skip(self) -> None:
        """Note changes that nobody was told: whoever comes back from before them starts over."""
        self.seq += 1
        self._ring.clear()

    def publish(self, delta: Delta, mark: Mark | None = None) -> None:
        """Give a change its number and hand it to every console; without a mark, to whatever key."""
        self.seq += 1
        self._ring.append(Told(self.seq, encoded(msgspec.structs.replace(delta, seq=self.seq)), mark))
        for listener in self._listeners:
            listener.wake()

    def after(self, seq: int) -> list[Told] | None:
        """Give the deltas after number `seq`, or None when they are not all here."""
        missing = self.seq - seq
        if not 0 <= missing <= len(self._ring):
            return None
        return [self._ring[at] for at in range(len(self._ring) - missing, len(self._ring))]

    async def stream(
        self, since: int, ping_s: float = CONSOLE_PING_S, screen: Screening | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events after number `since`, for ever; ends after a reset or when the hub closes.

        With a screen, what it lets through; a reset when it does not hold any more.
        """
        flag = Flag()
        self._listeners.add(flag)
        try:
            yield PING  # the head goes out at once, so that the other side knows that it is connected
            while not self.closed:
                events = self.after(since)
                if events is None or not (screen is None or screen.holds()):
                    yield RESET
                    return
                shown = (one.data for one in events) if screen is None or screen.open else map(screen.through, events)
                for block in _blocks(shown):
                    yield block
                since += len(events)
                if not events and not await flag.wait(ping_s):
                    yield PING
        finally:
            self._listeners.discard(flag)
            self.expect()

    def close(self) -> None:
        """End every stream."""
        self.closed = True
        for listener in self._listeners:
            listener.close()


def _blocks(events: Iterable[bytes]) -> Iterable[bytes]:
    """Join small events into fewer writes."""
    block, size = [], 0
    for event in events:
        block.append(event)
        size += len(event)
        if size >= _BATCH_BYTES:
            yield b"".join(block)
            block, size = [], 0
    if block:
        yield b"".join(block)


class AgentHub:
    """The open streams of agents, one a device: a newer one ends the older, which may be a half-open socket."""

    def __init__(self) -> None:
        self._flags: dict[str, Flag] = {}
        self.closed = False

    def __len__(self) -> int:
        return len(self._flags)

    def __contains__(self, device: str) -> bool:
        return device in self._flags

    def join(self, device: str) -> Flag:
        """Open a device's stream; the caller gives the flag back with `leave`."""
        flag = Flag()
        if older := self._flags.get(device):
            older.close()
        if self.closed:
            flag.close()
        else:
            self._flags[device] = flag
        return flag

    def leave(self, device: str, flag: Flag) -> bool:
        """End a device's stream; tells whether the device has none any more."""
        if self._flags.get(device) is flag:
            del self._flags[device]
        return device not in self._flags

    def wake(self, devices: Iterable[str]) -> None:
        """Wake the agents of these devices."""
        for device in devices:
            if flag := self._flags.get(device):
                flag.wake()

    def wake_all(self) -> None:
        """Wake every agent."""
        for flag in self._flags.values():
            flag.wake()

    def drop(self, device: str, *, farewell: bool = False) -> None:
        """End a device's stream: it may not listen any more; with `farewell` it is told why, by the log."""
        if flag := self._flags.get(device):
            flag.farewell = farewell
            flag.close()

    def close(self) -> None:
        """End every stream; agents come back with jitter."""
        self.closed = True
        for flag in self._flags.values():
            flag.close()
