"""Two machines with one key are noticed; reboots, restored snapshots, late and repeated reports are none."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import T0, device_id, key
from tests.server.harness import Rig, rig, until

from nixfleet.client.api import Client
from nixfleet.model.device import Facts, Report
from nixfleet.model.statements import LogState
from nixfleet.model.views import DeviceView
from nixfleet.query import status_of
from nixfleet.server.coordinator import core
from nixfleet.server.coordinator.twins import BACK_WINDOW_S, BACKS, FRESH_S, HELD_S, WINDOW_S, Twins
from nixfleet.trust.reports import sign_report

WEB = device_id("web-01")


class Machine:
    """A machine that has the device's key: where its numbers stand, and its boot."""

    def __init__(self, boot: str, seq: int = 0, host: str = "web-01") -> None:
        self.boot = boot
        self.seq = seq
        self.host = host

    def says(self, now: int, **fields: Any) -> Report:
        """Make its next report."""
        self.seq += 1
        made: dict[str, Any] = {
            "v": 1, "fleet": "f" * 64, "device": WEB, "seq": self.seq, "at": now, "protocol": 1,
            "log": LogState(size=0, root="0" * 64), "boot_id": self.boot, "system": "/run/old", "booted": "/run/old",
            "healthy": True, "facts": Facts(hostname=self.host, addresses=(f"10.0.0.{len(self.host)}",)),
        }  # fmt: skip
        return Report(**{**made, **fields})

    def copy(self) -> "Machine":
        """Copy it as it is, or keep it for later: a snapshot with its memory."""
        return Machine(self.boot, self.seq, self.host)

    def reboot(self, boot: str) -> None:
        """Boot again."""
        self.boot = boot


class Ear:
    """Hears reports one after the other, ten seconds apart."""

    def __init__(self) -> None:
        self.twins = Twins()
        self.now = T0

    def hear(self, report: Report, after_s: int = 10) -> str:
        """Hear one; gives what is said of the device then."""
        self.now += after_s
        self.twins.heard(report, self.now)
        return self.said

    @property
    def said(self) -> str:
        """What is said of the device."""
        return self.twins.words(WEB, "web-01")

    def next(self, machine: Machine, after_s: int = 10) -> str:
        """Hear a machine's next report, signed as it is heard."""
        return self.hear(machine.says(self.now + after_s), after_s)


@pytest.mark.parametrize("behind", [0, 100, -100])
def test_two_machines_that_booted_apart_are_noticed_within_a_few_reports(behind: int) -> None:
    """However their numbers compare, each boot comes back after the other has spoken; then it is said, with both."""
    ear, one, other = Ear(), Machine("aaaa1111", 200, "web-01"), Machine("bbbb2222", 200 + behind, "copied")
    said = [ear.next(machine) for _ in range(4) for machine in (one, other)]
    assert said[:5] == [""] * 5
    assert "two machines use this key (web-01 at 10.0.0.6 and copied at 10.0.0.6)" in said[5]
    assert "'nixfleet agent join TOKEN --replace'" in said[5]
    assert "'nixfleet enroll web-01 --replace'" in said[5]


def test_machines_that_name_themselves_alike_are_told_apart_by_their_boots() -> None:
    """Clones have one host name: then the boots stand beside it."""
    ear, one, other = Ear(), Machine("aaaa1111"), Machine("bbbb2222")
    for machine in (one, other) * 4:
        ear.next(machine)
    assert "(web-01 at 10.0.0.6, boot aaaa1111 and web-01 at 10.0.0.6, boot bbbb2222)" in ear.said


def test_copy_of_a_running_machine_is_noticed() -> None:
    """Two that share their boot id as well, copied with their memory, are told by numbers that go back and back."""
    ear, one = Ear(), Machine("aaaa1111", 50)
    ear.next(one)
    other = one.copy()
    for machine in (one, other) * (BACKS + 1):
        ear.next(machine)
    assert "two machines use this key (web-01 at 10.0.0.6)" in ear.said


def test_reboots_raise_no_alarm() -> None:
    """However often a machine boots, every boot is a new one."""
    ear, one = Ear(), Machine("boot0")
    for number in range(50):
        one.reboot(f"boot{number}")
        assert ear.next(one) == ear.next(one) == ""


@pytest.mark.parametrize("with_memory", [True, False])
@pytest.mark.parametrize("times", [1, 3])
def test_restored_snapshots_raise_no_alarm(times: int, *, with_memory: bool) -> None:
    """A machine that is put back to a snapshot, with its memory or from its disk, and again, is one machine."""
    ear, one = Ear(), Machine("aaaa1111", 10)
    ear.next(one)
    kept = one.copy()
    for number in range(times):
        for _ in range(3):
            assert ear.next(one) == ""
        one.reboot(f"later{number}")
        assert ear.next(one) == ""
        one = kept.copy()
        if not with_memory:
            one.reboot(f"restored{number}")
        assert ear.next(one) == ""


def test_late_report_of_the_boot_before_raises_no_alarm() -> None:
    """A report that is overtaken by the next boot's, at each of a few reboots, is no second machine."""
    ear, one = Ear(), Machine("boot0")
    for number in range(1, 6):
        late = one.says(ear.now + 15)
        one.reboot(f"boot{number}")
        assert ear.next(one) == ear.hear(late, 10) == ear.next(one) == ""


@given(st.lists(st.integers(0, 39), max_size=120))
def test_nobody_on_the_way_raises_an_alarm_with_what_was_heard(again: list[int]) -> None:
    """Reports of one machine over four boots, and any of those heard sent again at any time, say nothing."""
    ear, one = Ear(), Machine("boot0")
    heard: list[Report] = []
    for number in range(40):
        if number % 10 == 0:
            one.reboot(f"boot{number}")
        heard.append(one.says(ear.now + 10))
        ear.hear(heard[-1])
        for pick in again[number::40]:
            ear.hear(heard[pick % len(heard)], 1)
        assert ear.said == ""


def test_a_restart_forgets_nothing_that_somebody_on_the_way_could_use() -> None:
    """Two boots' reports of a few minutes ago, sent in turns to a coordinator that has just started, say nothing."""
    ear, one = Ear(), Machine("aaaa1111")
    before = [one.says(ear.now + 10 * number) for number in range(6)]
    one.reboot("bbbb2222")
    after = [one.says(ear.now + 60 + 10 * number) for number in range(6)]
    ear.now = after[-1].at
    ear.twins.told_before(after[-1])
    for pair in zip(before, after, strict=True):
        assert ["", ""] == [ear.hear(report, 1) for report in pair]
    other = Machine("aaaa1111", seq=one.seq)
    assert any([ear.next(one), ear.next(other)] != ["", ""] for _ in range(6))


def test_reports_of_another_time_tell_nothing() -> None:
    """Reports that somebody has kept for long, never heard before, are no sign of a machine that lives."""
    ear, one, other = Ear(), Machine("aaaa1111"), Machine("bbbb2222")
    kept = [other.says(T0) for _ in range(9)]
    ear.now += FRESH_S + 60
    for report in kept:
        ear.next(one)
        assert ear.hear(report) == ""


def test_signs_that_are_far_apart_do_not_add_up() -> None:
    """Snapshots put back now and then, a week apart, never make two machines."""
    ear, one, other = Ear(), Machine("aaaa1111"), Machine("bbbb2222")
    for machine in (one, other) * 10:
        assert ear.next(machine, WINDOW_S) == ""
    same, copied = Machine("cccc3333"), Machine("cccc3333")
    for machine in (same, copied) * 10:
        assert ear.next(machine, BACK_WINDOW_S) == ""


def test_it_is_said_until_an_hour_after_the_last_sign_and_gone_with_the_key() -> None:
    """When one of them has gone it ends by itself; with another key it ends at once."""
    ear, one, other = Ear(), Machine("aaaa1111"), Machine("bbbb2222")
    for machine in (one, other) * 4:
        ear.next(machine)
    ear.next(one, HELD_S // 2)
    assert ear.said
    assert ear.twins.ended(ear.now) == []
    ear.now += HELD_S + 1
    assert (ear.twins.ended(ear.now), ear.said, ear.twins.ended(ear.now)) == ([WEB], "", [])
    for machine in (one, other) * 4:
        ear.next(machine)
    assert ear.said
    ear.twins.forget(WEB)
    assert ear.said == ""


# Over the wire


async def _hear(one: Rig, device: Client, machine: Machine) -> None:
    one.now += 10
    report = machine.says(int(one.now), fleet=one.fleet.fleet, log=one.fleet.log)
    await device.report(sign_report(report, key("web-01")))


async def test_two_machines_are_shown_with_what_to_do(tmp_path: Path) -> None:
    """The device's view and the console's stream say it, and no more once the device has another key."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("web-01") as device:
        machines = Machine("aaaa1111", 9), Machine("bbbb2222", 0, "copied")
        for machine in machines * 2:
            await _hear(one, device, machine)
        assert (await admin.device("web-01")).cause == ""
        for machine in machines * 2:
            await _hear(one, device, machine)

        async def ask() -> DeviceView:
            return await admin.device("web-01")

        view = await until(ask, lambda view: bool(view.cause))
        assert (view.cause, status_of(view)) == ("cloned", "cloned")
        assert "two machines use this key (web-01 at 10.0.0.6 and copied at 10.0.0.6)" in view.reason
        assert [one.name for one in await admin.devices("status:cloned")] == ["web-01"]
        one.fleet.device("web-01", key=key("new").public.text)
        await one.send(admin)
        assert (await admin.device("web-01")).cause == ""


async def test_alarm_ends_by_itself_on_a_quiet_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour after the last sign the coordinator takes it back, though nobody reports."""
    monkeypatch.setattr(core, "BEAT_S", 0.02)
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("web-01") as device:
        for machine in (Machine("aaaa1111", 9), Machine("bbbb2222", 0, "copied")) * 4:
            await _hear(one, device, machine)
        assert (await admin.device("web-01")).cause == "cloned"
        one.now += HELD_S + 60

        async def ask() -> DeviceView:
            return await admin.device("web-01")

        await until(ask, lambda view: view.cause == "")
