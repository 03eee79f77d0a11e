"""The update machine where an update needs a reboot: waiting, rebooting, keeping what booted, and going back."""

import pytest
from msgspec.structs import replace
from tests.agent.steps import COORDINATOR, NEW, OFFER, OLD, TO_STAGED, drive, offered, phase

from nixfleet.agent.machine import step, wake_at
from nixfleet.agent.update import (
    Activate,
    Armed,
    Checked,
    Disarm,
    Disarmed,
    GoBack,
    Held,
    MakeDefault,
    Nudged,
    Ready,
    Reboot,
    Restarted,
    Result,
    State,
    Switched,
    Tick,
    Trouble,
    Update,
    Withdrawn,
)
from nixfleet.model.device import Cause, Outcome, Phase

READY = Ready(baseline=(), reboot=("kernel 6.1 → 6.2",), fallback="systemd-boot")
SET = Switched(result=Result.REBOOT, exit_code=0)
DONE = Switched(result=Result.DONE, exit_code=0)
NOW = replace(OFFER, reboot="now")


def until_pending(policy: str = "now") -> State:
    """Give the state of an update that is set for the next boot, with the guard off."""
    first = offered(replace(OFFER, reboot=policy))
    state, _ = drive(first, *TO_STAGED[1:], READY, Armed(), SET, Disarmed())
    return state


def booted(system: str, boot: str = "boot-2") -> Restarted:
    """Make the event of another boot."""
    return Restarted(boot_id=boot, current=system, booted=system)


def update_of(state: State) -> Update:
    """Give the update in a state."""
    assert state.update is not None
    return state.update


def test_it_is_set_for_one_boot_and_the_previous_system_stays_the_default() -> None:
    """The effect names the system whose installer keeps the default; why is told from then on."""
    state, effects = drive(*TO_STAGED, READY, Armed())
    assert [Activate(offer=OFFER, boots=True, once=OLD, fallback="systemd-boot")] == effects
    state, effects = step(state, SET, 200)
    assert [Disarm(offer=OFFER)] == effects
    assert (Phase.REBOOT_PENDING, "needs a reboot (kernel 6.1 → 6.2)") == (phase(state), update_of(state).reason)


def test_without_a_fallback_it_is_the_default_at_once_if_nobody_asked_for_a_reboot() -> None:
    """A person who reboots there is there."""
    _, effects = drive(*TO_STAGED, replace(READY, fallback="none"), Armed())
    assert [Activate(offer=OFFER, boots=True, fallback="none")] == effects


@pytest.mark.parametrize("policy", ["now", "in_window"])
def test_a_reboot_where_nothing_falls_back_has_to_be_accepted(policy: str) -> None:
    """The device itself refuses it, before anything changes; accepted, it goes on."""
    offer, ready = replace(OFFER, reboot=policy), replace(READY, fallback="none")
    state, _ = drive(offered(offer), *TO_STAGED[1:], ready)
    reason = (
        "needs a reboot (kernel 6.1 → 6.2), and a boot that fails cannot fall back here;"
        " --accept-no-fallback accepts that"
    )
    update = update_of(state)
    assert (Outcome.REFUSED, Cause.PREFLIGHT, reason) == (update.outcome, update.cause, update.reason)
    state, _ = drive(offered(replace(offer, accept_no_fallback=True)), *TO_STAGED[1:], ready)
    assert (Phase.STAGED, True) == (phase(state), update_of(state).arming)


def test_an_update_that_needs_no_reboot_is_not_refused_for_want_of_a_fallback() -> None:
    """The policy is about those that do."""
    state, _ = drive(offered(NOW), *TO_STAGED[1:], Ready(baseline=()))
    assert Phase.STAGED == phase(state)


def test_policy_never_waits_for_somebody() -> None:
    """Nothing wakes it, and nothing is done."""
    state = until_pending("never")
    assert (False, None) == (update_of(state).rebooting, wake_at(state))
    assert (state, []) == step(state, Nudged(), 300)


@pytest.mark.parametrize("policy", ["now", "in_window"])
def test_other_policies_reboot_once_the_guard_is_off(policy: str) -> None:
    """Whether it may now is judged by who performs it; a window that is closed is waited for, and said."""
    state = until_pending(policy)
    offer = replace(OFFER, reboot=policy)
    assert [Reboot(offer=offer)] == step(state, Restarted(boot_id="boot-1", current=OLD), 300)[1]
    state, effects = step(state, Held(reason="outside its window"), 300)
    assert ([], "needs a reboot (kernel 6.1 → 6.2): outside its window") == (effects, update_of(state).reason)
    assert [] == step(state, Tick(), 301)[1]
    assert [Reboot(offer=offer)] == step(state, Tick(), wake_at(state) or 0)[1]
    assert [Reboot(offer=offer)] == step(state, Nudged(), 301)[1]


def test_a_machine_that_does_not_go_down_is_told_again() -> None:
    """Never at once."""
    state, effects = step(until_pending(), Trouble(cause=Cause.INTERNAL, reason="did not", later=True), 300)
    assert [] == effects
    assert [Reboot(offer=NOW)] == step(state, Tick(), wake_at(state) or 0)[1]


@pytest.mark.parametrize("policy", ["never", "now"])
def test_what_is_withdrawn_before_its_boot_is_taken_back(policy: str) -> None:
    """Cancelled, revoked or overtaken: it must not come with the next boot, whoever makes that."""
    state, effects = step(until_pending(policy), Withdrawn(reason="the rollout is cancelled"), 300)
    assert isinstance(effects[0], GoBack)
    assert (Phase.REVERTING, "systemd-boot") == (phase(state), effects[0].fallback)
    state, _ = step(state, DONE, 301)
    assert (Outcome.REVERTED, "the rollout is cancelled") == (update_of(state).outcome, update_of(state).reason)


def test_a_newer_rollout_takes_the_place_of_one_that_nobody_booted() -> None:
    """Going back comes first; the newer offer begins when it comes again after that."""
    state, effects = step(until_pending("never"), offered(replace(OFFER, index=6, rollout="ef" * 32)), 300)
    assert isinstance(effects[0], GoBack)
    assert ("a newer rollout took its place", OFFER.rollout) == (
        update_of(state).reason,
        update_of(state).offer.rollout,
    )
    assert (0, OFFER.index) == state.attempted


def test_it_confirms_after_another_boot_into_it_as_the_boot_default() -> None:
    """Contact, the guard, then the boot default, and only then the outcome."""
    state, _ = step(until_pending(), booted(NEW), 10)
    assert Phase.CHECKING == phase(state)
    state, effects = drive(Checked(), COORDINATOR, Disarmed(), state=state)
    assert [MakeDefault(offer=NOW, number=0, fallback="systemd-boot")] == effects
    assert (Phase.CONFIRMING, ()) == (phase(state), state.outbox)
    state, _ = step(state, SET, 400)
    assert [Outcome.CONFIRMED] == [one.outcome for one in state.outbox]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (booted(OLD), "the new system did not boot, or went down before it confirmed: the boot loader fell back"),
        (Restarted(boot_id="boot-2", current=NEW, booted=OLD), "the boot loader fell back"),
        (Restarted(boot_id="boot-2", current=NEW), "the device booted an unknown system after a restart"),
        (booted("/nix/store/x-other"), "the device runs x-other after a restart"),
    ],
)
@pytest.mark.parametrize("confirming", [False, True])
def test_another_boot_that_is_not_into_it_goes_back(event: Restarted, reason: str, *, confirming: bool) -> None:
    """The right system has to run, and to be what was booted: a switch to it by hand is no boot of it."""
    state = until_pending()
    if confirming:
        state, _ = drive(booted(NEW), Checked(), state=state)
        event = replace(event, boot_id="boot-3")
    state, _ = step(state, event, 10)
    assert Phase.REVERTING == phase(state)
    assert reason in update_of(state).reason


def test_the_agents_restart_is_no_boot() -> None:
    """The same boot id: it waits on."""
    state, _ = step(until_pending("never"), Restarted(boot_id="boot-1", current=NEW, booted=NEW), 300)
    assert Phase.REBOOT_PENDING == phase(state)


def test_what_cannot_be_made_the_default_goes_back() -> None:
    """After three tries: what confirms has to be what boots."""
    state, _ = drive(booted(NEW), Checked(), COORDINATOR, Disarmed(), state=until_pending())
    trouble = Trouble(cause=Cause.INTERNAL, reason="/boot is full")
    numbers = []
    for _ in range(2):
        state, effects = step(state, trouble, 300)
        assert [] == effects
        state, effects = step(state, Tick(), wake_at(state) or 0)
        assert isinstance(effects[0], MakeDefault)
        numbers.append(effects[0].number)
    state, _ = step(state, trouble, 400)
    assert ([1, 2], Phase.REVERTING) == (numbers, phase(state))
    assert "it cannot be made the boot default: /boot is full" == update_of(state).reason


def test_a_way_back_with_its_own_kernel_takes_a_reboot_whatever_the_policy() -> None:
    """The old system is the default already; once it was booted the outcome is told."""
    state, _ = drive(booted(NEW), Checked(problems=("x failed",)), state=until_pending("never"))
    state, effects = step(state, SET, 300)
    assert ([Reboot(offer=replace(OFFER, reboot="never"), back=True)], ()) == (effects, state.outbox)
    state, effects = step(state, booted(OLD, "boot-3"), 5)
    assert isinstance(effects[0], GoBack)
    state, _ = step(state, DONE, 6)
    assert [(Outcome.REVERTED, "x failed")] == [(one.outcome, one.reason) for one in state.outbox]


def test_a_way_back_that_no_boot_leads_to_ends() -> None:
    """Each boot counts as a try: a machine never reboots for ever."""
    state, _ = drive(booted(NEW), Checked(problems=("x failed",)), state=until_pending())
    boots = 0
    while phase(state) is Phase.REVERTING:
        state, effects = step(state, SET, 300)
        if effects and isinstance(effects[0], Reboot):
            boots += 1
            state, _ = step(state, booted(NEW, f"boot-{boots + 2}"), 5)
    assert (2, Outcome.FAILED) == (boots, update_of(state).outcome)


def test_an_older_agents_update_that_waits_for_a_boot_goes_on() -> None:
    """Its journal says nothing of reasons nor of a fallback."""
    old = Update(phase=Phase.REBOOT_PENDING, offer=OFFER, give_up_s=0, boot_id="boot-1", previous=OLD)
    state, _ = step(State(update=old), Restarted(boot_id="boot-2", current=NEW), 5)
    assert Phase.CHECKING == phase(state)
