"""A disk that was copied into a second machine, both running against one real coordinator: they do not fight."""

import shutil
from pathlib import Path

from msgspec.structs import replace
from tests.factories import key
from tests.fleet.members import Member
from tests.server.harness import rig, until

from nixfleet.model.device import CLONE


async def test_two_machines_with_one_disk_are_two_devices(tmp_path: Path) -> None:
    """The copy asks under a new id with a key of its own, under the first one's eyes; once let in, both are there."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        first = Member(tmp_path / "first", one, "web-01")
        first.enrol()
        await one.send(admin)
        async with first.running():
            await until(admin.devices, lambda views: bool(views) and views[0].reported_at > 0)
        copy = Member(tmp_path / "copy", one, "web-01")
        shutil.copytree(first.machine.state_dir, copy.machine.state_dir, dirs_exist_ok=True)
        copy.machine.write("/etc/machine-id", "machine-2\n")
        copy.settings = replace(copy.settings, state_dir=str(copy.machine.state_dir))
        async with first.running() as at_home, copy.running() as away:
            (asked,) = await until(admin.enroll_requests, bool)
            assert first.identity.device != asked.device
            assert key("web-01").public.text != asked.key
            assert asked.reason == f"{CLONE}: this disk was in web-01, device {first.identity.device}"
            (view,) = await until(admin.devices, lambda views: views[0].link == "stream")
            assert (first.identity.device, key("web-01").public.text) == (view.id, view.key)
            one.fleet.device("web-02", device=asked.device, key=asked.key)
            await one.send(admin)
            both = await until(admin.devices, lambda views: len(views) == 2 and all(each.online for each in views))
            assert {("web-01", first.identity.device), ("web-02", asked.device)} == {(one.name, one.id) for one in both}
            assert ("", "") == (at_home.link.trouble, away.link.trouble)
        assert () == await admin.enroll_requests()
