"""A rollout's members: what became of them is the coordinator's word, only what is live is their devices'."""

import asyncio

import msgspec
import pytest
from tests.tui.console_fleet import NOW, ROLLOUT, device, digest
from tests.tui.console_pilot import console
from tests.tui.console_ports import FakeSource

from nixfleet.model.device import Outcome, Phase
from nixfleet.model.views import DeviceView, MemberView, RolloutDetail, Transfer
from nixfleet.tui.calls import Calls
from nixfleet.tui.screens.rollouts import live_member
from nixfleet.tui.view.rollouts import member_state

TRANSFER = Transfer(done_bytes=1, total_bytes=2, rate_bytes_s=1)


def member(phase: Phase = Phase.IDLE, outcome: Outcome | None = None, reason: str = "", waits: str = "") -> MemberView:
    """Make a member as the coordinator tells of it."""
    return MemberView(device="d", name="web-x", wave=2, phase=phase, outcome=outcome, reason=reason, waits=waits)


def its_device(phase: Phase, outcome: Outcome | None = None, rollout: str = ROLLOUT, reason: str = "") -> DeviceView:
    """Make the device, connected, in a phase of whatever update it took last."""
    return msgspec.structs.replace(
        device("web-x", "web", "oslo"),
        online=True,
        phase=phase,
        outcome=outcome,
        rollout=rollout,
        reason=reason,
        waits="waits for wave 1",
        transfer=TRANSFER if phase is Phase.FETCHING else None,
    )


def test_an_earlier_attempt_says_nothing_of_this_rollout() -> None:
    """A device that confirmed its last update, and was never offered this one, waits."""
    found = live_member(member(), its_device(Phase.CONFIRMED, Outcome.CONFIRMED, reason="check web: 503"), ROLLOUT)
    assert ("waiting", Phase.IDLE, None, "") == (member_state(found), found.phase, found.outcome, found.reason)
    assert (True, "waits for wave 1") == (found.online, found.waits)


def test_an_update_under_way_is_followed_live() -> None:
    """Of an update that the coordinator knows to be under way, phase and transfer are the device's."""
    found = live_member(member(Phase.OFFERED), its_device(Phase.FETCHING), ROLLOUT)
    assert (Phase.FETCHING, TRANSFER, "updating") == (found.phase, found.transfer, member_state(found))


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.CONFIRMED, Phase.FAILED, Phase.REVERTED, Phase.REFUSED])
def test_the_end_of_an_update_is_the_coordinators_to_tell(phase: Phase) -> None:
    """A device's last phase ends nothing here: it may be that of another attempt."""
    found = live_member(member(Phase.CHECKING), its_device(phase, Outcome.CONFIRMED), ROLLOUT)
    assert (Phase.CHECKING, None) == (found.phase, found.outcome)


def test_an_outcome_stays_and_waits_for_nothing() -> None:
    """Once there is an outcome nothing is waited for, and a later update of the device changes nothing."""
    done = member(Phase.FAILED, Outcome.FAILED, reason="no space", waits="waits for wave 1")
    for one in (None, its_device(Phase.FETCHING), its_device(Phase.FETCHING, rollout=digest("another"))):
        found = live_member(done, one, ROLLOUT)
        assert (Phase.FAILED, Outcome.FAILED, "no space", "", None) == (
            found.phase,
            found.outcome,
            found.reason,
            found.waits,
            found.transfer,
        )


def test_a_device_meant_for_another_rollout_tells_only_whether_it_is_online() -> None:
    """What it does is for the other one."""
    found = live_member(member(waits="superseded"), its_device(Phase.FETCHING, rollout=digest("another")), ROLLOUT)
    assert (Phase.IDLE, True, "superseded", None) == (found.phase, found.online, found.waits, found.transfer)


async def test_the_screen_shows_what_the_coordinator_says_became_of_a_member() -> None:
    """A device that confirmed an earlier update does not stand as confirmed in a rollout it was not offered."""

    class Source(FakeSource):
        async def rollout(self, rollout: str) -> RolloutDetail:
            return RolloutDetail(
                rollout=self.rollouts[rollout],
                members=(msgspec.structs.replace(member(), device=fresh.id),),
            )

    fresh = its_device(Phase.CONFIRMED, Outcome.CONFIRMED)
    source = Source()
    source.devices[fresh.id] = fresh
    async with console(source=source) as driven:
        await driven.press("2", "j", "enter")
        await driven.until(lambda: "◌ waiting" in driven.text)
        assert "● confirmed" not in driven.text
        driven.source.put(msgspec.structs.replace(fresh, seen_at=NOW))
        await driven.rest()
        assert "● confirmed" not in driven.text


async def test_a_read_that_is_given_up_does_not_stay_under_way() -> None:
    """A call that was cancelled says so in the command log."""
    calls = Calls(lambda: NOW)
    task = asyncio.create_task(calls.run("GET /v1/rollouts/x", "", asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert ["cancelled"] == [call.state for call in calls]
    assert "□" in "".join(span.text for line in calls.lines(str) for span in line)
