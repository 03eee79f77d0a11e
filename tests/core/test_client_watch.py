"""Watching a rollout: it ends when the devices that are waited for have come to something, with the right exit code."""

from collections.abc import Sequence

import msgspec
import pytest
from tests.httpd import Answer, httpd, refusal

from nixfleet.client.api import Client
from nixfleet.client.watch import Ending, Wait, ending, unreached, watch
from nixfleet.errors import Unreachable
from nixfleet.model.device import Outcome, Phase
from nixfleet.model.views import MemberView, RolloutDetail, RolloutView, Why
from nixfleet.rollout import record
from nixfleet.rollout.reasons import HeldUntil


def member(
    name: str,
    outcome: Outcome | None = None,
    *,
    online: bool = True,
    phase: Phase = Phase.IDLE,
    overdue: bool = False,
    why: Why | None = None,
) -> MemberView:
    """Make a device of a rollout."""
    return MemberView(
        device=name, name=name, wave=1, outcome=outcome, online=online, phase=phase, overdue=overdue, why=why
    )


def detail(state: str, *members: MemberView, judged: bool = True) -> RolloutDetail:
    """Make a rollout in a state."""
    view = RolloutView(
        id="r",
        index=1,
        kind="deploy",
        release="",
        release_name="",
        by="",
        principal="",
        at=0,
        state=state,
        judged=judged,
    )
    return RolloutDetail(rollout=view, members=members)


OK, BAD = Outcome.CONFIRMED, Outcome.REVERTED
HELD = record(HeldUntil(until_wall_s=9))


@pytest.mark.parametrize(
    ("said", "wait", "expected"),
    [
        (detail("running"), "online", None),
        (detail("running", member("a")), "online", None),
        (detail("running", member("a", OK), member("b")), "online", None),
        (detail("running", member("a", OK)), "online", Ending.DONE),
        (detail("running", member("a", OK), member("b", online=False)), "online", Ending.DONE),
        (detail("running", member("a", OK), member("b", online=False)), "all", None),
        (detail("running", member("a", OK), member("b", online=False, phase=Phase.ACTIVATING)), "online", None),
        (detail("running", member("a", OK), member("b", phase=Phase.FETCHING, overdue=True)), "online", Ending.FAILED),
        (detail("running", member("a", OK), member("b", why=HELD)), "online", Ending.DONE),
        (detail("running", member("a", OK), member("b", why=HELD)), "all", None),
        (detail("running", member("a", OK), member("b", why=HELD, phase=Phase.FETCHING)), "online", None),
        (detail("running", member("a", BAD)), "online", Ending.FAILED),
        (detail("running", member("a", BAD), judged=False), "online", None),
        (detail("paused", member("a")), "online", None),
        (detail("halted", member("a", BAD), member("b")), "online", Ending.HALTED),
        (detail("cancelled", member("a", OK)), "online", Ending.FAILED),
        (detail("superseded", member("a")), "online", Ending.FAILED),
        (detail("expired"), "all", Ending.FAILED),
        (detail("finished", member("a", OK)), "all", Ending.DONE),
        (detail("finished", member("a", OK), member("b", BAD)), "all", Ending.FAILED),
        (detail("finished"), "online", Ending.DONE),
    ],
)
def test_an_ending_follows_from_state_and_members(said: RolloutDetail, wait: Wait, expected: Ending | None) -> None:
    """Each state and set of outcomes has the ending that the command line promises."""
    assert expected is ending(said, wait)


def test_exit_codes_are_the_contract() -> None:
    """Done is 0, failed 1, halted 6."""
    assert [0, 1, 6] == [one.value for one in (Ending.DONE, Ending.FAILED, Ending.HALTED)]


def test_devices_without_an_outcome_are_listed() -> None:
    """Who was not waited for can be named."""
    away = member("b", online=False)
    assert (away,) == unreached(detail("running", member("a", OK), away))


async def follow(answers: Sequence[RolloutDetail | None], *, patience_s: float = 3.0) -> list[RolloutDetail]:
    """Watch a coordinator that gives these answers in turn, None for being out of reach; the last one repeats."""
    queue = list(answers)

    def answer(_: object) -> Answer:
        said = queue.pop(0) if len(queue) > 1 else queue[0]
        return refusal("unavailable", "starting", status=503) if said is None else Answer(msgspec.json.encode(said))

    async def no_wait(_: float) -> None:
        return

    async with httpd(answer) as server, Client([server.url], fleet="", key=None, clock=lambda: 0) as api:
        return [one async for one in watch(api, "r", every_s=1.0, patience_s=patience_s, sleep=no_wait)]


async def test_only_changes_are_given_and_the_end_is_the_last() -> None:
    """What stays the same is not repeated; a final state ends the watch at once."""
    one, two, end = detail("running", member("a")), detail("running", member("b")), detail("halted", member("a"))
    assert [one, two, end] == await follow([one, one, two, end])


async def test_outcomes_may_come_before_their_judgement() -> None:
    """A failure that the next plan turns into a halt is seen as the halt, not as an end before it."""
    before, after = detail("running", member("a", BAD), judged=False), detail("halted", member("a", BAD))
    assert [before, after] == await follow([before, before, before, after])


async def test_all_outcomes_end_a_watch_during_the_soak() -> None:
    """A rollout that still soaks but has every outcome is over for who watches."""
    soaking = detail("running", member("a", OK))
    assert [soaking] == await follow([soaking])


async def test_a_short_outage_is_sat_out() -> None:
    """A coordinator that restarts is waited for."""
    end = detail("finished", member("a", OK))
    assert [end] == await follow([None, None, end])


async def test_a_long_outage_ends_the_watch() -> None:
    """Out of reach for longer than the patience, the watch says so."""
    with pytest.raises(Unreachable):
        await follow([None])
