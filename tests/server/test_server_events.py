"""Event streams: the hubs by themselves, then both streams over a real loopback port."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
from tests.factories import device_id, key
from tests.server.harness import DEADLINE_S, Rig, rig, until

from nixfleet.errors import Unreachable
from nixfleet.model.answers import Reset
from nixfleet.model.device import Phase, Progress
from nixfleet.model.views import Delta, RolloutView
from nixfleet.model.wire import Sync
from nixfleet.server.events import CONSOLE_KEPT_S, PING, RESET, AgentHub, ConsoleHub
from nixfleet.trust.httpsig import sign_request
from nixfleet.trust.view import LogView


def _seqs(block: bytes) -> list[int]:
    lines = [line for line in block.decode().split("\n") if line.startswith("data: ")]
    return [msgspec.json.decode(line.removeprefix("data: "), type=Delta).seq for line in lines]


async def _next(stream: AsyncGenerator[bytes, None]) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        return await anext(stream)


async def test_console_gets_what_it_missed_then_what_comes() -> None:
    """A console goes on from its number without a gap, in one block, and is woken by what comes."""
    hub = ConsoleHub(start=100)
    for _ in range(3):
        hub.publish(Delta(seq=0, removed="x:y"))
    async with aclosing(hub.stream(101)) as stream:
        assert await _next(stream) == PING
        assert _seqs(await _next(stream)) == [102, 103]
        hub.publish(Delta(seq=0))
        assert _seqs(await _next(stream)) == [104]
    assert len(hub) == 0


@pytest.mark.parametrize("since", [0, 99, 100, 200])
async def test_console_out_of_the_ring_is_told_to_start_over(since: int) -> None:
    """A number of an earlier run, one that fell out of the ring, and one of the future are answered by a reset."""
    hub = ConsoleHub(start=100, ring=2)
    for _ in range(3):
        hub.publish(Delta(seq=0))
    async with aclosing(hub.stream(since)) as stream:
        assert [await _next(stream), await _next(stream)] == [PING, RESET]
        with pytest.raises(StopAsyncIteration):
            await _next(stream)


async def test_silent_console_is_pinged_and_close_ends_it() -> None:
    """A stream with nothing to say sends comments, and ends when the hub closes."""
    hub = ConsoleHub(start=0)
    async with aclosing(hub.stream(0, ping_s=0.01)) as stream:
        assert [await _next(stream) for _ in range(3)] == [PING] * 3
        hub.close()
        with pytest.raises(StopAsyncIteration):
            await _next(stream)


async def test_nobody_is_told_nothing_until_a_console_is_expected() -> None:
    """Changes are skipped while no console is near; one that comes back after that starts over, one before does not."""
    now = 1_000.0
    hub = ConsoleHub(start=0, clock=lambda: now)
    assert not hub.expected()
    hub.expect()
    assert hub.expected()
    hub.publish(Delta(seq=0))
    async with aclosing(hub.stream(0)) as stream:
        assert [await _next(stream), _seqs(await _next(stream))] == [PING, [1]]
        now += CONSOLE_KEPT_S
        assert hub.expected()
    assert hub.expected()
    now += CONSOLE_KEPT_S
    assert not hub.expected()
    hub.skip()
    assert (hub.after(1), hub.after(hub.seq)) == (None, [])


async def test_newer_stream_of_an_agent_ends_the_older() -> None:
    """A device has one stream: the newer one; the end of the older does not make the device go offline."""
    hub = AgentHub()
    older, newer = hub.join("a"), hub.join("a")
    assert (older.closed, newer.closed) == (True, False)
    assert not hub.leave("a", older)
    assert "a" in hub
    assert hub.leave("a", newer)
    assert "a" not in hub


async def test_wake_ups_melt_into_one_and_reach_only_whom_they_concern() -> None:
    """Many wake-ups before a listener looks are one; others are not woken."""
    hub = AgentHub()
    one, other = hub.join("a"), hub.join("b")
    for _ in range(5):
        hub.wake(["a", "nobody"])
    assert [await one.wait(0), await one.wait(0), await other.wait(0)] == [True, False, False]
    hub.wake_all()
    assert [await one.wait(0), await other.wait(0)] == [True, True]
    hub.close()
    assert hub.join("c").closed


async def _sync(events: AsyncGenerator[Sync, None]) -> Sync:
    async with asyncio.timeout(DEADLINE_S):
        return await anext(events)


async def test_agent_stream_brings_the_log_and_makes_it_online(tmp_path: Path) -> None:
    """The first event comes at once and verifies; while the stream is open the device is online, then it is not."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("admin") as admin:
        async with one.client("web-01") as device, aclosing(device.agent_events(0)) as events:
            first = await _sync(events)
            view = LogView(one.fleet.fleet)
            view.extend(first.checkpoint, first.start, [(entry.leaf, entry.payload) for entry in first.entries])
            assert [entry.payload is not None for entry in first.entries] == [True, True, False]
            assert (await admin.device("web-01")).online
        gone = await until(lambda: admin.device("web-01"), lambda view: not view.online)
        assert gone.seen_at == int(one.now)


async def test_device_entry_wakes_only_its_device(tmp_path: Path) -> None:
    """A tag change of one device reaches that one now, and the other with the next event for all."""
    async with (
        rig(tmp_path / "data", "web-01", "web-02") as one,
        one.client("admin") as admin,
        one.client("web-01") as a,
        one.client("web-02") as b,
        aclosing(a.agent_events(3)) as first,
        aclosing(b.agent_events(3)) as second,
    ):
        await _sync(first)
        await _sync(second)
        one.fleet.device("web-01", tags={"env": "test"})
        await one.send(admin)
        own = await _sync(first)
        assert [entry.payload is not None for entry in own.entries] == [True]
        one.fleet.grant("ci", "release")
        await one.send(admin)
        assert [entry.payload is not None for entry in (await _sync(first)).entries] == [True]
        both = await _sync(second)
        assert (both.start, [entry.payload is not None for entry in both.entries]) == (3, [False, True])


async def test_streams_end_at_once_when_the_coordinator_stops(tmp_path: Path) -> None:
    """Stopping does not wait for open streams; their readers learn it as an end."""
    async with (
        rig(tmp_path / "data", "web-01") as one,
        one.client("web-01") as device,
        aclosing(device.agent_events(0)) as events,
    ):
        await _sync(events)
        stopping = asyncio.create_task(asyncio.to_thread(one.server.stop))
        with pytest.raises(Unreachable, match="ended the event stream"):
            await _sync(events)
        async with asyncio.timeout(DEADLINE_S):
            await stopping


async def _until_delta(events: AsyncGenerator[Delta | Reset, None], what: str) -> Delta:
    async with asyncio.timeout(DEADLINE_S):
        async for event in events:
            assert isinstance(event, Delta)
            if getattr(event, what):
                return event
    raise AssertionError("the stream ended")


async def test_console_stream_shows_acts_as_they_happen(tmp_path: Path) -> None:
    """From the snapshot's number on, enrolment, report, progress and rollout come as deltas without a gap."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("web-01") as device:
        snapshot = await admin.snapshot()
        assert [view.name for view in snapshot.devices] == ["web-01"]
        async with aclosing(admin.console_events(snapshot.seq)) as events:
            await device.report(one.report("web-01", system="/run/new"))
            told = await _until_delta(events, "device")
            assert told.device is not None
            assert told.device.system == "/run/new"
            release, _ = one.fleet.release("a")
            rollout = one.fleet.rollout(release)
            await one.send(admin)
            assert (await _until_delta(events, "release")).release is not None
            assert (await _until_delta(events, "rollout")).rollout is not None
            await device.progress(Progress(rollout=rollout, phase=Phase.FETCHING, lines=("copying path",)))
            lines = await _until_delta(events, "line_device")
            assert (lines.line_device, lines.lines) == (device_id("web-01"), ("copying path",))


async def _until_state(events: AsyncGenerator[Delta | Reset, None], rollout: str, state: str) -> RolloutView:
    while True:
        view = (await _until_delta(events, "rollout")).rollout
        assert view is not None
        if (view.id, view.state) == (rollout, state):
            return view


async def test_console_stream_shows_how_a_rollout_ends(tmp_path: Path) -> None:
    """One that is superseded, one that is cancelled, and one that is for nobody: none of them is planned any more."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        release, _ = one.fleet.release("a")
        first = one.fleet.rollout(release)
        await one.send(admin)
        async with aclosing(admin.console_events((await admin.snapshot()).seq)) as events:
            await _until_state(events, first, "running")
            second = one.fleet.rollout(release)
            await one.send(admin)
            await _until_state(events, first, "superseded")
            one.fleet.control(second, "pause")
            await one.send(admin)
            assert (await _until_state(events, second, "paused")).waits
            one.fleet.control(second, "cancel")
            await one.send(admin)
            assert not (await _until_state(events, second, "cancelled")).waits
            back = one.fleet.rollout(None, kind="rollback", of=second)
            await one.send(admin)
            await _until_state(events, back, "finished")


async def test_console_of_an_earlier_run_is_reset(tmp_path: Path) -> None:
    """After a restart the numbers are others, and a console that comes back starts over."""
    async with rig(tmp_path / "data") as one:
        async with one.client("admin") as admin:
            seq = (await admin.snapshot()).seq
        one.now += 1
        await asyncio.to_thread(one.restart)
        async with one.client("admin") as admin, aclosing(admin.console_events(seq)) as events:
            async with asyncio.timeout(DEADLINE_S):
                assert await anext(events) == Reset()


async def test_stopped_listener_costs_nothing(tmp_path: Path) -> None:
    """A listener that goes away without a word is forgotten."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        reader, writer = await asyncio.open_connection(*_address(one))
        writer.write(await _raw_request(one, "web-01"))
        await reader.readuntil(b"\r\n\r\n")
        await until(lambda: admin.device("web-01"), lambda view: view.online)
        writer.transport.abort()
        await until(lambda: admin.device("web-01"), lambda view: not view.online)


def _address(one: Rig) -> tuple[str, int]:
    host, _, port = one.server.address.removeprefix("http://").rpartition(":")
    return host, int(port)


async def _raw_request(one: Rig, name: str) -> bytes:
    path, query = "/v1/agent/events", "size=0"
    headers = sign_request(
        key(name), method="GET", path=path, query=query, body=b"", created=one.now, fleet=one.fleet.fleet
    )
    lines = [f"GET {path}?{query} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()
