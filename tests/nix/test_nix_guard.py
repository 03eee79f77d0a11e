"""A switch that takes its agent away, on a NixOS-shaped device with real Nix: the old system goes back by itself."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.nix.fixtures import MakeDevice
from tests.nix.harness import CacheServer, Systems
from tests.nix.test_agent_update import Site, until

from nixfleet.agent.guard import NOT_BACK
from nixfleet.model.statements import Activation
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.trust.narinfo import CacheKey

pytestmark = pytest.mark.nix

# The installed agent, but with a guard that looks often and grants a second beyond what the rollout says.
AGENT = """
import sys
from nixfleet.agent import guard, guarding, main
guard.LOOK_S, guarding.MARGIN_S = 0.1, 1
sys.exit(main.main(["run", "--verbose"]))
"""
KILL_AGENT = """\
#!/bin/sh
# What a switch does that stops the agent and never starts it again.
[ "$1" = switch ] && [ ! -e /var/lib/stc/killed ] && kill -9 "$(cat /var/lib/stc/agent)" && : >/var/lib/stc/killed
exit 0
"""


@pytest.fixture
async def site(
    tmp_path: Path, make_device: MakeDevice, systems: Systems, cache_server: CacheServer, cache_key: CacheKey
) -> AsyncIterator[Site]:
    """Give a site whose device runs A."""
    device = make_device("web-01").boot(systems)
    made = Site(tmp_path, device, systems, cache_server, cache_key)
    try:
        async with AsyncExitStack() as stack:
            await made.connect(stack)
            yield made
    finally:
        device.close()
        made.log.close()
        await asyncio.to_thread(made.server.stop)


def agent(site: Site) -> "subprocess.Popen[bytes]":
    """Start the agent with an eager guard."""
    env = {"NIXFLEET_AGENT_VOLATILE_STATE": "true"}
    return site.device.popen([sys.executable, "-c", AGENT], env=env, stdout=site.log, stderr=site.log)


async def deploy(site: Site, path: str) -> str:
    """Deploy a system that has to be confirmed in a few seconds."""
    release = await site.admin.release("r", devices={"web-01": await site.closure(path)})
    wishes = RolloutWishes(all_at_once=True, activation=Activation(confirm_s=5))
    return (await site.admin.rollout(release.digest, wishes)).digest


@pytest.mark.parametrize("name", ["b", "bad"])
async def test_a_switch_that_ends_the_agent_for_good_is_taken_back_without_it(site: Site, name: str) -> None:
    """Nobody is there: the old system, its profile and its boot entry come back; the agent that returns reports it."""
    a, new = site.systems.a, getattr(site.systems, name)
    first = agent(site)
    await site.joined()
    site.device.write("/var/lib/stc/agent", str(first.pid))
    site.device.steer("hook", KILL_AGENT)
    rollout = await deploy(site, new)
    await asyncio.to_thread(first.wait, 60)
    ended = site.device.path("/var/lib/nixfleet/guard/ended")
    await until(ended.exists, site)
    assert (a, a, a) == site.state()
    assert [("switch", new), ("switch", a)] == site.device.switches()
    agent(site)
    attempt = await site.outcome(rollout)
    assert ("reverted", "health", NOT_BACK, a) == (attempt.outcome, attempt.cause, attempt.reason, attempt.previous)
    assert any("activating the configuration" in line for line in attempt.lines)
    # The agent that returned found all in place, and switched nothing again.
    assert ((a, a, a), 2) == (site.state(), len(site.device.switches()))
    assert new not in site.device.generations.values()
    await until(lambda: not ended.parent.exists(), site)


@pytest.mark.parametrize("healthy", [True, False])
async def test_a_device_that_went_down_into_the_new_system_goes_on_without_its_guard(site: Site, healthy: bool) -> None:
    """A reboot amid the update: the guard is gone; the agent of the booted system checks, and confirms or goes back."""
    a, b = site.systems.a, site.systems.b
    first = agent(site)
    await site.joined()
    site.device.write("/var/lib/stc/agent", str(first.pid))
    site.device.steer("hook", KILL_AGENT)
    rollout = await deploy(site, b)
    await asyncio.to_thread(first.wait, 60)
    await until(lambda: site.device.current_system == b, site)
    job = site.device.path("/var/lib/nixfleet/jobs")
    await until(lambda: list(job.glob("*/exit")), site)
    site.device.reboot()
    if not healthy:
        toml = site.device.read("/etc/nixfleet/agent.toml")
        site.device.write("/etc/nixfleet/agent.toml", f'{toml}[[checks.command]]\nargv = ["/bin/false"]\n')
    agent(site)
    attempt = await site.outcome(rollout)
    if healthy:
        assert ("confirmed", (b, b, b), [("switch", b)]) == (attempt.outcome, site.state(), site.device.switches())
    else:
        assert ("reverted", "health", (a, a, a)) == (attempt.outcome, attempt.cause, site.state())
        assert "/bin/false" in attempt.reason
        assert [("switch", b), ("switch", a)] == site.device.switches()


async def test_a_device_without_a_way_back_does_not_go_forward(site: Site) -> None:
    """The running system has no switch: the update ends before anything is fetched."""
    a = site.systems.a
    switch = site.device.path(f"{a}/bin/switch-to-configuration")
    agent(site)
    await site.joined()
    switch.parent.chmod(0o755)
    switch.unlink()
    attempt = await site.outcome(await deploy(site, site.systems.b))
    assert ("failed", "preflight") == (attempt.outcome, attempt.cause)
    assert attempt.reason.startswith("no way back")
    assert ([], False) == (site.device.switches(), site.device.has(site.systems.b))
