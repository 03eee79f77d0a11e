"""Who holds few payloads against who holds all: leaves of which only the holder of a payload can tell what they are."""

import copy

from tests.factories import Fleet, device_id, key

from nixfleet.model.ids import Digest
from nixfleet.model.statements import Rule
from nixfleet.trust.replay import Follow, Needs, State, Valid, Verdict, Void, choose, replay
from nixfleet.trust.statements import digest

MINE, OTHER = "web-01", "web-09"


def agent_of(fleet: Fleet) -> tuple[State, list[Verdict]]:
    """Replay a log as one device does, with the payloads that it needs."""
    needs = Needs(fleet.state, device_id(MINE))
    state = State(fleet.state.fleet, device_id(MINE))
    verdicts = [
        replay(state, index, leaf, payload if needs(leaf) else None)
        for index, (leaf, payload) in enumerate(fleet.entries)
    ]
    return state, verdicts


def told(state: State, now: int) -> str:
    """Say what the device follows by a replay."""
    choice = choose(state, device_id(MINE), now, covers=lambda _: True)
    return str(choice.rollout.digest) if isinstance(choice, Follow) else type(choice).__name__


def rollout_by(fleet: Fleet, by: str, release: Digest) -> bytes:
    """Write a rollout without its being in the log."""
    other = copy.deepcopy(fleet)
    other.rollout(release, by=by)
    return other.entries[-1][1]


def sign_as_device(fleet: Fleet, payload: bytes) -> None:
    """Let another device sign any payload as if it were its own statement."""
    fleet.append(payload, f"nixfleet-device-v1@{device_id(OTHER)}", OTHER)


def site() -> tuple[Fleet, Digest]:
    """Make two devices and a release."""
    fleet = Fleet()
    fleet.device(MINE)
    fleet.device(OTHER)
    release, _ = fleet.release("a", {MINE: "a", OTHER: "a"})
    return fleet, release


def ruled_site() -> tuple[Fleet, Digest]:
    """Make the same where deploying asks for an approval: by `ops`, approved by `boss`."""
    fleet = Fleet("lead", "security", threshold=2, rules=(Rule(select={}, actions=("deploy",), approvals=1),))
    fleet.approve(digest(fleet.entries[-1][1]), "security")
    for name, actions in (("ops", ("deploy", "release", "enroll")), ("boss", ("approve",))):
        fleet.grant(name, *actions, by="lead")
        fleet.approve(digest(fleet.entries[-1][1]), "security")
    fleet.device(MINE, by="ops")
    fleet.device(OTHER, by="ops")
    release, _ = fleet.release("a", {MINE: "a", OTHER: "a"}, by="ops")
    return fleet, release


def test_a_device_that_signs_a_rollout_beforehand_as_its_own_statement_splits_no_verdicts() -> None:
    """A key that is a device's first and may deploy later: its rollout is one thing for all who replay the log."""
    fleet, release = site()
    payload = rollout_by(fleet, OTHER, release)
    sign_as_device(fleet, payload)
    fleet.grant(OTHER, "deploy")
    fleet.append(payload, "nixfleet-rollout-v1", OTHER)
    state, verdicts = agent_of(fleet)
    assert fleet.verdicts[-1] == verdicts[-1]
    assert told(fleet.state, fleet.now) == told(state, fleet.now) == digest(payload)


def test_a_device_opens_no_early_door_for_approvals_of_a_rollout() -> None:
    """An approval that comes before what it approves counts for nobody, whoever has signed that payload as a device."""
    fleet, release = ruled_site()
    payload = rollout_by(fleet, "ops", release)
    sign_as_device(fleet, payload)
    fleet.append(payload, "nixfleet-approve-v1", "boss")
    fleet.append(payload, "nixfleet-rollout-v1", "ops")
    state, verdicts = agent_of(fleet)
    assert fleet.verdicts[-1] == verdicts[-1]
    assert told(fleet.state, fleet.now) == told(state, fleet.now) == "Idle"


def test_a_device_that_repeats_its_own_statement_is_told_of_the_first() -> None:
    """Its own key's statement counts once: the repeat names the entry where it stands."""
    fleet, _ = site()
    fleet.device(OTHER, by=OTHER, key=key("another").public.text)
    entered = fleet.verdicts[-1]
    fleet.device(MINE, by=MINE, name="other-name")
    fleet.append_leaf(*fleet.entries[-1])
    assert isinstance(entered, Valid)
    assert Void(f"it repeats entry {fleet.size - 2}") == fleet.verdicts[-1]
