"""Nothing is written while nothing changes: presence is the connection itself, and the clock's beat is all there is."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest
from tests.factories import device_id, key
from tests.server.harness import Rig, rig, until

from nixfleet.model.device import EnrollRequest, Facts, Outcome
from nixfleet.server.coordinator import core
from nixfleet.server.coordinator.clock import BEAT_S
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.settings import ServerSettings
from nixfleet.trust.reports import sign_enroll

DAY_S = 86_400


@contextlib.contextmanager
def _nothing_written(one: Rig) -> Iterator[None]:
    """Fail when another connection commits a change (https://www.sqlite.org/pragma.html#pragma_data_version)."""
    with contextlib.closing(sqlite3.connect(one.data_dir / "fleet.db")) as database:

        def version() -> int:
            found: int = database.execute("PRAGMA data_version").fetchone()[0]
            return found

        before = version()
        yield
        assert version() == before


@pytest.fixture(autouse=True)
def _no_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the heartbeat out of what is looked at."""
    monkeypatch.setattr(core, "BEAT_S", 3_600)


async def test_readers_write_nothing(tmp_path: Path) -> None:
    """Streams, polls, views and a device that goes on asking for enrolment leave the database as it is."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(rig(tmp_path / "data", "web-01", "web-02"))
        admin = await stack.enter_async_context(one.client("admin"))
        first = await stack.enter_async_context(one.client("web-01"))
        events = await stack.enter_async_context(aclosing(first.agent_events(0)))
        await anext(events)
        second = await stack.enter_async_context(one.client("web-02"))
        await _ask(one)
        await second.report(one.report("web-02"))
        with _nothing_written(one):
            for _ in range(3):
                one.now += 15
                await second.sync(one.sent)
                await _ask(one)
                await admin.devices()
                await admin.snapshot()
                await admin.audit(0)
        (request,) = await admin.enroll_requests()
        assert request.seen_at == int(one.now)


async def _ask(one: Rig) -> None:
    asked = EnrollRequest(
        v=1,
        fleet=one.fleet.fleet,
        device=device_id("new"),
        name="new",
        key=key("new").public.text,
        at=int(one.now),
        facts=Facts(hostname="new"),
    )
    async with one.client(None) as client:
        await client.enroll_request(sign_enroll(asked, key("new")))


async def test_planner_with_nothing_to_do_writes_nothing(tmp_path: Path) -> None:
    """A day of passes over a finished rollout, one in ten minutes, stores no decision."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("web-01") as device:
        release, _ = one.fleet.release("a")
        rollout = one.fleet.rollout(release)
        await device.sync(0)
        await one.send(admin)
        await until(lambda: device.sync(0), lambda sync: bool(sync.gates))
        await device.report(one.outcome("web-01", rollout, Outcome.CONFIRMED))
        await until(lambda: admin.rollout(rollout), lambda detail: detail.rollout.state == "finished")
        await asyncio.to_thread(one.server.stop)
        coordinator = Coordinator(ServerSettings(data_dir=one.data_dir, listen="127.0.0.1:0"), lambda: one.now)
        await coordinator.start()
        try:
            with _nothing_written(one):
                for _ in range(DAY_S // 600):
                    one.now += 600
                    await coordinator.planner.tick()
        finally:
            await coordinator.stop()


def test_the_beat_is_rare() -> None:
    """The running clock's heartbeat is one small write in ten to sixty seconds."""
    assert 10 <= BEAT_S <= 60
