"""Whose line of a release a whole agent follows: its own, of the highest rollout, however the coordinator hides it."""

import hashlib
from pathlib import Path

import pytest
from tests.agent.made_up import CACHE, digest_of
from tests.agent.site import Site, until

from nixfleet.model.ids import Digest
from nixfleet.model.statements import Rollout, TargetLine
from nixfleet.trust.lines import LineTree
from nixfleet.trust.statements import encode

pytestmark = pytest.mark.usefixtures("impatient")


async def test_a_line_that_was_not_there_yet_is_asked_for_again(tmp_path: Path) -> None:
    """A coordinator that has no line to show yet has not said that there is none."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    async with site.running() as agent:
        device = await site.member()
        rollout = site.deploy(device, new)
        lines, site.server.lines = site.server.lines, None
        site.server.open_gate(rollout, device)
        await until(lambda: agent.link.mirror.size == site.fleet.size and bool(agent.desk.waits or site.server.syncs))
        site.server.lines = lines

        def woken_and_told() -> bool:
            site.server.wake()
            return bool(site.server.outcomes())

        await until(woken_and_told)
    assert site.server.outcomes() == [(rollout, 1, "confirmed")]


def _served(site: Site, device: str, path: str, *, keep_back: bool = False) -> tuple[str, Rollout]:
    """Sign a release with the device's line and a rollout of it; with `keep_back` the rollout stays out of the log."""
    line = TargetLine(device=device, path=path, system="x86_64-linux", digest=digest_of(path), nar_size=1_000)
    tree = LineTree([line])
    release, _ = site.fleet.release(path[44:], caches=(CACHE,), lines=None, targets=tree.targets)
    signed = site.fleet.rollout_statement(release)
    digest = hashlib.sha256(encode(signed)).hexdigest() if keep_back else site.fleet.submit(signed)
    site.server.line_trees[digest] = tree
    return digest, signed


async def test_a_rollout_of_others_is_no_worry_of_a_device_that_is_up_to_date(tmp_path: Path) -> None:
    """Without an open wave nobody asks whether a rollout has a line for this device, and nothing is said of it."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    async with site.running() as agent:
        device = await site.member()
        own, _ = _served(site, device, new)
        site.server.open_gate(own, device)
        await until(lambda: (own, 1, "confirmed") in site.server.outcomes())
        site.server.open_gates.clear()
        _served(site, "0" * 32, new)
        site.server.wake()
        await until(lambda: agent.link.mirror.size == site.fleet.size)
        await agent.desk.consider()
        assert agent.desk.waits == ""
    assert {""} == {one.note for one in site.server.reports}


async def test_a_coordinator_cannot_reverse_a_device_by_hiding_the_line_of_its_system(tmp_path: Path) -> None:
    """A rollout kept back and played after a newer one stays stale, though the newer one's line is denied."""
    site = Site(tmp_path)
    vulnerable, fixed = (site.machine.system(name, at="cache") for name in ("vulnerable", "fixed"))
    async with site.running():
        device = await site.member()
        old, held_back = _served(site, device, vulnerable, keep_back=True)
        new, _ = _served(site, device, fixed)
        site.server.open_gate(new, device)
        await until(lambda: (new, 1, "confirmed") in site.server.outcomes())
    assert site.fleet.submit(held_back) == old
    site.server.hidden = {new}
    site.server.open_gates = [(old, device, 1)]
    async with site.running() as agent:
        await until(lambda: agent.link.mirror.size == site.fleet.size)
        await agent.desk.consider()
        await agent.service.idle()
    assert ([f"switch {fixed}"], fixed) == (site.machine.switches(), site.machine.host.current_system())


async def test_no_older_rollout_comes_in_the_place_of_one_whose_line_is_hidden(tmp_path: Path) -> None:
    """A denied line is asked for again and again; until it or its absence is proven, nothing begins."""
    site = Site(tmp_path)
    older, newer = (site.machine.system(name, at="cache") for name in ("older", "newer"))
    async with site.running() as agent:
        device = await site.member()
        first, _ = _served(site, device, older)
        second, _ = _served(site, device, newer)
        site.server.hidden = {second}
        site.server.open_gate(first, device)
        await until(lambda: "could not be fetched" in agent.desk.waits)
        assert (site.machine.switches(), agent.service.state.update) == ([], None)
        site.server.hidden = set()
        site.server.open_gate(second, device)
        await until(lambda: bool(site.server.outcomes()))
    assert ([(second, 1, "confirmed")], newer) == (site.server.outcomes(), site.machine.host.current_system())


async def test_an_older_rollout_is_followed_where_the_newer_provably_has_no_line(tmp_path: Path) -> None:
    """A proven absence is as good as a line: the newer rollout is not for this device."""
    site = Site(tmp_path)
    older = site.machine.system("older", at="cache")
    async with site.running():
        device = await site.member()
        first, _ = _served(site, device, older)
        _served(site, "0" * 32, older)
        site.server.open_gate(first, device)
        await until(lambda: bool(site.server.outcomes()))
    assert ([(first, 1, "confirmed")], older) == (site.server.outcomes(), site.machine.host.current_system())


async def test_an_agent_that_is_too_old_says_so_though_a_line_is_not_known_yet(tmp_path: Path) -> None:
    """Whatever else it waits for: people must see that this device needs a newer agent."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    async with site.running():
        device = await site.member()
        site.deploy(device, new)
        site.fleet.root(protocol=2)
        site.server.wake()
        await until(lambda: any(one.note.startswith("agent too old: ") for one in site.server.reports))
    assert site.machine.switches() == []


async def test_a_rollout_of_no_release_by_somebody_without_the_right_here_stops_nobody(tmp_path: Path) -> None:
    """Who may deploy elsewhere can name a release that is in no log, for all devices: it only does not count here."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    site.fleet.grant("dev", "deploy", select={"env": ["dev"]})
    async with site.running():
        device = await site.member()
        rollout = site.deploy(device, new)
        site.fleet.rollout(Digest("0" * 64), by="dev", select={})
        site.server.open_gate(rollout, device)
        await until(lambda: bool(site.server.outcomes()))
    assert [(rollout, 1, "confirmed")] == site.server.outcomes()


async def test_a_line_that_could_not_be_had_is_asked_for_again_unasked(tmp_path: Path) -> None:
    """No sync has to come: the device that got no line, and no proof that it has none, tries again by itself."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    async with site.running() as agent:
        device = await site.member()
        rollout = site.deploy(device, new)
        lines, site.server.lines = site.server.lines, None
        site.server.open_gate(rollout, device)
        await until(lambda: "could not be fetched" in agent.desk.waits)
        site.server.lines = lines
        await until(lambda: site.server.outcomes() == [(rollout, 1, "confirmed")])
