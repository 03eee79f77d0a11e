"""Requests to be enrolled: anybody may ask, so nobody may fill the list, wear out the disk, or push others out."""

from types import SimpleNamespace
from typing import cast

import pytest
from tests.factories import T0, device_id, key

from nixfleet.model.device import EnrollRequest
from nixfleet.model.wire import Signed
from nixfleet.server.coordinator import people
from nixfleet.server.coordinator.clock import RunClock
from nixfleet.server.coordinator.journal import Journal
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.people import Allowance, People
from nixfleet.server.faults import Busy
from nixfleet.server.store import Store
from nixfleet.trust.reports import sign_enroll

FLEET = "f" * 64


class Desk:
    """The people of a coordinator, with a clock of the test's and a log in which nobody is enrolled."""

    def __init__(self, store: Store) -> None:
        self.now = T0
        self.dropped: list[str] = []
        self.store = store
        self.people = self.new()

    def new(self) -> People:
        """Make them anew on the same store."""
        log = cast("LogKeeper", SimpleNamespace(fleet=FLEET, device=lambda _: None, former={}))
        clock = cast("RunClock", SimpleNamespace(wall_s=self.wall_s))
        journal = Journal(self.store, self.wall_s)
        return People(self.store, log, clock, journal, lambda view: self.dropped.append(view.device))

    def wall_s(self) -> int:
        """Give the test's time."""
        return self.now

    async def ask(self, name: str, host: str | None = "127.0.0.1") -> None:
        """Let a named device ask."""
        await self.people.ask(_request(name), host)

    def waiting(self) -> list[str]:
        """Name who waits."""
        return [view.name for view in self.people.requests()]

    async def stored(self) -> list[str]:
        """Give the ids of who waits in the store."""
        return [row.device for row in await self.store.people.requests()]


def _request(name: str) -> Signed:
    made = EnrollRequest(v=1, fleet=FLEET, device=device_id(name), name=name, key=key(name).public.text, at=T0)
    return sign_enroll(made, key(name))


@pytest.fixture
def desk(store: Store) -> Desk:
    """Make a desk on an empty store."""
    return Desk(store)


async def test_full_list_lets_go_of_who_was_heard_longest_ago(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of strangers does not keep a device out, and a device that goes on asking is not pushed out by it."""
    monkeypatch.setattr(people, "REQUESTS_MAX", 3)
    for name in ("real", "junk-1", "junk-2"):
        await desk.ask(name)
        desk.now += 1
    desk.now += 20
    await desk.ask("real")
    await desk.ask("late")
    assert desk.waiting() == ["real", "junk-2", "late"]
    assert desk.dropped == [device_id("junk-1")]
    assert await desk.stored() == [device_id(name) for name in ("real", "junk-2", "late")]


async def test_one_address_pushes_out_its_own(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its share an address loses its own oldest; an IPv6 network is one address, a local proxy is none."""
    monkeypatch.setattr(people, "REQUESTS_OF_ONE", 2)
    await desk.ask("other", "192.0.2.9")
    for number in range(4):
        await desk.ask(f"four-{number}", "::ffff:192.0.2.1" if number % 2 else "192.0.2.1")
        await desk.ask(f"six-{number}", f"2001:db8::{number}")
        await desk.ask(f"proxy-{number}")
        desk.now += 1
    left = {"other", "four-2", "four-3", "six-2", "six-3", *(f"proxy-{number}" for number in range(4))}
    assert set(desk.waiting()) == left
    assert set(await desk.stored()) == {device_id(name) for name in left}


async def test_who_is_silent_for_a_week_is_gone(desk: Desk) -> None:
    """A device that has stopped asking leaves the list; one that asks stays, over a restart too."""
    await desk.ask("gone")
    await desk.ask("here")
    for _ in range(8):
        desk.now += 86_400
        await desk.ask("here")
    assert desk.waiting() == ["here"]
    assert await desk.stored() == [device_id("here")]
    desk.people = desk.new()
    await desk.people.load()
    assert desk.waiting() == ["here"]
    desk.now += people.UNHEARD_S
    assert desk.waiting() == []


async def test_writes_are_bounded_in_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over the rate is told to come back, leaves nothing, and costs those who wait already nothing."""
    monkeypatch.setattr(people, "WRITES_BURST", 2)
    monkeypatch.setattr(people, "WRITES_PER_S", 1)
    desk.people = desk.new()
    await desk.ask("a")
    await desk.ask("b")
    with pytest.raises(Busy, match="in a moment"):
        await desk.ask("c")
    await desk.ask("a")
    assert await desk.stored() == [device_id("a"), device_id("b")]
    desk.now += 1
    await desk.ask("c")
    assert desk.waiting() == ["a", "b", "c"]


def test_allowance_fills_up_again() -> None:
    """A burst, then a rate; a clock that goes back gives nothing."""
    allowance = Allowance(2, 1)
    for now in (100, 100, 101, 103, 103):
        allowance.take(now)
    for now in (103, 50, 50):
        with pytest.raises(Busy):
            allowance.take(now)
