"""Properties of made-up trees of grants: a right is the AND over its chain, as brute force has it."""

import itertools
import random
from functools import lru_cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import T0, YEAR_S, Fleet, device_id, fingerprint, principal

from nixfleet.model.ids import MAX_INT, Tags, covers
from nixfleet.model.statements import Action, Grant, Rule
from nixfleet.trust.replay import Allowed, State, authorise, explain
from nixfleet.trust.statements import digest

PEOPLE = ("ops", "team", "ci", "bot")
SOME: tuple[Action, ...] = ("deploy", "release", "device", "grant")
SELECTS: tuple[Any, ...] = (
    {},
    {"env": ["prod", "test"]},
    {"env": ["prod"]},
    {"env": ["prod"], "site": ["a", "b"]},
    {"env": ["test"]},
    {"site": ["a"]},
)
TAGS: tuple[Tags, ...] = ({}, {"env": "prod"}, {"env": "prod", "site": "a"}, {"env": "test"}, {"site": "a"})
NAMES = tuple(f"d{place}" for place in range(len(TAGS)))
TIMES = (T0 + 200, T0 + 5_000, T0 + YEAR_S - 5_000)


@lru_cache(maxsize=64)
def tree(seed: int) -> Fleet:
    """Make a fleet of differently tagged devices and some thirty grants, within their parents' limits and beyond."""
    chance = random.Random(seed)
    fleet = Fleet()
    for name, tags in zip(NAMES, TAGS, strict=True):
        fleet.device(name, tags=tags)
    fleet.grant("ops", *SOME, depth=4)
    for _ in range(30):
        above = chance.choice([None, *fleet.state.grants.values(), *fleet.state.grants.values()])
        holder = "admin" if above is None else chance.choice([*PEOPLE, *[above.statement.to.name] * 6])
        parent = None if above is None else above.statement.id
        fields: dict[str, Any] = {"depth": chance.randrange(4), "max_devices": chance.choice((None, 3, 9))}
        fields |= {"not_before": T0 + chance.choice((0, 0, 1_000)), "not_after": T0 + chance.choice((3_000, YEAR_S))}
        actions = chance.sample(SOME, chance.randrange(len(SOME) + 1))
        if above is not None and chance.random() < 0.7:  # mostly within, else nothing would ever be three deep
            actions = [one for one in SOME if one in actions and one in above.statement.actions] + ["grant"]
            fields |= {"depth": max(0, above.statement.depth - 1), "max_devices": above.statement.max_devices}
            fields |= {"not_before": above.statement.not_before, "not_after": above.statement.not_after}
            actions = list(dict.fromkeys(actions))
        wide: Any = {} if above is None else above.statement.select
        select = chance.choice([one for one in SELECTS if covers(wide, one)] if chance.random() < 0.8 else SELECTS)
        fleet.grant(chance.choice(PEOPLE), *actions, by=holder, parent=parent, select=select, **fields)
    for _ in range(chance.randrange(4)):
        if chance.random() < 0.7:
            fleet.revoke(grant=chance.choice(list(fleet.state.grants)))
        else:
            fleet.revoke(key_name=chance.choice(PEOPLE))
    return fleet


def chain_of(state: State, grant: Grant) -> list[Grant]:
    """Follow the parents up to the root: the obvious way, by ids alone."""
    chain = [grant]
    while chain[-1].parent is not None:
        chain.append(state.grants[chain[-1].parent].statement)
    return chain


def gives(state: State, link: Grant, action: Action, tags: Tags, now: int) -> bool:
    """Tell whether one link, taken alone, lets its holder act."""
    return (
        action in link.actions
        and all(tags.get(tag) in values for tag, values in link.select.items())
        and link.not_before <= now <= link.not_after
        and link.id not in state.revoked_grants
        and link.by not in state.revoked_keys
    )


def brute(state: State, who: str, action: Action, tags: Tags, now: int) -> int | None:
    """Give the most devices of one statement that any chain allows, None where no chain allows the act."""
    key = fingerprint(who)
    if key in state.revoked_keys:
        return None
    found = []
    for record in state.grants.values():
        if record.statement.to.name == who:
            chain = chain_of(state, record.statement)
            if all(gives(state, link, action, tags, now) for link in chain):
                found.append(min(link.max_devices or MAX_INT for link in chain))
    return max(found, default=None)


ACTS = tuple(itertools.product(PEOPLE, SOME, range(len(TAGS)), TIMES))


@given(st.integers(0, 200))
@settings(deadline=None, max_examples=40)
def test_a_right_is_the_and_over_its_chain(seed: int) -> None:
    """For everybody, every act, device and time: as brute force says, with its limit; `explain` says the same."""
    state = tree(seed).state
    for who, action, place, now in ACTS:
        expected = brute(state, who, action, TAGS[place], now)
        right = authorise(state, fingerprint(who), action, device_id(NAMES[place]), now)
        assert expected == ((right.max_devices or MAX_INT) if isinstance(right, Allowed) else None)
        if action != "grant":  # which also looks whether anything may still be handed on
            said = explain(state, fingerprint(who), action, device_id(NAMES[place]), now)
            assert (expected is not None) == said.allowed == any(chain.allowed for chain in said.chains)


@given(st.integers(0, 200))
@settings(deadline=None, max_examples=40)
def test_a_chain_never_gives_more_than_any_of_its_links(seed: int) -> None:
    """Each grant of the log is within each one above it: in actions, devices, time, depth and max_devices."""
    state = tree(seed).state
    for record in state.grants.values():
        first, *above = chain_of(state, record.statement)
        assert (first, *above) == record.links[::-1]
        for wider in above:
            assert set(first.actions) <= set(wider.actions)
            assert "grant" in wider.actions
            assert wider.not_before <= first.not_before
            assert first.not_after <= wider.not_after
            assert first.depth < wider.depth
            assert (first.max_devices or MAX_INT) <= (wider.max_devices or MAX_INT)
            for tags in TAGS:
                inside, outside = (
                    all(tags.get(tag) in values for tag, values in one.select.items()) for one in (first, wider)
                )
                assert outside or not inside


@given(st.integers(0, 200), st.data())
@settings(deadline=None, max_examples=40)
def test_revoking_a_link_ends_everything_below_and_nothing_beside(seed: int, data: st.DataObject) -> None:
    """After a grant's end no chain through it allows anything; every other chain allows what it did."""
    fleet = tree(seed)
    state = fleet.state
    ended = data.draw(st.sampled_from(list(state.grants)))
    after = state.copy()
    after.revoked_grants[ended] = fleet.size
    for who, action, place, now in ACTS:
        without = [
            record
            for record in state.grants.values()
            if record.statement.to.name == who and ended not in {link.id for link in record.links}
        ]
        left = any(
            all(gives(state, link, action, TAGS[place], now) for link in chain_of(state, record.statement))
            for record in without
        )
        expected = left and fingerprint(who) not in state.revoked_keys
        right = authorise(after, fingerprint(who), action, device_id(NAMES[place]), now)
        assert expected == isinstance(right, Allowed)


def test_the_trees_have_what_they_are_to_show() -> None:
    """Chains of three and more, rights and refusals, limits, revocations: else the properties would say little."""
    states = [tree(seed).state for seed in range(40)]
    records = [record for state in states for record in state.grants.values()]
    assert {1, 2, 3, 4} <= {len(record.links) for record in records}
    assert any(state.revoked_grants for state in states)
    assert any(state.revoked_keys for state in states)
    for length, wanted in ((1, 50), (3, 10)):
        allowed = [
            record
            for state in states
            for record in state.grants.values()
            if len(record.links) >= length
            for tags in TAGS
            if all(gives(state, link, "deploy", tags, TIMES[0]) for link in record.links)
        ]
        assert len(allowed) > wanted


APPROVERS = {"ann": ("ann", "ann-2", "ann-3"), "ben": ("ben", "ben-2"), "cy": ("cy",)}
KEYS = tuple(key for keys in APPROVERS.values() for key in keys)


@lru_cache(maxsize=8)
def approvable(needed: int) -> tuple[Fleet, Any]:
    """Make a fleet whose rule asks for so many approvals, and a waiting change in it."""
    rule = Rule(select={}, actions=("device",), approvals=needed)
    fleet = Fleet("lead", "second", threshold=2, rules=(rule,))
    fleet.approve(digest(fleet.entries[0][1]), "second")
    for name, actions in (("ops", ("enroll", "device")), *((name, ("approve",)) for name in APPROVERS)):
        to = principal(name, *APPROVERS.get(name, (name,)))
        fleet.grant(name, *actions, by="lead", to=to)  # type: ignore[arg-type]  # literals, lost in the tuple
        fleet.approve(digest(fleet.entries[-1][1]), "second")
    fleet.device("web-01", by="ops")
    return fleet, fleet.device("web-01", by="ops", name="web-02")


@given(st.integers(1, 3), st.lists(st.sampled_from((*KEYS, "ops", "lead", "stranger")), max_size=8))
@settings(deadline=None, max_examples=60)
def test_approvals_count_people_not_keys(needed: int, signing: list[str]) -> None:
    """However many keys sign, in whatever order and how often: complete when so many others have, not before."""
    fleet, change = approvable(needed)
    kept = fleet.state, list(fleet.entries), list(fleet.verdicts), fleet.tree, fleet.now
    fleet.state, fleet.tree = fleet.state.copy(), fleet.state.copy().tree
    try:
        signed: set[str] = set()
        for key in signing:
            fleet.approve(change, key)
            signed |= {name for name, keys in APPROVERS.items() if key in keys}
            done = fleet.state.devices[device_id("web-01")].statement.name == "web-02"
            assert (len(signed) >= needed) == done
    finally:
        fleet.state, fleet.entries, fleet.verdicts, fleet.tree, fleet.now = kept
