"""The feed: snapshot, deltas, gaps, lost links, and the log that is verified as it grows."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from tests.tui.console_fleet import NOW, device, fleet_entries
from tests.tui.console_ports import FakeSource, FakeVerifier, connect

from nixfleet.errors import Unreachable, Untrusted
from nixfleet.model.views import Delta
from nixfleet.tui.calls import Calls
from nixfleet.tui.feed import FIRST_DELAY_S, FIRST_EVENT_S, LAST_DELAY_S, POLL_S, POLLS, Feed, _merged
from nixfleet.tui.ports import LogCheck, Reset
from nixfleet.tui.store import Store


class Rig:
    """A feed over a fake coordinator, with waits that end at once and are noted."""

    def __init__(self, first_event_s: float = FIRST_EVENT_S) -> None:
        self.now = NOW
        self.source, self.store, self.verifier = FakeSource(), Store(), FakeVerifier()
        self.calls = Calls(lambda: self.now)
        self.waits: list[float] = []
        self.feed = Feed(
            connect(self.source, verifier=self.verifier),
            self.store,
            self.calls,
            clock=lambda: self.now,
            wait=self._wait,
            chance=lambda: 1.0,
            first_event_s=first_event_s,
        )

    async def _wait(self, delay_s: float) -> None:
        self.waits.append(delay_s)
        await asyncio.sleep(0)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something, with a deadline."""
        async with asyncio.timeout(10):
            while not holds():  # noqa: ASYNC110 - conditions of many kinds, and no time passes
                await asyncio.sleep(0)


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    """Run a feed that has its snapshot."""
    rig = Rig()
    task = asyncio.create_task(rig.feed.run())
    await rig.until(lambda: rig.source.listeners == 1)
    try:
        yield rig
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_deltas_reach_the_store() -> None:
    """What the coordinator says next stands in the store."""
    async with running() as rig:
        one = device("web-x", "web", "oslo")
        rig.source.put(one)
        await rig.until(lambda: rig.store.devices.get(one.id) == one)
        assert ("live", 1) == (rig.feed.link.state, rig.source.snapshots)


@pytest.mark.parametrize("event", [Delta(seq=99), Reset()], ids=["gap", "reset"])
async def test_a_gap_or_a_reset_asks_for_a_snapshot_at_once(event: Delta | Reset) -> None:
    """What is missing is read again, without waiting."""
    async with running() as rig:
        rig.source.send(event)
        await rig.until(lambda: rig.source.snapshots == 2 and rig.source.listeners == 1)
        assert [] == rig.waits


async def test_a_lost_link_keeps_the_data_and_comes_back() -> None:
    """While the coordinator is away the store stays as it was, the link says since when; later it is live again."""
    async with running() as rig:
        rig.source.broken = Unreachable("nobody answers")
        rig.source.send(Unreachable("the stream broke"))
        await rig.until(lambda: len(rig.waits) >= 3)
        assert ("nobody answers", NOW, 40) == (rig.feed.link.why, rig.feed.link.since, len(rig.store.devices))
        assert rig.feed.link.state in {"stale", "reconnecting"}
        rig.now += 500
        rig.source.broken = None
        await rig.until(lambda: rig.feed.link.state == "live")
        assert NOW + 500 == rig.feed.link.since


async def test_waits_grow_to_a_bound_and_start_over() -> None:
    """Each try waits twice as long as the one before, up to 15 s; after success it starts from the beginning."""
    async with running() as rig:
        rig.source.broken = Unreachable("nobody answers")
        rig.source.send(Unreachable("the stream broke"))
        await rig.until(lambda: len(rig.waits) >= 8)
        expected = [min(LAST_DELAY_S, FIRST_DELAY_S * 2**step) for step in range(8)]
        assert expected == rig.waits[:8]
        rig.source.broken = None
        await rig.until(lambda: rig.feed.link.state == "live" and rig.source.listeners == 1)
        rig.waits.clear()
        rig.source.send(Unreachable("again"))
        await rig.until(lambda: bool(rig.waits))
        assert FIRST_DELAY_S == rig.waits[0]


async def test_the_log_is_verified_when_it_grows() -> None:
    """A fleet record with a larger log starts our replay; a log that does not verify is tried again, and said."""
    async with running() as rig:
        task = asyncio.create_task(rig.feed.verify())
        await rig.until(lambda: rig.verifier.check.state == "valid")
        rig.verifier.after = LogCheck(state="fork", size=len(fleet_entries()) + 1, detail="two logs")
        rig.source.fleet = msgspec.structs.replace(rig.source.fleet, log_size=len(fleet_entries()) + 1)
        rig.source.seq += 1
        rig.source.send(Delta(seq=rig.source.seq, fleet=rig.source.fleet))
        await rig.until(lambda: rig.feed.check.state == "fork")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_full_mirror_is_verified_without_an_event() -> None:
    """A mirror that is up to date at the start is asked about once, and then stands as verified."""
    rig = Rig()
    rig.verifier.check = LogCheck(state="checking", size=rig.source.fleet.log_size)
    tasks = [asyncio.create_task(rig.feed.run()), asyncio.create_task(rig.feed.verify())]
    await rig.until(lambda: rig.feed.check.state == "valid")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_replay_that_fails_is_tried_again() -> None:
    """An untrusted answer stands in the command log, and the next try may succeed."""
    rig = Rig()
    good = rig.verifier.catch_up
    fails = 2

    async def failing() -> LogCheck:
        nonlocal fails
        if fails:
            fails -= 1
            raise Untrusted("entry 7 does not verify")
        return await good()

    rig.verifier.catch_up = failing  # type: ignore[method-assign] # a fault put in on purpose
    tasks = [asyncio.create_task(rig.feed.run()), asyncio.create_task(rig.feed.verify())]
    await rig.until(lambda: rig.feed.check.state == "valid")
    assert 2 == sum("entry 7" in call.said for call in rig.calls)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_output_lines_are_collected_while_watched() -> None:
    """The lines a device already had stand first, then those that come."""
    async with running() as rig:
        one = msgspec.structs.replace(device("web-x", "web", "oslo"), lines=("first",))
        rig.source.put(one)
        await rig.until(lambda: one.id in rig.store.devices)
        await rig.feed.watch_lines(one.id, one.name)
        rig.source.put(one, ("second",))
        await rig.until(lambda: rig.store.lines(one.id) == ("first", "second"))


@pytest.mark.parametrize(
    ("read", "heard", "expected"),
    [
        ((), ("a",), ("a",)),
        (("a", "b"), (), ("a", "b")),
        (("a", "b"), ("b", "c"), ("a", "b", "c")),
        (("a",), ("b",), ("a", "b")),
    ],
)
def test_lines_that_were_read_and_heard_stand_once(
    read: tuple[str, ...], heard: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    """What came as a delta while the log was read is not shown twice."""
    assert expected == _merged(read, heard)


def held_back() -> Rig:
    """Make a rig whose streams end before their first event, at once."""
    rig = Rig()
    rig.source.holds_back = asyncio.Event()
    rig.source.holds_back.set()
    return rig


@asynccontextmanager
async def following(rig: Rig) -> AsyncIterator[Rig]:
    """Run the feed of a rig."""
    task = asyncio.create_task(rig.feed.run())
    try:
        yield rig
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_streams_that_never_begin_make_it_poll() -> None:
    """After two streams without an event it asks for snapshots, says polling, and what changes is seen."""
    async with following(held_back()) as rig:
        await rig.until(lambda: rig.feed.link.state == "polling")
        assert (2, [FIRST_DELAY_S]) == (rig.source.streams, rig.waits[:1])
        one = device("web-x", "web", "oslo")
        rig.source.put(one)
        await rig.until(lambda: rig.store.devices.get(one.id) == one)
        assert {POLL_S} == set(rig.waits[1:])
        assert any("asking every 3 s instead" in call.said for call in rig.calls)


async def test_polling_tries_a_stream_again_and_goes_live() -> None:
    """Each minute a stream is tried; one that fails changes nothing, one that begins ends the polling."""
    async with following(held_back()) as rig:
        await rig.until(lambda: rig.source.streams == 4)
        assert ("polling", 2) == (rig.feed.link.state, rig.waits.count(POLL_S) // POLLS)
        rig.source.holds_back = None
        await rig.until(lambda: rig.feed.link.state == "live")
        await rig.until(lambda: rig.source.listeners == 1)
        one = device("web-x", "web", "oslo")
        rig.source.put(one)
        await rig.until(lambda: one.id in rig.store.devices)


async def test_a_stream_in_which_nothing_comes_makes_it_poll() -> None:
    """A stream that stays open and silent is given up after a while, once."""
    rig = Rig(first_event_s=0.01)
    rig.source.holds_back = asyncio.Event()
    async with following(rig):
        await rig.until(lambda: rig.feed.link.state == "polling")
        assert 1 == rig.source.streams


async def test_polling_loses_the_link_and_finds_it_again() -> None:
    """A coordinator that is away while one polls is stale, not polling; back again, it is polling."""
    async with following(held_back()) as rig:
        await rig.until(lambda: rig.feed.link.state == "polling")
        rig.source.broken = Unreachable("nobody answers")
        await rig.until(lambda: rig.feed.link.state in {"stale", "reconnecting"})
        assert ("nobody answers", 40) == (rig.feed.link.why, len(rig.store.devices))
        rig.source.broken = None
        await rig.until(lambda: rig.feed.link.state == "polling")


async def test_polling_reads_the_output_of_a_watched_device() -> None:
    """The live log of a device goes on without a stream; one that cannot be read now is left as it is."""
    async with following(held_back()) as rig:
        await rig.until(lambda: rig.feed.link.state == "polling")
        one = msgspec.structs.replace(device("web-x", "web", "oslo"), lines=("first", "second"))
        rig.source.put(one)
        rig.store.watch_lines(one.id, ("first",))
        await rig.until(lambda: rig.store.lines(one.id) == ("first", "second"))
