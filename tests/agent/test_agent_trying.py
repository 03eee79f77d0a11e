"""A trial (mode `test`): a system that runs for a time, is never what boots, and is taken back whatever comes."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.agent.crash_lab import TRIES, Fault, Lab
from tests.agent.steps import COORDINATOR, DONE, FIT, LOOKED, NEW, OFFER, OLD, READY, drive, offered, phase
from tests.agent.workbench import Bench

from nixfleet.agent import guard, guarding, switching
from nixfleet.agent.guard import Guard
from nixfleet.agent.machine import step, wake_at
from nixfleet.agent.update import (
    Activate,
    Arm,
    Armed,
    Check,
    Checked,
    GoBack,
    Passed,
    Ready,
    Restarted,
    Result,
    Stage,
    State,
    Switched,
    Tick,
)
from nixfleet.model.device import Attempt, Cause, Outcome, Phase

TRIAL = replace(OFFER, verb="test", for_s=600)
TO_STAGED = (offered(TRIAL), LOOKED, FIT, Passed(), Passed())
TO_CHECKING = (*TO_STAGED, READY, Armed(), DONE)
TO_TRIAL = (*TO_CHECKING, Checked(), COORDINATOR)
BACK = Switched(result=Result.DONE, exit_code=0)


def told(state: State) -> Attempt:
    """Give the one outcome that a state has to deliver."""
    (one,) = state.outbox
    return one


def test_a_healthy_system_runs_for_its_time_and_is_checked_once_more() -> None:
    """Contact begins the trial, in which only time counts; at its end come the checks, and the way back."""
    state, effects = drive(*TO_TRIAL, now=100)
    begun = 100 + len(TO_TRIAL) - 1
    assert (Phase.CONFIRMING, [], begun + 600) == (phase(state), effects, wake_at(state))
    assert state.update is not None
    assert "on trial for 10m, then the device goes back" == state.update.reason
    assert (state, []) == step(state, Tick(), begun + 599)
    state, effects = step(state, Tick(), begun + 600)
    assert [Check(offer=TRIAL, baseline=READY.baseline)] == effects
    state, (back,) = step(state, Checked(), begun + 605)
    assert isinstance(back, GoBack)
    assert OLD == back.previous
    state, _ = step(state, BACK, begun + 610)
    assert (Outcome.CONFIRMED, Cause.NONE, OLD) == (told(state).outcome, told(state).cause, told(state).path)
    assert told(state).reason.endswith("was tried for 10m, healthy to the end")


def test_what_was_tried_is_neither_kept_nor_left() -> None:
    """The device never confirmed it: a later rollout may bring it, and a rollback of the trial finds nothing."""
    state, _ = drive(*TO_TRIAL, now=100)
    state, _ = drive(Tick(), Checked(), BACK, state=state, now=2_000)
    assert ((), ()) == (state.confirmed, state.left)


def test_what_fails_by_the_end_of_its_time_is_told_as_a_failure() -> None:
    """A unit that failed during the trial is why people try systems."""
    state, _ = drive(*TO_TRIAL, now=100)
    state, _ = drive(Tick(), Checked(problems=("nginx.service failed",)), BACK, state=state, now=2_000)
    assert (Outcome.REVERTED, Cause.HEALTH, NEW) == (told(state).outcome, told(state).cause, told(state).path)


@pytest.mark.parametrize("current", [OLD, NEW])
def test_a_reboot_ends_the_trial(current: str) -> None:
    """Also where somebody has made the tried system what boots: nothing would ever end it else."""
    state, _ = drive(*TO_TRIAL, now=100)
    state, effects = step(state, Restarted(boot_id="boot-2", current=current, booted=current), 5)
    assert Phase.REVERTING == phase(state)
    assert [GoBack] == [type(one) for one in effects]
    state, _ = step(state, BACK, 6)
    assert (Outcome.REVERTED, "the machine went down during the trial") == (told(state).outcome, told(state).reason)


def test_a_restarted_agent_keeps_to_the_time_of_the_trial() -> None:
    """A kill neither ends it nor makes it longer."""
    state, _ = drive(*TO_TRIAL, now=100)
    due = wake_at(state)
    state, effects = step(state, Restarted(boot_id="boot-1", current=NEW, booted=OLD), 300)
    assert (due, []) == (wake_at(state), effects)


def test_what_needs_a_reboot_is_refused_before_anything_changes() -> None:
    """A trial could not bring its kernel, and a reboot would end it."""
    state, _ = drive(*TO_STAGED, Ready(baseline=(), reboot=("kernel 6.1 → 6.2",), fallback="grub"))
    assert Outcome.REFUSED is told(state).outcome
    assert "needs a reboot (kernel 6.1 → 6.2), which a trial cannot bring" in told(state).reason


def test_a_switch_that_says_it_takes_a_reboot_is_taken_back() -> None:
    """Exit 100 of a trial is no reason to wait for a boot that brings the old system."""
    state, _ = drive(*TO_STAGED, READY, Armed(), Switched(result=Result.REBOOT, exit_code=100))
    assert state.update is not None
    assert (Phase.REVERTING, Cause.ACTIVATION) == (state.update.phase, state.update.cause)


async def test_neither_the_profile_nor_what_boots_is_touched(tmp_path: Path) -> None:
    """There and back by `switch-to-configuration test` alone, and no generation comes or goes."""
    bench = Bench(tmp_path)
    offer = replace(bench.machine.offer(bench.machine.system("new")), verb="test", for_s=60)
    before = await bench.store.generations(bench.host.profile())
    await bench.runner().perform(Activate(offer=offer))
    assert (offer.path, bench.old) == (bench.host.current_system(), bench.host.profile_system())
    event = await bench.runner().perform(GoBack(offer=offer, previous=bench.old, number=0))
    assert BACK == replace(event, lines=()) if isinstance(event, Switched) else event
    assert (bench.old, bench.old) == (bench.host.current_system(), bench.host.profile_system())
    assert ["test", "test"] == [one.split()[0] for one in bench.machine.switches()]
    assert before == await bench.store.generations(bench.host.profile())


async def test_a_system_that_runs_by_hand_need_not_be_tried(tmp_path: Path) -> None:
    """It runs, though the profile has another: there is nothing to switch to, nor to go back from."""
    bench = Bench(tmp_path)
    offer = replace(bench.machine.offer(bench.machine.system("new")), verb="test", for_s=60)
    await bench.runner().perform(Activate(offer=offer))
    ready = await bench.runner().perform(Stage(offer=offer, previous=offer.path))
    assert isinstance(ready, Ready)
    assert ready.in_place


async def test_the_guard_ends_a_trial_without_an_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes back as the agent would have: by `test`, with the profile as it was."""
    monkeypatch.setattr(guard, "LOOK_S", 0.02)
    plan = guarding.Guarding._plan
    monkeypatch.setattr(guarding.Guarding, "_plan", lambda *told: replace(plan(*told), back_s=0.2))
    bench = Bench(tmp_path)
    offer = replace(bench.machine.offer(bench.machine.system("new")), verb="test", for_s=60)
    assert Armed() == await bench.runner().perform(Arm(offer=offer, previous=bench.old))
    generations = await bench.store.generations(bench.host.profile())
    await bench.runner().perform(Activate(offer=offer))
    watching = Guard(bench.machine.state_dir / "guard", bench.host)
    async with asyncio.timeout(60):
        while watching.watches():  # noqa: ASYNC110 - another process ends
            await asyncio.sleep(0.01)
    assert (bench.old, bench.old) == (bench.host.current_system(), bench.host.profile_system())
    assert ["test", "test"] == [one.split()[0] for one in bench.machine.switches()]
    assert generations == await bench.store.generations(bench.host.profile())


def test_the_guard_outlasts_the_trial(tmp_path: Path) -> None:
    """It must not take a healthy system back before its time is over, nor wait for ever after."""
    bench = Bench(tmp_path)
    offer = replace(bench.machine.offer(bench.machine.system("new")), verb="test", for_s=3_600)
    guarded = bench.runner()._guarding
    job = bench.runner()._forward(offer, 0)
    trial, usual = (guarded._plan(job, one, bench.old) for one in (offer, replace(offer, verb="switch", for_s=0)))
    assert 3_600 <= trial.latest_s - usual.latest_s <= 4_200


@pytest.mark.parametrize(
    ("row", "kind", "outcome"),
    [
        ((Phase.ACTIVATING, "Activate"), "before the write", "confirmed"),
        ((Phase.ACTIVATING, "Activate"), "after the write", "confirmed"),
        ((Phase.ACTIVATING, "Activate"), "after the effect", "confirmed"),
        ((Phase.ACTIVATING, "Activate"), "fails", "reverted"),
        ((Phase.ACTIVATING, "Activate"), "power cut", "confirmed"),
        ((Phase.CHECKING, "Check"), "after the write", "confirmed"),
        ((Phase.CHECKING, "Check"), "power cut", "reverted"),
        ((Phase.CONFIRMING, "Contact"), "after the effect", "confirmed"),
        ((Phase.CONFIRMING, "Contact"), "power cut", "reverted"),
        ((Phase.CONFIRMING, "Contact"), "hangs", "reverted"),
    ],
)
async def test_whatever_goes_wrong_a_trial_ends_once_on_the_old_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: tuple[Phase, str], kind: str, outcome: str
) -> None:
    """The rows that a trial shares with other updates; its own are in the crash matrix."""
    monkeypatch.setattr(guard, "LOOK_S", 0.05)
    monkeypatch.setattr(guarding, "POLL_S", 0.005)
    monkeypatch.setattr(switching, "POLL_S", 0.005)
    lab = Lab(tmp_path, TRIES, Fault(kind, row))
    async with asyncio.timeout(60):
        await lab.run()
    assert lab.fault is None, "it never came to that"
    assert {
        "outcomes": [outcome],
        "runs": ("old", "old"),
        "at most once": True,
        "confirmed": 0,
        "guarded": False,
        "incoming": False,
        "boots": ("old", ""),
    } == lab.end()
