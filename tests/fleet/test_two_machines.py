"""Two real agents with one key, on a real coordinator: their fight for the stream is noticed, and said."""

import copy
import shutil
from functools import partial
from pathlib import Path

import msgspec
import pytest
from tests.agent.made_up import Machine, MadeUpStore
from tests.fleet.members import Member
from tests.server.harness import rig, until

from nixfleet.agent import link


def _copied(first: Member, root: Path, *, machine_id: str, boot: str) -> Member:
    """Copy a machine's whole disk into another one."""
    shutil.copytree(first.machine.root, root, symlinks=True)
    other = copy.copy(first)
    other.machine = Machine(root)
    other.machine.write("/etc/machine-id", f"{machine_id}\n")
    other.machine.write("/proc/sys/kernel/random/boot_id", f"{boot}\n")
    other.machine.write("/proc/sys/kernel/hostname", "copy\n")
    other.store = MadeUpStore(other.machine)
    other.settings = msgspec.structs.replace(first.settings, state_dir=str(other.machine.state_dir))
    return other


async def test_copy_that_does_not_notice_is_said_within_a_few_reconnections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy with the same machine-id takes the stream from the first one and loses it again: both are named."""
    monkeypatch.setattr(link, "BACKOFF_FIRST_S", 0.05)
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        first = Member(tmp_path / "first", one, "web-01")
        first.enrol()
        await one.send(admin)
        second = _copied(first, tmp_path / "second", machine_id="machine-1", boot="boot-2")
        look = partial(admin.device, "web-01")
        async with first.running():
            assert (await until(look, lambda view: bool(view.reported_at))).cause == ""
            async with second.running():
                view = await until(look, lambda view: bool(view.cause))
        assert "two machines use this key (" in view.reason
        assert "copy" in view.reason
        assert "web-01" in view.reason


async def test_machine_that_reboots_again_and_again_is_one(tmp_path: Path) -> None:
    """The same agent started on ten boots, one after the other, is never taken for two."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        first = Member(tmp_path / "first", one, "web-01")
        first.enrol()
        await one.send(admin)
        for boot in (f"boot-{number}" for number in range(10)):
            first.machine.write("/proc/sys/kernel/random/boot_id", f"{boot}\n")
            async with first.running():
                view = await until(partial(admin.device, "web-01"), lambda view: view.boot_id == boot)  # noqa: B023
            assert view.cause == ""


async def test_copy_that_notices_asks_to_be_enrolled_and_leaves_the_first_alone(tmp_path: Path) -> None:
    """With a machine-id of its own the copy becomes another device: no fight, no alarm, a request that says why."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        first = Member(tmp_path / "first", one, "web-01")
        first.enrol()
        await one.send(admin)
        second = _copied(first, tmp_path / "second", machine_id="machine-2", boot="boot-2")
        async with first.running(), second.running():
            (asking,) = await until(admin.enroll_requests, bool)
            view = await until(partial(admin.device, "web-01"), lambda view: bool(view.reported_at))
        assert asking.device != first.identity.device
        assert asking.reason
        assert view.cause == ""


async def test_machine_put_back_to_a_snapshot_is_heard_again_at_once(tmp_path: Path) -> None:
    """Its numbers lie behind those it gave since: it goes on above them, and nobody takes it for two machines."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        first = Member(tmp_path / "first", one, "web-01")
        first.enrol()
        await one.send(admin)
        look = partial(admin.device, "web-01")
        async with first.running():
            await until(look, lambda view: bool(view.reported_at))
        kept = tmp_path / "kept"
        shutil.copytree(first.machine.root, kept, symlinks=True)
        for number in range(3):
            first.machine.write("/proc/sys/kernel/random/boot_id", f"later-{number}\n")
            async with first.running():
                await until(look, lambda view: view.boot_id == f"later-{number}")  # noqa: B023 - used at once
        shutil.rmtree(first.machine.root)
        kept.rename(first.machine.root)
        first.machine.write("/proc/sys/kernel/random/boot_id", "restored\n")
        async with first.running():
            view = await until(look, lambda view: view.boot_id == "restored")
        assert view.cause == ""
