"""The agent as a process on a NixOS-shaped device, with real Nix and a real coordinator: it ends right, once."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from tests.factories import Fleet, key
from tests.nix.fixtures import MakeDevice
from tests.nix.harness import CacheServer, Device, Faults, Systems

from nixfleet.client.admin import Admin
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.model.answers import PastAttempt
from nixfleet.model.ids import Tags
from nixfleet.model.statements import CacheRef, Closure
from nixfleet.model.views import DeviceView
from nixfleet.nix import Nix
from nixfleet.query import status_of
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.server.serve import Server
from nixfleet.server.settings import ServerSettings
from nixfleet.server.setup import create_fleet
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.narinfo import CacheKey, format_narinfo, parse_narinfo
from nixfleet.trust.signers import MemorySigner

pytestmark = pytest.mark.nix

DEADLINE_S = 60
SYNCED = "gates are open"
TAGS: Tags = {"env": "prod"}


class Site:
    """A coordinator in this process, an admin's client, one device with a token, and its cache."""

    def __init__(
        self,
        folder: Path,
        device: Device,
        systems: Systems,
        cache: CacheServer,
        cache_key: CacheKey,
        host: str = "127.0.0.1",
    ) -> None:
        self.folder = folder
        self.device = device
        self.systems = systems
        self.cache = cache
        with socket.socket() as probe:
            probe.bind((host, 0))
            self.listen = f"{host}:{probe.getsockname()[1]}"
        caches = (CacheRef(url=cache.url, key=cache_key.public),)
        self.fleet = Fleet(at=int(time.time()), urls=(f"http://{self.listen}",), caches=caches)
        leaf, payload = self.fleet.entries[0]
        signature = Leaf.unpack(leaf).sshsig
        secret = CacheKey.generate("built-in-1").text
        create_fleet(folder / "data", payload, signature, self.fleet.log_key, secret, now=self.fleet.now)
        self.server = self._server()
        self.server.start()
        self.log = (folder / "agent.log").open("wb")

    def _server(self) -> Server:
        return Server(ServerSettings(data_dir=self.folder / "data", listen=self.listen))

    def restart_server(self) -> None:
        """Stop the coordinator and start it again on the same address."""
        self.server.stop()
        self.server = self._server()
        self.server.start()

    async def connect(self, stack: AsyncExitStack) -> None:
        """Make the admin's client, and give the device its token."""
        client = Client([f"http://{self.listen}"], fleet=self.fleet.fleet, key=key("admin"), clock=_now)
        self.api = await stack.enter_async_context(client)
        mirror = Mirror.open(self.folder / "mirror", self.fleet.fleet)
        self.admin = Admin(self.api, mirror, MemorySigner(key("admin")), _now)
        self.device.write("/etc/nixfleet/token", await self.admin.make_token(TAGS, 2, 1), 0o600)
        self.device.write("/etc/nixfleet/agent.toml", 'name = "web-01"\ntoken_file = "/etc/nixfleet/token"\n')

    def agent(self) -> "subprocess.Popen[bytes]":
        """Start the installed agent on the device."""
        env = {"NIXFLEET_AGENT_VOLATILE_STATE": "true"}
        return self.device.popen(["nixfleet", "agent", "run", "--verbose"], env=env, stdout=self.log, stderr=self.log)

    def said(self) -> str:
        """Give what agents said so far."""
        return (self.folder / "agent.log").read_text()

    async def closure(self, path: str) -> Closure:
        """Make a release's closure of a built system."""
        nix = Nix(store=str(self.systems.store), env=self.systems.env)
        digest, nar_bytes = await nix.digest(path)
        return Closure(path=path, system="x86_64-linux", digest=digest, nar_size=nar_bytes)

    async def deploy(self, path: str, closure: Closure | None = None) -> str:
        """Sign a release of a system for the device and start it at once; give the rollout's digest."""
        release = await self.admin.release("r", devices={"web-01": closure or await self.closure(path)})
        started = await self.admin.rollout(release.digest, RolloutWishes(all_at_once=True))
        return started.digest

    async def view(self) -> DeviceView | None:
        """Read what the coordinator knows of the device."""
        return next((one for one in await self.api.devices() if one.name == "web-01"), None)

    async def joined(self) -> None:
        """Wait until the device is a member that has reported."""
        await self.until(lambda view: view is not None and view.reported_at > 0)

    async def until(self, holds: Callable[[DeviceView | None], object]) -> None:
        """Wait for what the coordinator knows of the device, with a deadline."""
        view = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not holds(view := await self.view()):  # noqa: ASYNC110 - asked of another process
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"still {view}; the agent said:\n{self.said()[-3000:]}")

    async def outcome(self, rollout: str) -> PastAttempt:
        """Wait for the one outcome of a rollout."""
        ended: list[PastAttempt] = []
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not ended:
                    history = await self.api.device_history("web-01")
                    ended = [one for one in history if one.rollout == rollout and one.outcome]
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"no outcome; the agent said:\n{self.said()[-3000:]}")
        [attempt] = ended
        return attempt

    def state(self) -> tuple[str, str, str]:
        """Give the running system, the profile's and the boot loader's."""
        return self.device.current_system, self.device.profile, self.device.boot_default


def _now() -> int:
    return int(time.time())


@pytest.fixture
async def site(
    tmp_path: Path, make_device: MakeDevice, systems: Systems, cache_server: CacheServer, cache_key: CacheKey
) -> AsyncIterator[Site]:
    """Give a site whose device runs A and whose cache has A, B and BAD."""
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


async def until(condition: Callable[[], object], site: Site) -> None:
    """Wait for something on the device, with a deadline."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 - another process brings it about
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"not so in {DEADLINE_S} s; the agent said:\n{site.said()[-3000:]}")


async def test_a_device_joins_and_goes_from_one_system_to_the_next(site: Site) -> None:
    """A to B: fetched by real Nix, digest compared, switched once, confirmed; roots keep B and A."""
    b = site.systems.b
    site.agent()
    await site.joined()
    attempt = await site.outcome(await site.deploy(b))
    assert ("confirmed", b, site.systems.a) == (attempt.outcome, attempt.path, attempt.previous)
    assert (b, b, b) == site.state()
    assert [("switch", b)] == site.device.switches()
    roots = site.device.path("/nix/var/nix/gcroots/nixfleet")
    await until(lambda: not (roots / "incoming").is_symlink(), site)
    assert {"confirmed-1": b, "previous": site.systems.a} == {one.name: str(one.readlink()) for one in roots.iterdir()}
    site.device.run(["nix-store", "--gc"])
    assert site.device.has(b)
    assert site.device.has(site.systems.a)
    view = await site.view()
    assert view is not None
    assert view.facts is not None
    assert (b, True, "24.05") == (view.system, view.healthy, view.facts.nixos_version[:5])


async def test_a_system_whose_activation_fails_is_taken_back(site: Site) -> None:
    """BAD ends reverted with exit 2 and its last lines; A runs, is the profile's and the boot loader's again."""
    a, bad = site.systems.a, site.systems.bad
    site.agent()
    await site.joined()
    attempt = await site.outcome(await site.deploy(bad))
    assert ("reverted", "activation", "the activation script failed") == (
        attempt.outcome,
        attempt.cause,
        attempt.reason,
    )
    assert any("Failed to run activate script" in line for line in attempt.lines)
    assert (a, a, a) == site.state()
    assert [("switch", bad), ("switch", a)] == site.device.switches()
    assert bad not in site.device.generations.values()


async def test_killed_in_the_middle_of_a_download_it_goes_on_and_ends_once(site: Site) -> None:
    """Kill -9 while Nix downloads; the next agent resumes and confirms, with one switch."""
    b = site.systems.b
    site.cache.faults = Faults(rate_bytes_s=100_000)
    agent = site.agent()
    await site.joined()
    rollout = await site.deploy(b)
    await until(lambda: site.cache.nar_bytes > 20_000, site)
    agent.send_signal(signal.SIGKILL)
    agent.wait(10)
    assert not site.device.has(b)
    assert site.device.switches() == []
    site.cache.faults = Faults()
    site.agent()
    assert (await site.outcome(rollout)).outcome == "confirmed"
    assert ((b, b, b), [("switch", b)]) == (site.state(), site.device.switches())


@pytest.mark.parametrize("name", ["b", "bad"])
async def test_killed_in_the_middle_of_a_switch_its_end_is_collected(site: Site, name: str) -> None:
    """Kill -9 while switch-to-configuration runs: it runs on, and the next agent confirms or goes back."""
    a, new = site.systems.a, getattr(site.systems, name)
    site.device.steer("hold")
    agent = site.agent()
    await site.joined()
    rollout = await site.deploy(new)
    await until(site.device.switches, site)
    agent.send_signal(signal.SIGKILL)
    agent.wait(10)
    synced = site.said().count(SYNCED)
    site.agent()
    # It resumes before it syncs: had it called the switch again, the lock would have turned that call away by now.
    await until(lambda: site.said().count(SYNCED) > synced, site)
    site.device.unsteer("hold")
    attempt = await site.outcome(rollout)
    if name == "b":
        assert ("confirmed", (new, new, new)) == (attempt.outcome, site.state())
        assert [("switch", new)] == site.device.switches()
    else:
        assert ("reverted", (a, a, a)) == (attempt.outcome, site.state())
        assert [("switch", new), ("switch", a)] == site.device.switches()


async def test_a_coordinator_that_restarts_during_an_update_changes_nothing(site: Site) -> None:
    """The coordinator gone mid-download and back: the agent finds it again and the outcome arrives, once."""
    b = site.systems.b
    site.device.steer("hold")
    site.agent()
    await site.joined()
    rollout = await site.deploy(b)
    await until(site.device.switches, site)
    await asyncio.to_thread(site.restart_server)
    site.device.unsteer("hold")
    assert (await site.outcome(rollout)).outcome == "confirmed"
    assert [("switch", b)] == site.device.switches()


async def test_root_pauses_on_the_device_and_switches_by_hand(site: Site) -> None:
    """A pause beside a running agent is told at once, holds an update, and ends; a local switch is drift, and stays.

    Status says all of it on the device, also while the coordinator is gone.
    """
    a, b = site.systems.a, site.systems.b
    site.agent()
    await site.joined()
    site.device.run(["nixfleet", "agent", "pause", "--for", "1h", "--reason", "moving the rack"])
    await site.until(lambda view: view is not None and view.paused_until)
    rollout = await site.deploy(b)
    await site.until(lambda view: view is not None and "moving the rack" in view.waits)
    view = await site.view()
    assert view is not None
    assert ("paused", "moving the rack") == (status_of(view), view.pause_reason)
    site.device.run(["nixfleet", "agent", "resume"])
    assert "confirmed" == (await site.outcome(rollout)).outcome
    site.device.run(["nix-env", "--profile", "/nix/var/nix/profiles/system", "--set", a])
    site.device.run([f"{a}/bin/switch-to-configuration", "switch"])
    await site.until(lambda view: view is not None and view.drifted)
    view = await site.view()
    assert view is not None
    assert ("drifted", a, b) == (status_of(view), view.system, view.intended)
    await asyncio.to_thread(site.server.stop)
    told = json.loads(site.device.run(["nixfleet", "agent", "status", "--json"]).stdout)
    assert (True, b, a, "confirmed", None) == (
        told["running"],
        told["drifted_from"],
        told["system"],
        told["phase"],
        told["paused_until"],
    )
    assert [("switch", b), ("switch", a)] == site.device.switches()


async def test_a_cache_that_is_gone_for_a_while_delays_and_does_not_fail(site: Site) -> None:
    """A network that mends is waited for; the same rollout ends confirmed."""
    b = site.systems.b
    site.cache.faults = Faults(die_after_bytes=20_000)
    site.agent()
    await site.joined()
    rollout = await site.deploy(b)
    await until(site.cache.died.is_set, site)
    site.cache.faults = Faults()
    await asyncio.to_thread(site.cache.revive)
    assert (await site.outcome(rollout)).outcome == "confirmed"


async def test_a_closure_that_is_not_the_signed_one_is_untrusted(site: Site) -> None:
    """The right path, signed by the right cache key, but not with the signed digest: nothing is switched."""
    a, b = site.systems.a, site.systems.b
    site.agent()
    await site.joined()
    honest = await site.closure(b)
    lie = Closure(path=b, system=honest.system, digest="ab" * 32, nar_size=honest.nar_size)
    attempt = await site.outcome(await site.deploy(b, lie))
    assert ("failed", "untrusted") == (attempt.outcome, attempt.cause)
    assert "its digest differs" in attempt.reason
    assert ((a, a, a), []) == (site.state(), site.device.switches())


@pytest.mark.parametrize("planted", [False, True])
async def test_a_rollback_returns_to_what_ran_and_to_nothing_planted_under_its_path(
    site: Site, tmp_path: Path, cache_key: CacheKey, planted: bool
) -> None:
    """The old system was collected and a cache filled its path again, well signed: only the true content is run."""
    a, b, bad = site.systems.a, site.systems.b, site.systems.bad
    site.agent()
    await site.joined()
    rollout = await site.deploy(b)
    assert (await site.outcome(rollout)).outcome == "confirmed"
    if planted:
        folder = tmp_path / "planted"
        shutil.copytree(site.cache.folder, folder)
        source = parse_narinfo(narinfo_of(folder, bad).read_text())
        info = replace(source, store_path=a, signatures=())
        narinfo_of(folder, a).write_text(format_narinfo(cache_key.signed(info)))
        site.device.run(["nix-store", "--delete", "--ignore-liveness", a])
        with CacheServer(folder) as cache:
            options = ["--option", "substituters", cache.url, "--option", "trusted-public-keys", cache_key.public]
            site.device.run(["nix-store", "--realise", a, *options])
    back = await site.admin.rollback(rollout, RolloutWishes(all_at_once=True))
    attempt = await site.outcome(back.digest)
    if planted:
        assert ("failed", "untrusted") == (attempt.outcome, attempt.cause)
        assert (site.state(), [("switch", b)]) == ((b, b, b), site.device.switches())
    else:
        assert ("confirmed", (a, a, a)) == (attempt.outcome, site.state())


def narinfo_of(folder: Path, path: str) -> Path:
    """Find the narinfo file of a store path in a cache folder."""
    return folder / f"{path.removeprefix('/nix/store/')[:32]}.narinfo"


async def test_a_cache_that_signs_with_another_key_is_untrusted(site: Site, tmp_path: Path) -> None:
    """Paths without a signature by the named key are not installed, and the outcome says so."""
    a, b = site.systems.a, site.systems.b
    other = tmp_path / "other"
    site.systems.push(b, other, CacheKey.generate("other-1"))
    site.cache.folder = other
    site.agent()
    await site.joined()
    attempt = await site.outcome(await site.deploy(b))
    assert ("failed", "untrusted") == (attempt.outcome, attempt.cause)
    assert ((a, a, a), []) == (site.state(), site.device.switches())


async def test_a_system_without_an_agent_would_leave_the_fleet(site: Site, tmp_path: Path, cache_key: CacheKey) -> None:
    """Fetched, read, refused: nothing is switched."""
    alone = site.systems.build(agent=False)
    cache = tmp_path / "alone"
    site.systems.push(alone, cache, cache_key)
    site.cache.folder = cache
    site.agent()
    await site.joined()
    attempt = await site.outcome(await site.deploy(alone))
    expected = ("refused", "would leave the fleet: it has no enabled nixfleet-agent.service")
    assert expected == (attempt.outcome, attempt.reason)
    assert site.device.switches() == []


async def test_an_idle_agent_is_small(site: Site) -> None:
    """At most 45 MB resident, connected and idle (budgets.md)."""
    agent = site.agent()
    await site.joined()
    assert resident_bytes(agent.pid) <= 45 << 20
    os.kill(agent.pid, signal.SIGTERM)
    assert agent.wait(20) == 0


def resident_bytes(pid: int) -> int:
    """Give the resident memory of a process (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) << 10
