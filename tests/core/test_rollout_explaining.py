"""The sentences of `rollout explain`: the same on the command line and in the console."""

from typing import Any

import pytest

from nixfleet.model.device import Outcome, Phase
from nixfleet.model.views import MemberView, RolloutDetail, RolloutView, StopView, Transfer, WaveView
from nixfleet.rollout.explaining import explain, lines, member_said, rollout_said


def _member(**fields: Any) -> MemberView:
    return MemberView(**{"device": "d" * 32, "name": "nas-01", "wave": 1, "online": True, **fields})


def _rollout(**fields: Any) -> RolloutView:
    made: dict[str, Any] = {"id": "a" * 64, "index": 3, "kind": "deploy", "release": "b" * 64, "release_name": "one"}
    return RolloutView(**{**made, "by": "SHA256:x", "principal": "ann", "at": 0, "total": 4, **fields})


_FETCHING = {"phase": Phase.FETCHING, "transfer": Transfer(done_bytes=30, total_bytes=90)}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"outcome": Outcome.CONFIRMED}, "nas-01 has it: confirmed"),
        ({"outcome": Outcome.FAILED, "reason": "no space"}, "nas-01 failed: no space"),
        ({"outcome": Outcome.REFUSED, "reason": "would leave the fleet"}, "nas-01 refused: would leave the fleet"),
        ({"outcome": Outcome.REVERTED}, "nas-01 went back: it gave no reason"),
        ({"outcome": Outcome.REVERTED, "reason": "went back: sshd failed"}, "nas-01 went back: sshd failed"),
        ({"outcome": Outcome.REVERTED, "reason": "went back:"}, "nas-01 went back: it gave no reason"),
        ({"outcome": Outcome.FAILED, "reason": "failed: no space"}, "nas-01 failed: no space"),
        ({"waits": "nas-01 waits: offline for 2 days"}, "nas-01 waits: offline for 2 days"),
        (
            {"waits": "nas-01 waits: held", "transfer": Transfer(done_bytes=1, total_bytes=4, ahead=True)},
            "nas-01 waits: held; 25 % downloaded ahead",
        ),
        (
            {"waits": "nas-01 waits: held", "transfer": Transfer(done_bytes=4, total_bytes=4, ahead=True)},
            "nas-01 waits: held; it is downloaded already",
        ),
        ({"waits": "nas-01 waits: \x1b[31mred"}, "nas-01 waits: red"),
        ({"overdue": True}, "nas-01 is overdue: nothing came of it in time, it may still confirm"),
        ({}, "nas-01 waits: the coordinator is about to plan it"),
        (_FETCHING, "nas-01 is fetching, 33 % fetched"),
        ({"phase": Phase.CHECKING, "online": False}, "nas-01 is checking, and is offline"),
        ({"phase": Phase.FETCHING, "reason": "no route"}, "nas-01 is fetching: no route"),
        (
            {"phase": Phase.REBOOT_PENDING},
            "nas-01 has it set for its next boot, and waits for a reboot",
        ),
        (
            {"phase": Phase.REBOOT_PENDING, "reason": "needs a reboot (kernel 6.1 → 6.2)"},
            "nas-01 has it set for its next boot, and waits for a reboot: needs a reboot (kernel 6.1 → 6.2)",
        ),
    ],
)
def test_a_device_is_explained_like_this(fields: dict[str, Any], said: str) -> None:
    """Whatever a device itself does, waits for or came to is one sentence that begins with its name."""
    assert said == member_said(_member(**fields)).said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"state": "running", "confirmed": 1, "in_flight": 2},
            "the rollout goes on: 1 of 4 confirmed, 2 in flight",
        ),
        (
            {"state": "halted", "halted": "1 of 4 failed, it stops at 1"},
            "the rollout halted: 1 of 4 failed, it stops at 1",
        ),
        (
            {"state": "paused", "waits": "the rollout waits: paused by a signed act"},
            "the rollout waits: paused by a signed act",
        ),
        (
            {"state": "finished", "confirmed": 4, "standing": True, "joiners": True},
            "the rollout is finished: 4 of 4 confirmed; devices that join get it",
        ),
        ({"state": "superseded"}, "the rollout is superseded"),
    ],
)
def test_a_rollout_is_explained_like_this(fields: dict[str, Any], said: str) -> None:
    """A rollout says where it stands, and why."""
    assert said == rollout_said(_rollout(**fields)).said


def test_everything_that_waits_is_explained_in_order() -> None:
    """The rollout first, then what it stopped for, its waves, and the devices; typed reasons go along."""
    why: dict[str, object] = {"reason": "needs-advance"}
    waves = (
        WaveView(number=1, members="1", gate="auto", state="passed", total=1),
        WaveView(
            number=2, members="100%", gate="signed", state="waiting", total=3, waits="wave 2 of 2 waits: …", why=why
        ),
    )
    stop = StopView(kind="NUC", path="/nix/store/x", failed=2, tried=2, said="stops for NUC: 2 of 2 failed")
    member = _member(waits="nas-01 waits: its gate needs a signed advance", why=why)
    view = _rollout(state="running", waves=waves, stops=(stop,))
    said = list(explain(RolloutDetail(rollout=view, members=(member,)), [member]))
    assert ["rollout", "kind NUC", "wave 2", "nas-01"] == [one.subject for one in said]
    assert "the rollout stops for NUC: 2 of 2 failed" == said[1].said
    assert [None, None, why, why] == [one.why for one in said]


def test_what_devices_wait_for_together_is_said_once() -> None:
    """A wait that is the rollout's or a wave's has the names of the devices before it, not a line for each of them."""
    halted = "the rollout waits: halted: 1 of 10 failed, it stops at 1"
    waiting = [_member(name=f"kiosk-{number}", waits=halted) for number in range(1, 6)]
    failed = _member(outcome=Outcome.FAILED, reason="no space")
    detail = RolloutDetail(
        rollout=_rollout(state="halted", halted="1 of 10 failed, it stops at 1"), members=(failed, *waiting)
    )
    expected = [
        "the rollout halted: 1 of 10 failed, it stops at 1",
        "nas-01 failed: no space",
        f"kiosk-1, kiosk-2, kiosk-3 and 2 more: {halted}",
    ]
    assert expected == lines(explain(detail, detail.members))
    assert [f"kiosk-1: {halted}"] == lines([member_said(waiting[0])])
