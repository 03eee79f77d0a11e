"""Approvals counted on the device itself: whatever the coordinator hands out, nothing begins without them."""

from pathlib import Path

import pytest
from tests.agent.made_up import CACHE, digest_of
from tests.agent.site import Site, until
from tests.factories import principal

from nixfleet.agent import link as links
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Rule, TargetLine
from nixfleet.trust.lines import LineTree


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back at once instead of after a second."""
    monkeypatch.setattr(links, "BACKOFF_FIRST_S", 0.05)


def ruled(root: Path) -> Site:
    """Make a fleet whose root of two asks for one approval of what is deployed to production."""
    site = Site(root)
    fleet = site.fleet
    fleet.grant("ops", "release", "deploy")
    fleet.grant("oncall", "approve")
    rule = Rule(select={"env": ("prod",)}, actions=("deploy",), approvals=1)
    made = fleet.root(principals=(principal("admin"), principal("second")), threshold=2, rules=(rule,))
    fleet.approve(made, "second")
    return site


def deployed(site: Site, device: str, path: str) -> Digest:
    """Let `ops` publish a system for the device and roll it out, and the coordinator open its gate at once."""
    line = TargetLine(device=device, path=path, system="x86_64-linux", digest=digest_of(path), nar_size=1_000)
    site.server.lines = LineTree([line])
    release, _ = site.fleet.release("r", by="ops", caches=(CACHE,), lines=None, targets=site.server.lines.targets)
    rollout = site.fleet.rollout(release, by="ops")
    site.server.open_gate(rollout, device)
    return rollout


async def test_a_gate_without_the_approval_opens_nothing(tmp_path: Path) -> None:
    """The submitter's own signature does not count; another person's does, and the update begins by itself."""
    site = ruled(tmp_path)
    new = site.machine.system("new", at="cache")
    async with site.running() as agent:
        rollout = deployed(site, await site.member(), new)
        await until(lambda: "approval" in agent.desk.waits)
        site.fleet.approve(rollout, "ops")
        site.server.wake()
        await until(lambda: agent.link.mirror.size == site.fleet.size)
        assert "approval" in agent.desk.waits
        assert [] == site.machine.switches()
        site.fleet.approve(rollout, "oncall")
        site.server.wake()
        await until(lambda: bool(site.server.outcomes()))
    assert ([(rollout, 1, "confirmed")], [f"switch {new}"]) == (site.server.outcomes(), site.machine.switches())


async def test_an_approval_whose_right_ended_before_the_start_counts_no_more(tmp_path: Path) -> None:
    """Approvals are judged again at use: the approver's key was revoked while the device was away."""
    site = ruled(tmp_path)
    new = site.machine.system("new", at="cache")
    async with site.running():
        device = await site.member()
    rollout = deployed(site, device, new)
    site.fleet.approve(rollout, "oncall")
    revoked = site.fleet.revoke(key_name="oncall")
    site.fleet.approve(revoked, "second")
    async with site.running() as agent:
        await until(lambda: agent.link.mirror.size == site.fleet.size)
        await until(lambda: "approval" in agent.desk.waits)
    assert [] == site.machine.switches()
