"""Properties of the replay over made-up logs: total, tamper-evident, and the same for who holds only some payloads."""

import copy
import random
from functools import lru_cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import T0, Fleet, closure, device_id, key

from nixfleet.model.ids import Digest, FleetId
from nixfleet.model.statements import Rule, SelectLine
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.replay import Needs, State, Unknown, Valid, Void, choose, missing, replay, supply
from nixfleet.trust.statements import digest

DEVICES = ("web-01", "web-02", "dev-01")
PEOPLE = ("admin", "ops", "ci", "token", "stranger", "web-01")
TAGS: tuple[dict[str, str], ...] = ({}, {"env": "prod"}, {"env": "dev"}, {"env": "prod", "rack": "1"})
SELECTS: tuple[dict[str, tuple[str, ...]], ...] = ({}, {"env": ("prod",)}, {"env": ("dev", "prod")}, {"rack": ("1",)})


@lru_cache(maxsize=64)
def made_up(seed: int) -> Fleet:
    """Make a log of some forty acts, sensible and not, by people who may and may not."""
    chance = random.Random(seed)
    fleet = Fleet()
    if seed % 2:  # every other fleet has a threshold, rules and approvers
        rule = Rule(select={"env": ("prod",)}, actions=("deploy", "control", "device"), approvals=1)
        fleet = Fleet("admin", "boss", threshold=2, rules=(rule,))
        fleet.approve(_digest(fleet, 0), "boss")
    fleet.grant(
        "ops", "deploy", "release", "control", "device", "grant", "rollback", select={"env": ("prod", "dev")}, depth=2
    )
    fleet.grant("token", "enroll", select={"env": ("prod",)}, max_uses=2)
    if seed % 2:
        fleet.grant("ci", "approve", "enroll")
        for index in range(2, fleet.size):
            fleet.approve(_digest(fleet, index), "boss")
    for _ in range(40):
        _act(fleet, chance)
        if chance.random() < 0.15:
            _ahead(fleet, chance)
        if seed % 2 and chance.random() < 0.7:
            index = fleet.size - chance.randrange(1, 4)
            fleet.approve(_digest(fleet, index), chance.choice(("boss", "ci", "ops", "stranger")))
    return fleet


def _digest(fleet: Fleet, index: int) -> Digest:
    return digest(fleet.entries[index][1])


def _act(fleet: Fleet, chance: random.Random) -> None:
    by = chance.choice(PEOPLE)
    select: Any = chance.choice(SELECTS)
    match chance.randrange(10):
        case 0 | 1:
            fleet.device(chance.choice(DEVICES), by=by, tags=chance.choice(TAGS))
        case 2:
            fleet.device(chance.choice(DEVICES), by=chance.choice(DEVICES), key=key(str(chance.random())).public.text)
        case 3:
            name, select = str(fleet.size), chance.choice(SELECTS)
            fleet.release(name, by=by, lines=(SelectLine(select=select, closure=closure(name)),))
        case 4 | 5:
            releases: list[Any] = list(fleet.state.releases) or ["0" * 64]
            fleet.rollout(chance.choice(releases), by=by, select=select)
            if chance.random() < 0.3 and fleet.state.rollouts:
                first = chance.choice(list(fleet.state.rollouts))
                fleet.rollout(None, by=by, select=select, kind="rollback", of=first)
        case 6 | 7:
            rollouts: list[Any] = list(fleet.state.rollouts) or ["0" * 64]
            verb = chance.choice(("pause", "resume", "cancel"))
            fleet.control(chance.choice(rollouts), verb, by=by, **chance.choice(({}, {}, {"seq": 7})))
        case 8:
            parent = chance.choice([None, *fleet.state.grants])
            fleet.grant(
                chance.choice(PEOPLE),
                "deploy",
                by=by,
                parent=parent,
                select=select,
                depth=chance.randrange(2),
                max_devices=chance.choice((None, 1)),
            )
        case _ if chance.random() < 0.3:
            fleet.revoke(grant=chance.choice(list(fleet.state.grants)), by=by)
        case _:
            leaf, payload = chance.choice(fleet.entries)  # a repeat
            fleet.append_leaf(leaf, payload)
    if chance.random() < 0.2:  # the coordinator puts a leaf at another time
        leaf, payload = chance.choice(fleet.entries)
        log_time = fleet.now + chance.choice((-50, 50, 10**6, 10**8))
        leaf = fleet.leaf(payload, sshsig.parse(leaf[72:]).namespace, by) if chance.random() < 0.7 else leaf
        fleet.append_leaf(log_time.to_bytes(8, "big") + leaf[8:], payload)


def _ahead(fleet: Fleet, chance: random.Random) -> None:
    """Let a device sign a rollout as its own statement before it is in the log, and an approval come too early."""
    device = chance.choice(DEVICES)
    by = chance.choice(("ops", device))
    releases: list[Any] = list(fleet.state.releases) or ["0" * 64]
    later = copy.deepcopy(fleet)
    later.rollout(chance.choice(releases), by=by)
    payload = later.entries[-1][1]
    fleet.append(payload, f"nixfleet-device-v1@{device_id(device)}", device)
    if by == "ops":
        fleet.append(payload, "nixfleet-approve-v1", "ci")
    else:
        fleet.grant(by, "deploy")
        fleet.approve(_digest(fleet, fleet.size - 1), "boss")
    fleet.append(payload, "nixfleet-rollout-v1", by)


@given(st.integers(0, 40), st.sampled_from(DEVICES))
@settings(deadline=None, max_examples=60)
def test_a_partial_replay_equals_the_full_one(seed: int, name: str) -> None:
    """With the payloads that one device needs, each has the verdict it has for who holds all, and so has the choice."""
    fleet, device = made_up(seed), device_id(name)
    needs = Needs(fleet.state, device)
    agent = State(fleet.state.fleet)
    for index, (leaf, payload) in enumerate(fleet.entries):
        needed = needs(leaf)
        verdict = replay(agent, index, leaf, payload if needed else None)
        if needed:
            assert fleet.verdicts[index] == verdict
    assert agent.blind_at is None
    assert not missing(agent, device).controls
    _same_for(fleet.state, agent, device)


@given(st.integers(0, 40), st.sampled_from(DEVICES), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_late_payloads_lead_to_the_same_state(seed: int, name: str, chance: random.Random) -> None:
    """An agent that gets releases and controls later, in any order, ends where it would have with them at once."""
    fleet, device = made_up(seed), device_id(name)
    needs = Needs(fleet.state, device)
    agent = State(fleet.state.fleet)
    late = []
    for index, (leaf, payload) in enumerate(fleet.entries):
        kind = leaf[72:].split(b"nixfleet-")[1][:7] if b"nixfleet-" in leaf else b""
        hold = needs(leaf) and kind in {b"release", b"control"} and chance.random() < 0.5
        replay(agent, index, leaf, payload if needs(leaf) and not hold else None)
        if hold:
            late.append(payload)
    chance.shuffle(late)
    for payload in late:
        supply(agent, payload)
    assert not missing(agent, device).controls
    _same_for(fleet.state, agent, device)


def _same_for(full: State, agent: State, device: str) -> None:
    """Compare what a device goes by."""
    assert full.devices.get(device) == agent.devices.get(device)
    assert full.grants == agent.grants
    assert full.revoked_grants == agent.revoked_grants
    assert full.root == agent.root
    assert full.last_time == agent.last_time
    for now in (0, T0 + 10_000_000):
        assert _told(choose(full, device, now, covers=lambda _: True)) == _told(
            choose(agent, device, now, covers=lambda _: True)
        )


def _told(choice: Any) -> tuple[object, ...]:
    rollout = getattr(choice, "rollout", None)
    skipped = tuple((skip.rollout.digest, skip.kind) for skip in choice.skipped)
    return type(choice), getattr(choice, "kind", ""), rollout.digest if rollout else "", skipped


@given(st.lists(st.tuples(st.binary(max_size=1_024), st.none() | st.binary(max_size=200)), max_size=5))
def test_random_leaves_never_raise(entries: list[tuple[bytes, bytes | None]]) -> None:
    """Any bytes up to 1 KiB have a verdict, before and after a root, and no effect."""
    for state in (State(FleetId("0" * 64)), made_up(0).state.copy()):
        devices = dict(state.devices)
        for leaf, payload in entries:
            assert isinstance(replay(state, state.size, leaf, payload), Void)
        assert devices == state.devices


@given(st.integers(0, 5), st.data())
@settings(deadline=None)
def test_a_changed_byte_of_a_leaf_or_payload_takes_its_effect_away(seed: int, data: st.DataObject) -> None:
    """No valid statement stays valid with another byte in its signature, digest or payload."""
    fleet = made_up(seed)
    index = data.draw(
        st.sampled_from([index for index, verdict in enumerate(fleet.verdicts) if isinstance(verdict, Valid)])
    )
    state = State(fleet.state.fleet)
    for place, (leaf, payload) in enumerate(fleet.entries[:index]):
        replay(state, place, leaf, payload)
    leaf, payload = fleet.entries[index]
    in_leaf = b"nixfleet-approve-v1" in leaf or data.draw(st.booleans())  # an approval reads no payload
    text = leaf if in_leaf else payload
    place = data.draw(st.integers(8 if in_leaf else 0, len(text) - 1))  # the first 8 bytes are the coordinator's time
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != text[place]))
    changed = text[:place] + bytes([byte]) + text[place + 1 :]
    verdict = replay(state, index, *((changed, payload) if in_leaf else (leaf, changed)))
    assert isinstance(verdict, Void | Unknown)
    assert len(Leaf.unpack(leaf).sha512) == 64
