"""Agents and a coordinator that was restored from an old backup: nothing starts, everything comes back, it goes on."""

import asyncio
import copy
import shutil
from pathlib import Path

import pytest
from tests.agent.made_up import CACHE
from tests.factories import Fleet, fingerprint, key
from tests.fleet.members import Member
from tests.server.backups import copy_database, fork_of, mirror_of, put_back
from tests.server.harness import Rig, rig, until

from nixfleet.agent import agent as agents
from nixfleet.agent import link as links
from nixfleet.agent.agent import Agent
from nixfleet.client.api import Client
from nixfleet.errors import Unreachable
from nixfleet.model.statements import LogKey
from nixfleet.server.coordinator import restoring
from nixfleet.server.refound import Refounding, Saved, refound
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.narinfo import CacheKey


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back at once instead of after a second."""
    monkeypatch.setattr(links, "BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr(links, "BACKOFF_MOST_S", 0.2)
    monkeypatch.setattr(agents, "CONTACT_S", 0.05)


async def copied(one: Rig) -> Path | str:
    """Take a backup between two lives of the coordinator."""
    one.stay()
    await asyncio.to_thread(one.server.stop)
    taken = await asyncio.to_thread(copy_database, one)
    one.server = one.make_server()
    await asyncio.to_thread(one.server.start)
    return taken


async def restore(one: Rig, taken: Path | str) -> None:
    """Put the backup in place."""
    await asyncio.to_thread(one.server.stop)
    await asyncio.to_thread(put_back, one, taken)
    one.server = one.make_server()
    await asyncio.to_thread(one.server.start)


async def refusal(one: Rig, admin: Client) -> str:
    """Try to append, and give the reason why that is not done."""
    try:
        await admin.append([one.submission(1)])
    except Unreachable as error:
        return str(error)
    return ""


def pass_quiet(one: Rig) -> None:
    """Let the quiet time pass."""
    one.now = one.fleet.now = max(one.now, one.fleet.now) + restoring.QUIET_S


async def test_one_agent_makes_the_coordinator_whole_and_rollouts_go_on(tmp_path: Path) -> None:
    """A rollout that the backup does not know is back with its outcome; the next one reaches the device."""
    async with rig(tmp_path / "data", caches=(CACHE,)) as one, one.client("admin") as admin:
        web = Member(tmp_path / "web", one, "web-01")
        web.enrol()
        await one.send(admin)
        taken = await copied(one)
        async with web.running() as agent:
            first = await web.deployed("a")
            size, log = one.fleet.size, agent.link.mirror.log_state
            await restore(one, taken)
            await until(lambda: refusal(one, admin), lambda why: "ran an old backup and has its 4 entries back" in why)
            assert (size, log, "") == ((await admin.fleet()).log_size, agent.link.mirror.log_state, agent.link.trouble)
            pass_quiet(one)
            second = await web.deployed("b")
            assert (await admin.rollout(second)).rollout.id == second
            entries = (await admin.audit(0)).entries
        assert [first, second] == [entry.digest for entry in entries if entry.type == "rollout"]


async def test_a_device_that_the_backup_does_not_know_brings_itself_back(tmp_path: Path) -> None:
    """Its key is a stranger's to the old log: it gives back its own enrolment, and is a member again."""
    async with rig(tmp_path / "data", caches=(CACHE,)) as one, one.client("admin") as admin:
        taken = await copied(one)
        web = Member(tmp_path / "web", one, "web-01")
        web.enrol()
        await one.send(admin)
        async with web.running() as agent:
            await until(admin.devices, lambda devices: any(device.seen_at for device in devices))
            size = agent.link.mirror.size
            await restore(one, taken)
            await until(admin.fleet, lambda fleet: fleet.log_size == size)
            pass_quiet(one)
            await web.deployed("a")


async def test_an_agent_shown_an_old_backup_starts_nothing(tmp_path: Path) -> None:
    """A rollout of the backup that was cancelled since is not begun, though its gate is open there."""
    async with rig(tmp_path / "data", caches=(CACHE,)) as one, one.client("admin") as admin:
        web = Member(tmp_path / "web", one, "web-01")
        web.enrol()
        _, rollout, lines = web.deploy("a")
        await one.send(admin, lines)
        taken = await copied(one)
        one.fleet.control(rollout, "cancel")
        await one.send(admin)
        async with web.running() as agent:
            await until(admin.devices, lambda devices: any(device.seen_at for device in devices))
            await restore(one, taken)
            await until(admin.fleet, lambda fleet: fleet.log_size == one.fleet.size)
            assert "" == agent.link.trouble
        assert [] == web.machine.switches()


def refounded(one: Rig, folder: Path, size: int) -> None:
    """Lose the coordinator for good, and make it anew from a person's copy of the first entries."""
    shutil.rmtree(one.data_dir)
    mirror = mirror_of(folder, one.fleet, size=size)
    keep = branch(one.fleet, size)
    new = key("log-1")
    keep.root(log=LogKey(key=new.public.text, epoch=1, from_=keep.log))
    leaf, payload = keep.entries[-1]
    saved = Saved(one.fleet.fleet, [(mirror.leaf(at), mirror.payload(at)) for at in range(size)], {})
    root = Refounding(payload, [Leaf.unpack(leaf).sshsig], keep.now)
    refound(one.data_dir, saved, root, new, CacheKey.generate("acme-2").text)
    keep.log_key, keep.epoch = new, 1
    one.fleet, one.sent, one.now = keep, keep.size, max(one.now, keep.now)


def branch(fleet: Fleet, size: int) -> Fleet:
    """Begin another history after the first entries."""
    other = copy.deepcopy(fleet)
    other.entries[size:] = []
    other.tree, other.state = fork_of(other)
    return other


@pytest.mark.parametrize("lost", [0, 3])
async def test_devices_go_on_with_a_coordinator_that_was_made_anew(tmp_path: Path, lost: int) -> None:
    """Attempts, what was left and later revocations stay; nothing old begins; the next epoch's rollout does."""
    async with rig(tmp_path / "data", caches=(CACHE,)) as one, one.client("admin") as admin:
        web = Member(tmp_path / "web", one, "web-01")
        web.enrol()
        one.fleet.grant("ops", "deploy", "release")
        await one.send(admin)
        one.stay()
        async with web.running() as agent:
            first = await web.deployed("a")
            second = await web.deployed("b")
            size = one.fleet.size
            if lost:
                one.fleet.device("web-09")
                one.fleet.revoke(key_name="ops")
                one.fleet.grant("other", "deploy")
                await one.send(admin)
            await until(lambda: log_size(agent), lambda held: held == one.fleet.size)
            before = agent.service.state
            await asyncio.to_thread(one.server.stop)
            await asyncio.to_thread(refounded, one, tmp_path / "saved", size)
            one.server = one.make_server()
            await asyncio.to_thread(one.server.start)
            await until(lambda: log_size(agent), lambda held: held == size + 1)
            assert (1, "") == (agent.link.mirror.state.log_keys[-1][2], agent.link.trouble)
            assert (fingerprint("ops") in agent.link.mirror.state.revoked_keys) is bool(lost)
            state = agent.service.state
            assert (before.attempted, before.left, before.confirmed) == (state.attempted, state.left, state.confirmed)
            third = await web.deployed("c")
            assert (1, size + 2) == agent.service.state.attempted
        assert ["a", "b", "c"] == [line.rpartition("-")[2] for line in web.machine.switches()]
        assert [first, second, third] == [entry.rollout for entry in agent.service.state.confirmed]
        again = web.parts()
        assert one.fleet.log == again.mirror.log_state
        assert (fingerprint("ops") in again.mirror.state.revoked_keys) is bool(lost)


async def log_size(agent: Agent) -> int:
    """Tell how much of the log an agent holds."""
    return agent.link.mirror.size
