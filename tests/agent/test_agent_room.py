"""A download that runs out of space: room is made again before each try, and what came stays accounted for."""

from msgspec.structs import replace
from tests.agent.steps import FIT, LOOKED, OFFER, OLD, OLD_DIGEST, drive, offered, phase

from nixfleet.agent.machine import step, wake_at
from nixfleet.agent.update import CheckDevice, Fetch, State, Tick, Tidy, Trouble, Withdrawn
from nixfleet.model.device import Cause, Phase
from nixfleet.sim.machine import CACHE

CACHED = replace(OFFER, caches=(CACHE,))
FULL = Trouble(cause=Cause.SPACE, reason="full", later=True)
TO_FETCHING = (offered(CACHED), LOOKED, FIT)


def full_at(state: State, now: int) -> tuple[State, int]:
    """Let the download run out of space; give when it is tried again."""
    state, effects = step(state, FULL, now)
    due = wake_at(state)
    assert ([], True) == (effects, due is not None)
    return state, due or 0


def test_a_download_without_space_begins_again_where_room_is_made() -> None:
    """Other paths may have come since, or garbage may have become free: the download alone would only fail again."""
    state, _ = drive(*TO_FETCHING, now=100)
    state, due = full_at(state, 110)
    state, effects = step(state, Tick(), due)
    assert [CheckDevice(offer=CACHED, previous=OLD)] == effects
    state, effects = step(state, FIT, due + 1)
    assert [Fetch(offer=CACHED)] == effects
    assert state.update is not None
    assert OLD_DIGEST == state.update.previous_digest


def test_the_pauses_between_such_tries_grow() -> None:
    """A disk that stays full is not filled anew every few seconds."""
    state, _ = drive(*TO_FETCHING, now=100)
    pauses, now = [], 110
    for _ in range(4):
        state, due = full_at(state, now)
        pauses.append(due - now)
        state, _ = drive(Tick(), FIT, state=state, now=due)
        now = due + 2
    assert [5, 10, 20, 40] == pauses


def test_any_other_trouble_goes_on_where_it_was() -> None:
    """A network that broke needs no other look at the device."""
    state, _ = drive(*TO_FETCHING, now=100)
    state, _ = step(state, Trouble(cause=Cause.NETWORK, reason="away", later=True), 110)
    assert Phase.FETCHING == phase(state)


def test_withdrawn_while_it_waits_for_room_what_came_is_deleted() -> None:
    """Nothing vouches for it: as when it is withdrawn amid the download, and not as before any."""
    state, _ = drive(*TO_FETCHING, now=100)
    state, _ = full_at(state, 110)
    _, effects = step(state, Withdrawn(reason="cancelled"), 111)
    assert [Tidy(offer=CACHED, delete=True)] == effects
    early, _ = drive(offered(CACHED), LOOKED, now=100)
    _, effects = step(early, Withdrawn(reason="cancelled"), 111)
    assert [Tidy(offer=CACHED, delete=False)] == effects
