"""Agents and a coordinator that was restored from an old backup: nothing starts, everything comes back, it goes on."""

import asyncio
from pathlib import Path

import pytest
from tests.agent.made_up import CACHE
from tests.fleet.members import Member
from tests.server.backups import copy_database, put_back
from tests.server.harness import Rig, rig, until

from nixfleet.agent import agent as agents
from nixfleet.agent import link as links
from nixfleet.client.api import Client
from nixfleet.errors import Unreachable
from nixfleet.server.coordinator import restoring


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
    copy = await asyncio.to_thread(copy_database, one)
    one.server = one.make_server()
    await asyncio.to_thread(one.server.start)
    return copy


async def restore(one: Rig, copy: Path | str) -> None:
    """Put the backup in place."""
    await asyncio.to_thread(one.server.stop)
    await asyncio.to_thread(put_back, one, copy)
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
        copy = await copied(one)
        async with web.running() as agent:
            first = await web.deployed("a")
            size, log = one.fleet.size, agent.link.mirror.log_state
            await restore(one, copy)
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
        copy = await copied(one)
        web = Member(tmp_path / "web", one, "web-01")
        web.enrol()
        await one.send(admin)
        async with web.running() as agent:
            await until(admin.devices, lambda devices: any(device.seen_at for device in devices))
            size = agent.link.mirror.size
            await restore(one, copy)
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
        copy = await copied(one)
        one.fleet.control(rollout, "cancel")
        await one.send(admin)
        async with web.running() as agent:
            await until(admin.devices, lambda devices: any(device.seen_at for device in devices))
            await restore(one, copy)
            await until(admin.fleet, lambda fleet: fleet.log_size == one.fleet.size)
            assert "" == agent.link.trouble
        assert [] == web.machine.switches()
