"""Downloading ahead of wave or window: an agent that waits fetches, verifies and keeps what it will need; no more."""

from pathlib import Path

import pytest
from tests.agent.site import Site, until

from nixfleet.agent import ahead as aheads
from nixfleet.agent import desk as desks
from nixfleet.agent import link as links
from nixfleet.model.device import Cause, Phase
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Window
from nixfleet.nix import Fault, FaultKind

NIGHT = Window(days=("mon",), from_="03:00", to="03:01", tz="UTC")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask at once instead of within a minute."""
    monkeypatch.setattr(links, "BACKOFF_FIRST_S", 0.02)
    monkeypatch.setattr(aheads, "SPREAD_S", 0.01)
    monkeypatch.setattr(desks, "SPREAD_S", 0.01)


def _root(site: Site) -> Path:
    return site.machine.host.gc_root("ahead")


def _fetched(site: Site) -> list[str]:
    return [call for call in site.store.calls if call.startswith("realise")]


async def test_before_its_wave_opens_a_device_fetches_and_begins_nothing(tmp_path: Path) -> None:
    """The closure is here, rooted and verified, and the progress says that it is ahead; the gate alone begins it."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    async with site.running() as agent:
        device = await site.member()
        rollout = site.deploy(device, new, prefetch=True)
        await until(lambda: _root(site).is_symlink())
        assert "its wave is not open yet" == agent.desk.waits
        assert [] == site.machine.switches()
        await until(lambda: any(one.ahead for one in site.server.progress))
        assert {Phase.FETCHING} == {one.phase for one in site.server.progress if one.ahead}
        site.server.open_gate(rollout, device)
        await until(lambda: bool(site.server.outcomes()))
        await until(lambda: not _root(site).is_symlink())
    assert [(rollout, 1, "confirmed")] == site.server.outcomes()


async def test_without_prefetch_nothing_is_fetched_before_the_wave(tmp_path: Path) -> None:
    """What nobody signed for is not downloaded: lines and caches are not asked."""
    site = Site(tmp_path)
    async with site.running() as agent:
        device = await site.member()
        site.deploy(device, site.machine.system("new", at="cache"))
        await until(lambda: agent.link.mirror.size == site.fleet.size)
        await agent.desk.consider()
    assert [] == _fetched(site)


async def test_outside_its_window_a_device_fetches_ahead(tmp_path: Path) -> None:
    """The gate is open and the window is not: the download is done by the time it is."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    async with site.running() as agent:
        device = await site.member()
        rollout = site.deploy(device, new, prefetch=True, window=NIGHT)
        site.server.open_gate(rollout, device)
        await until(lambda: _root(site).is_symlink())
        assert "outside its window" in agent.desk.waits
    assert [] == site.machine.switches()


async def test_what_the_caches_serve_in_its_place_is_deleted(tmp_path: Path) -> None:
    """Another content under the signed path is neither kept nor rooted, and not asked for again and again."""
    site = Site(tmp_path)
    site.store.wrong_digests = 1
    async with site.running():
        device = await site.member()
        new = site.machine.system("new", at="cache")
        site.deploy(device, new, prefetch=True)
        await until(lambda: not site.store.wrong_digests and not site.machine.host.at(new).exists())
    assert not _root(site).is_symlink()
    assert 1 == len(_fetched(site))


async def test_a_cache_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    """A download ahead fails for want of network like any other: later is early enough."""
    site = Site(tmp_path)
    site.store.fetch_fault = Fault(FaultKind.unreachable, "no route")
    async with site.running():
        device = await site.member()
        site.deploy(device, site.machine.system("new", at="cache"), prefetch=True)
        await until(lambda: len(_fetched(site)) > 1)
        site.store.fetch_fault = None
        await until(lambda: _root(site).is_symlink())
    assert [] == [one.attempt for one in site.server.reports if one.attempt and one.attempt.cause is Cause.NETWORK]


async def test_a_store_that_is_too_small_waits_for_its_turn(tmp_path: Path) -> None:
    """Nothing is collected for a download ahead: only the update itself makes room."""
    site = Site(tmp_path)
    site.store.unpacked_bytes = 1 << 60
    async with site.running() as agent:
        device = await site.member()
        site.deploy(device, site.machine.system("new", at="cache"), prefetch=True)
        await until(lambda: agent.desk.waits == "its wave is not open yet")
        await agent.desk.consider()
    assert [] == [call for call in site.store.calls if call.startswith(("realise", "collect"))]


async def test_what_is_wanted_no_more_is_let_go_of(tmp_path: Path) -> None:
    """A cancelled rollout keeps nothing on the disk."""
    site = Site(tmp_path)
    async with site.running():
        device = await site.member()
        rollout = site.deploy(device, site.machine.system("new", at="cache"), prefetch=True)
        await until(lambda: _root(site).is_symlink())
        site.fleet.control(Digest(rollout), "cancel")
        site.server.wake()
        await until(lambda: not _root(site).is_symlink())
    assert [] == site.machine.switches()
