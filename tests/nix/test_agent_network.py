"""An agent behind address translation, with real Nix, whose network goes away and comes back: it ends right, once."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tests.nix.fixtures import MakeDevice
from tests.nix.harness import CacheServer, Faults, NatLab, Systems
from tests.nix.test_agent_update import Site, until

from nixfleet.model.statements import Activation
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.trust.narinfo import CacheKey

pytestmark = pytest.mark.nix

CONFIRM_S = 8
# The installed agent, but a silent stream counts as dead sooner, and downloads that stall are tried again sooner.
AGENT = """
import sys
from nixfleet.agent import main
from nixfleet.client.api import Client
Client.__init__.__kwdefaults__["silence_s"] = float(sys.argv[1])
sys.exit(main.main(["run", "--verbose"]))
"""


@dataclass
class Behind:
    """A site whose device reaches coordinator and cache through a network that can be cut."""

    site: Site
    lab: NatLab

    def agent(self, silence_s: float = 60) -> "subprocess.Popen[bytes]":
        """Start the agent on the device."""
        env = {"NIXFLEET_AGENT_VOLATILE_STATE": "true"}
        argv = [sys.executable, "-c", AGENT, str(silence_s)]
        return self.site.device.popen(argv, env=env, stdout=self.site.log, stderr=self.site.log)

    async def deploy(self, path: str) -> str:
        """Deploy a system that has to be confirmed in a few seconds."""
        release = await self.site.admin.release("r", devices={"web-01": await self.site.closure(path)})
        wishes = RolloutWishes(all_at_once=True, activation=Activation(confirm_s=CONFIRM_S))
        return (await self.site.admin.rollout(release.digest, wishes)).digest


@pytest.fixture
async def behind(
    tmp_path: Path, make_device: MakeDevice, systems: Systems, cache_folder: Path, cache_key: CacheKey
) -> AsyncIterator[Behind]:
    """Give a site behind address translation whose device runs A."""
    with NatLab(host=True) as lab, CacheServer(cache_folder, host=lab.coordinator_address) as cache:
        device = make_device("web-01", netns=lab.device_netns).boot(systems)
        site = Site(tmp_path, device, systems, cache, cache_key, host=lab.coordinator_address)
        try:
            async with AsyncExitStack() as stack:
                await site.connect(stack)
                yield Behind(site, lab)
        finally:
            device.close()
            site.log.close()
            await asyncio.to_thread(site.server.stop)


async def test_a_system_that_loses_the_network_is_left_and_the_reason_is_told(behind: Behind) -> None:
    """The switch cuts the device off: every packet vanishes. It goes back, reaches the coordinator, and says why."""
    site, (a, b) = behind.site, (behind.site.systems.a, behind.site.systems.b)
    site.device.steer("hold")
    behind.agent()
    await site.joined()
    rollout = await behind.deploy(b)
    await until(site.device.switches, site)
    behind.lab.cut()
    site.device.unsteer("hold")
    await until(lambda: site.device.current_system == b, site)
    # The old system's switch brings the network back.
    site.device.steer("hold")
    await until(lambda: len(site.device.switches()) == 2, site)
    behind.lab.mend()
    site.device.unsteer("hold")
    attempt = await site.outcome(rollout)
    assert ("reverted", "contact") == (attempt.outcome, attempt.cause)
    assert attempt.reason == f"no signed sync with the coordinator within {CONFIRM_S} s of the switch"
    assert (a, a, a) == site.state()
    assert [("switch", b), ("switch", a)] == site.device.switches()
    assert b not in site.device.generations.values()


async def test_a_connection_that_is_dead_on_one_side_is_given_up_and_made_anew(behind: Behind) -> None:
    """The coordinator restarts, and no packet that ends a connection passes: nobody tells the device of it."""
    site, b = behind.site, behind.site.systems.b
    behind.agent(silence_s=20)
    await site.joined()
    behind.lab.swallow_ends()
    await asyncio.to_thread(site.restart_server)
    assert "confirmed" == (await site.outcome(await behind.deploy(b))).outcome
    assert [("switch", b)] == site.device.switches()
    assert "went silent in the middle of an answer" in site.said()


async def test_a_line_that_is_there_now_and_then_brings_an_update_to_its_end(behind: Behind) -> None:
    """Each time it is up a piece arrives, and what has arrived is not fetched again."""
    site, b = behind.site, behind.site.systems.b
    site.cache.faults = Faults(rate_bytes_s=60_000)
    behind.agent()
    await site.joined()
    rollout = await behind.deploy(b)
    for part_bytes in (16_000, 32_000):
        await until(partial(came, site.cache, part_bytes), site)
        behind.lab.cut()
        seen = site.cache.nar_bytes
        await asyncio.to_thread(site.cache.died.wait, 1)  # the line is down for a second
        assert not site.device.has(b)
        assert site.cache.nar_bytes <= seen + (256 << 10)
        behind.lab.mend()
    assert "confirmed" == (await site.outcome(rollout)).outcome
    assert [("switch", b)] == site.device.switches()


def came(cache: CacheServer, nar_bytes: int) -> bool:
    """Tell whether a cache has sent more than so many bytes."""
    return cache.nar_bytes > nar_bytes
