"""For any fleet, any rollout and any interleaving: every plan is sound, final, and independent of order."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.rollout_factories import NOON_S, Fleet, member, rollout

from nixfleet.model.device import Cause, Outcome, Phase
from nixfleet.model.statements import StopAt, Wave, Window
from nixfleet.rollout import Clock, Finish, Kind, Member, Start, apply, check, next_wake, plan, waves

_GATE: Any = st.sampled_from(["auto", "auto", "auto", "signed"])
_WAVES = st.lists(
    st.builds(
        Wave,
        members=st.one_of(
            st.integers(1, 4),
            st.sampled_from(["10%", "50%", "100%"]),
            st.just({"site": ("a",)}),
        ),
        gate=_GATE,
    ),
    min_size=1,
    max_size=4,
)
_WINDOW = st.none() | st.builds(
    Window,
    days=st.just(("mon", "tue", "wed", "thu", "fri", "sat", "sun")),
    from_=st.sampled_from(["11:00", "12:20", "22:00"]),
    to=st.sampled_from(["13:00", "12:40", "03:00"]),
    tz=st.sampled_from(["UTC", "device", "Europe/Berlin", "Nowhere"]),
)
_ROLLOUTS = st.builds(
    rollout,
    _WAVES,
    max_in_flight=st.integers(1, 5),
    stop_at=st.builds(StopAt, count=st.integers(1, 4)) | st.builds(StopAt, percent=st.integers(1, 60)),
    soak_s=st.sampled_from([0, 1, 3, 60, 300]),
    device_timeout_s=st.sampled_from([10, 100, 1_000]),
    window=_WINDOW,
    not_before=st.sampled_from([0, 0, NOON_S + 50]),
)
_SITES = st.sampled_from(["a", "b"])
_PATHS = st.sampled_from(["/nix/store/a", "/nix/store/a", "/nix/store/b", ""])
_KINDS = st.sampled_from([None, Kind(model="pi"), Kind(model="pi"), Kind(model="pi", kernel="6.6")])
_ZONES = st.sampled_from(["UTC", "Asia/Kolkata", "Europe/Berlin", "Nowhere"])
_ACTS = (
    *("confirm", "confirm", "confirm", "fail", "network", "reboot", "offline", "online", "online", "healthy"),
    *("retire", "hold", "join", "retry", "pause", "unpause", "resume", "advance", "gap", "cancel", "supersede"),
)
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(_ACTS),
        st.integers(0, 30),
        st.sampled_from([0, 1, 20, 75, 300, 1_000]),
    ),
    max_size=40,
)


def _act(fleet: Fleet, act: str, number: int) -> None:
    """Let the world or an admin do something; a device answers only what it was started for."""
    target = fleet.members[number % len(fleet.members)] if fleet.members else None
    asked = target is not None and target.offered_s is not None and target.outcome is not Outcome.CONFIRMED
    match act:
        case "join":
            if all(each.device != member(1_000 + number).device for each in fleet.members):
                joiner = member(1_000 + number, late=True, path="/nix/store/a", kind=Kind(model="pi"))
                fleet.members = (*fleet.members, joiner)
        case "pause" | "unpause":
            fleet.row(paused=act == "pause")
        case "resume":
            fleet.row(resumed=fleet.state.resumed + 1, paused=False)
        case "advance":
            fleet.row(advanced=fleet.state.advanced | {1 + number % len(fleet.state.body.waves)})
        case "gap":
            fleet.row(reconnect_s=fleet.now.run_s + 120)
        case "cancel" | "supersede":
            if number == 0:
                fleet.row(**{"cancelled" if act == "cancel" else "superseded": True})
        case _ if target is not None:
            _answer(fleet, act, target, asked=asked)
        case _:
            pass


def _answer(fleet: Fleet, act: str, target: Member, *, asked: bool) -> None:
    """Let one device do something, or something be done to it."""
    match act:
        case "confirm" if asked:
            fleet.confirm(target.device)
        case "fail" if asked:
            fleet.fail(target.device)
        case "network" if asked:
            fleet.fail(target.device, Cause.NETWORK, Outcome.FAILED)
        case "reboot" if asked and target.outcome is None:
            fleet.change(target.device, phase=Phase.REBOOT_PENDING)
        case "offline" | "online":
            fleet.change(target.device, online=act == "online", seen_s=fleet.now.run_s)
        case "healthy" if target.outcome is Outcome.CONFIRMED and target.online:
            fleet.change(target.device, healthy_s=fleet.now.run_s)
        case "retire":
            fleet.change(target.device, active=False)
        case "hold":
            fleet.change(target.device, held_until_wall_s=fleet.now.wall_s + 200)
        case "retry" if target.outcome in {Outcome.FAILED, Outcome.REVERTED}:
            kept = {name: getattr(target, name) for name in ("device", "name", "tags", "late", "path", "kind")}
            again = member(0, **kept, run=target.run + 1, active=target.active, online=target.online)
            fleet.members = tuple(again if each.device == target.device else each for each in fleet.members)
        case _:
            pass


@st.composite
def _fleets(draw: st.DrawFn) -> Fleet:
    number = draw(st.integers(0, 12))
    made = [
        member(
            each,
            tags={"site": draw(_SITES)},
            online=draw(st.booleans()),
            timezone=draw(_ZONES),
            path=draw(_PATHS),
            kind=draw(_KINDS),
        )
        for each in range(number)
    ]
    return Fleet(draw(_ROLLOUTS), made)


@settings(deadline=None, max_examples=300)
@given(_fleets(), _STEPS, st.randoms(use_true_random=False))
def test_every_interleaving_stays_sound(
    fleet: Fleet, steps: Sequence[tuple[str, int, int]], chance: random.Random
) -> None:
    """Each plan has no fault, depends on no order, starts nothing twice, and is stable once it is applied."""
    started: set[tuple[str, int]] = set()
    for act, number, seconds in [("", 0, 0), *steps]:
        _act(fleet, act, number)
        clocks = fleet.state.waves
        finished = fleet.state.finished
        before = (fleet.state, fleet.members)
        decisions = fleet.tick(seconds)
        starts = {(each.device, each.run) for each in decisions if isinstance(each, Start)}
        assert not starts & started
        started |= starts
        assert not (finished and Finish() in decisions)
        for old, new in zip(clocks, fleet.state.waves, strict=False):
            kept = [field for field in old.__struct_fields__ if getattr(old, field) not in {None, getattr(new, field)}]
            assert [] == kept
        assert (fleet.state, fleet.members) == apply(*apply(*before, decisions, fleet.now), decisions, fleet.now)
        shuffled = list(before[1])
        chance.shuffle(shuffled)
        assert decisions == plan(before[0], shuffled, fleet.now)
        _is_stable(fleet)


def _is_stable(fleet: Fleet) -> None:
    """Planning again at the same moment changes nothing in store."""
    again = plan(fleet.state, fleet.members, fleet.now)
    assert (fleet.state, fleet.members) == apply(fleet.state, fleet.members, again, fleet.now)
    assert [] == check(fleet.state, fleet.members, again, fleet.now)


@settings(deadline=None, max_examples=150)
@given(_fleets(), _STEPS)
def test_time_alone_changes_nothing_before_the_next_wake(fleet: Fleet, steps: Sequence[tuple[str, int, int]]) -> None:
    """Whoever sleeps until `next_wake` misses neither a decision nor an ask."""
    for act, number, seconds in steps:
        _act(fleet, act, number)
        fleet.tick(seconds)
    fleet.tick()
    asks = [each for each in plan(fleet.state, fleet.members, fleet.now) if type(each).__name__ == "Ask"]
    delay = next_wake(fleet.state, fleet.members, fleet.now)
    sleep_s = 90_000 if delay is None else delay - 1
    later = Clock(run_s=fleet.now.run_s + sleep_s, wall_s=fleet.now.wall_s + sleep_s)
    shut = fleet.state.body.window is not None  # a window may close meanwhile: then less is decided, never more
    decisions = plan(fleet.state, fleet.members, later)
    if not shut:
        assert (fleet.state, fleet.members) == apply(fleet.state, fleet.members, decisions, later)
        assert asks == [each for each in decisions if type(each).__name__ == "Ask"]
    assert [] == [each for each in decisions if isinstance(each, Start)]


@settings(deadline=None, max_examples=150)
@given(_fleets())
def test_a_willing_fleet_always_finishes(fleet: Fleet) -> None:
    """If every device is there, confirms and reports healthy, the rollout ends within bounded time."""
    body = msgspec.structs.replace(fleet.state.body, window=None, not_before=0)
    fleet.row(body=body, advanced=frozenset(range(1, 5)))
    for each in fleet.members:
        fleet.change(each.device, online=True)
    for _ in range(4 * (len(fleet.members) + 8)):
        fleet.tick(100)
        fleet.confirm(*(each.device for each in fleet.members if each.offered_s is not None))
    assert fleet.state.finished
    assert all(each.outcome is Outcome.CONFIRMED for each in fleet.members)
    assert sum(map(len, waves(fleet.state, fleet.members))) == len(fleet.members)
