"""What a watch and the list of rollouts say of one that does not move: always why."""

from typing import Any

from nixfleet.cli.rollout_tables import waits_now
from nixfleet.cli.watching import where_it_stands
from nixfleet.model.device import Outcome, Phase
from nixfleet.model.views import MemberView, RolloutDetail, RolloutView, WaveView

GATE = "wave 2 of 2 waits: its gate needs a signed advance"


def rollout(*phases: Phase, state: str = "running", **fields: Any) -> RolloutDetail:
    """Make a rollout whose second wave waits for a signature, with one device confirmed and the others in a phase."""
    waves = (
        WaveView(number=1, members="1", gate="auto", state="passed", total=1),
        WaveView(number=2, members="1", gate="signed", state="waiting", total=1, waits=GATE),
    )
    view = RolloutView(
        id="r", index=1, kind="deploy", release="", release_name="", by="", principal="", at=0, state=state,
        total=1 + len(phases), confirmed=1,
        waves=waves, **fields,
    )  # fmt: skip
    done = MemberView(device="a", name="a", wave=1, outcome=Outcome.CONFIRMED, phase=Phase.CONFIRMED)
    others = (MemberView(device=f"b{n}", name=f"b{n}", wave=2, phase=phase) for n, phase in enumerate(phases))
    return RolloutDetail(rollout=view, members=(done, *others))


def test_a_watch_says_what_a_rollout_waits_for_while_nobody_moves() -> None:
    """Where all are idle the wave's reason stands there; where some move, what they do; at the end nothing more."""
    assert f"1 of 2 confirmed: {GATE}" == where_it_stands(rollout(Phase.IDLE))
    assert "1 of 3 confirmed: fetching" == where_it_stands(rollout(Phase.IDLE, Phase.FETCHING))
    assert "1 of 1 confirmed" == where_it_stands(rollout())
    paused = rollout(Phase.IDLE, state="paused", waits="the rollout waits: paused by a signed act")
    assert "1 of 2 confirmed: the rollout waits: paused by a signed act" == where_it_stands(paused)


def test_the_list_says_what_a_rollout_waits_for() -> None:
    """A running rollout has its first waiting wave's reason, a halted one its own, a finished one none."""
    assert GATE == waits_now(rollout(Phase.IDLE).rollout)
    assert "1 of 2 failed" == waits_now(rollout(Phase.IDLE, state="halted", halted="1 of 2 failed").rollout)
    assert "" == waits_now(rollout(state="finished").rollout)
