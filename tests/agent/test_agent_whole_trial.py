"""The whole agent on trial of a system (mode `test`): real log, signatures and switches; clock and Nix made up."""

from pathlib import Path

import pytest
from tests.agent.site import Site, until

from nixfleet.agent.history import drift
from nixfleet.agent.update import Tick
from nixfleet.model.device import Phase
from nixfleet.model.statements import Activation

pytestmark = pytest.mark.usefixtures("impatient")


async def test_a_trial_is_signed_told_kept_to_over_a_restart_and_taken_back(tmp_path: Path) -> None:
    """The coordinator sees it on trial, then one outcome; profile and boot default are what they were."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    host = site.machine.host
    async with site.running() as agent:
        device = await site.member()
        rollout = site.deploy(device, new, mode="test", activation=Activation(for_s=600))
        site.server.open_gate(rollout, device)
        await until(lambda: agent.service.state.update is not None and agent.service.state.update.trying)
        assert (new, site.old) == (host.current_system(), host.profile_system())
        await until(lambda: any("on trial for 10m" in one.attempt.reason for one in site.server.reports if one.attempt))
        assert [] == site.server.outcomes()
    site.boot_s += 599
    async with site.running() as agent:
        agent.service.feed(Tick())
        assert (Phase.CONFIRMING, new) == (agent.service.state.update.phase, host.current_system())  # type: ignore[union-attr] # it has one
        site.boot_s += 1
        agent.service.feed(Tick())
        await until(lambda: bool(site.server.outcomes()))
        assert "" == drift(agent.service.state, host.current_system())
    assert [(rollout, 1, "confirmed")] == site.server.outcomes()
    assert (site.old, site.old) == (host.current_system(), host.profile_system())
    assert ["test", "test"] == [one.split()[0] for one in site.machine.switches()]
