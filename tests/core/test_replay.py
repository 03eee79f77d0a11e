"""The replay: what a leaf does in the order of the log; each test is one rule of the trust design."""

import copy

import msgspec
import pytest
from tests.core.replay_fleets import last, prod
from tests.factories import T0, YEAR_S, Fleet, device_id, fingerprint, key

from nixfleet.model.ids import Digest
from nixfleet.model.statements import CacheRef, LogState, Rule
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.replay import (
    State,
    Unknown,
    Valid,
    Void,
    replay,
)
from nixfleet.trust.statements import digest, encode, namespace_of

# Genesis, envelope, log


def test_the_first_root_makes_the_fleet() -> None:
    """Root 1 is valid as leaf 0 when the fleet id is its digest, and for no other id."""
    fleet = Fleet()
    assert isinstance(fleet.verdicts[0], Valid)
    other = State(fleet.state.fleet.replace(fleet.fleet[0], "0" if fleet.fleet[0] != "0" else "1"))  # type: ignore[arg-type]  # an id
    verdict = replay(other, 0, *fleet.entries[0])
    assert verdict == Void("it is not the root that the fleet id names")
    assert replay(other, 1, *fleet.entries[0]) == Void("the log does not begin with root 1")
    fleet.device("web-01")
    assert replay(State(fleet.state.fleet), 0, *fleet.entries[1]) == Void("the log does not begin with root 1")


def test_a_root_by_a_stranger_makes_no_fleet() -> None:
    """Root 1 must be signed by the key that it names as `by`."""
    fleet = Fleet()
    payload = fleet.entries[0][1]
    leaf = fleet.leaf(payload, "nixfleet-root-v1", "stranger")
    assert isinstance(replay(State(fleet.state.fleet), 0, leaf, payload), Void)


@pytest.mark.parametrize(
    ("late_s", "valid"), [(24 * 3_600, True), (24 * 3_600 + 1, False), (-300, True), (-301, False)]
)
def test_a_statement_is_void_too_long_after_its_signing(late_s: int, *, valid: bool) -> None:
    """It was signed at most 24 h before its log time, and at most 5 min after."""
    fleet = Fleet()
    fleet.now += 1_000
    fleet.device("web-01", at=fleet.now + 1 - late_s)
    assert valid == isinstance(fleet.verdicts[-1], Valid)


def test_log_time_never_goes_back() -> None:
    """A leaf below the log time before it is void; the clock of the replay stays."""
    fleet = Fleet()
    fleet.now -= 5
    fleet.device("web-01")
    assert last(fleet) == "its log time is below that of an earlier statement"
    assert fleet.state.last_time == T0


def _at(leaf: bytes, log_time: int) -> bytes:
    return log_time.to_bytes(8, "big") + leaf[8:]


@pytest.mark.parametrize("what", ["garbage", "stranger", "repeat", "device", "approval", "late rollout", "no right"])
def test_the_coordinator_alone_does_not_move_the_clock(what: str) -> None:
    """It sets log times: no leaf without a statement signed at about that time ends a hold or voids what follows."""
    fleet = Fleet()
    fleet.grant("ops", "release")
    fleet.rollout(fleet.release("a")[0])
    fleet.device("web-01", state="held", until=T0 + 10 * YEAR_S)
    leaf, payload = fleet.entries[-1]
    rollout = encode(fleet.rollout_statement(None, kind="rollback", of=next(iter(fleet.state.rollouts))))
    denied = encode(fleet.rollout_statement(None, by="ops", kind="rollback", of=next(iter(fleet.state.rollouts))))
    made = {
        "garbage": (leaf[:72] + b"junk", b""),
        "stranger": (fleet.leaf(payload, "nixfleet-rollout-v1", "stranger"), payload),
        "repeat": fleet.entries[3],
        "device": (fleet.leaf(payload + b" ", f"nixfleet-device-v1@{device_id('web-01')}", "admin"), payload + b" "),
        "approval": (fleet.leaf(payload, "nixfleet-approve-v1", "admin"), payload),
        "late rollout": (fleet.leaf(rollout, "nixfleet-rollout-v1", "admin"), rollout),
        "no right": (fleet.leaf(denied, "nixfleet-rollout-v1", "ops"), denied),
    }[what]
    before = fleet.state.last_time
    fleet.append_leaf(_at(made[0], T0 + 11 * YEAR_S), made[1])
    assert before == fleet.state.last_time
    fleet.device("web-01", name="other")
    assert last(fleet) == "Valid"
    fleet.grant("ci", "deploy")
    assert (last(fleet), fleet.state.last_time) == ("Valid", fleet.now)


def test_a_base_must_be_a_state_of_this_log() -> None:
    """A statement cannot move to another fork, nor to before its base, nor far behind it."""
    fleet = Fleet()
    fleet.device("web-01", base=LogState(size=1, root="0" * 64))
    assert last(fleet) == "its base is not a state of this log"
    fleet.device("web-01", base=LogState(size=9, root="0" * 64))
    assert last(fleet) == "its base is not within the 4096 entries before it"


def test_a_base_ends_after_4096_entries() -> None:
    """The window is counted in entries, strangers' too."""
    fleet = Fleet()
    base = fleet.log
    for _ in range(4_097):
        fleet.append_leaf(bytes(80), b"")
    fleet.device("web-01", base=base)
    assert last(fleet) == "its base is not within the 4096 entries before it"


def test_a_repeat_is_dropped_and_judged_once() -> None:
    """The same statement by the same key within 4096 entries has no effect; a stranger cannot spoil it beforehand."""
    fleet = Fleet()
    statement = fleet.rollout_statement(fleet.release("a")[0])
    payload = encode(statement)
    fleet.append(payload, "nixfleet-rollout-v1", "stranger")
    assert "names its key" in last(fleet)
    fleet.append(payload, "nixfleet-rollout-v1", "admin")
    assert last(fleet) == "Valid"
    fleet.append(payload, "nixfleet-rollout-v1", "admin")
    assert last(fleet) == "it repeats entry 3"


def test_nobody_signs_for_another() -> None:
    """A leaf by another key than `by` is void, even by a root key."""
    fleet = Fleet("admin", "boss")
    statement = fleet.rollout_statement(None, by="boss", kind="rollback", of="0" * 64)
    fleet.submit(statement, by="admin")
    assert last(fleet) == "it is signed by another key than it names"


def test_a_signature_is_for_one_type_subject_and_fleet() -> None:
    """The namespace must be the payload's own, and the payload this fleet's."""
    fleet = prod()
    statement = fleet.rollout_statement(fleet.release("a")[0])
    fleet.append(encode(statement), "nixfleet-release-v1", "admin")
    assert last(fleet) == "its signature is for another type or subject"
    fleet.device("web-02", fleet="0" * 64)
    assert last(fleet) == "it is for another fleet"
    device = msgspec.structs.replace(fleet.state.devices[device_id("web-01")].statement, note="again")
    fleet.append(encode(device), f"nixfleet-device-v1@{'0' * 32}", "admin")
    assert "another type or subject" in last(fleet)


def test_a_bad_signature_is_void() -> None:
    """A leaf whose signature does not fit its digest has no effect, held payload or not."""
    fleet = Fleet()
    payload = encode(fleet.rollout_statement(fleet.release("a")[0]))
    leaf = fleet.leaf(payload, "nixfleet-rollout-v1", "admin")
    fleet.append_leaf(leaf[:-1] + bytes([leaf[-1] ^ 1]), payload)
    assert "signature" in last(fleet)


def test_a_strangers_leaf_needs_no_payload_and_freezes_nobody() -> None:
    """A key in no statement is void by its leaf; the same without a payload by a known key stops the replay."""
    fleet = Fleet()
    stranger = fleet.leaf(b"x", "nixfleet-root-v1", "stranger")
    assert isinstance(replay(fleet.state, 1, stranger, None), Void)
    assert fleet.state.blind_at is None
    known = fleet.leaf(b"x", "nixfleet-root-v1", "admin")
    assert replay(fleet.state, 2, known, None) == Unknown(needed=True)
    assert fleet.state.blind_at == 2
    payload = encode(fleet.rollout_statement(Digest("0" * 64)))
    assert replay(fleet.state, 3, fleet.leaf(payload, "nixfleet-rollout-v1", "admin"), payload) == Unknown(needed=True)
    assert not fleet.state.rollouts


def test_a_payload_that_was_not_signed_is_one_that_is_not_held() -> None:
    """The leaf's digest decides: a payload put beside another's signature has no say."""
    fleet = Fleet()
    signed, other = (encode(fleet.rollout_statement(Digest(digit * 64))) for digit in "01")
    leaf = fleet.leaf(signed, "nixfleet-rollout-v1", "admin")
    assert replay(fleet.state, 1, leaf, other) == Unknown(needed=True)
    assert not fleet.state.rollouts


def test_malformed_content_is_void_and_the_replay_goes_on() -> None:
    """Well-signed nonsense has no effect, and the next statement has."""
    fleet = Fleet()
    fleet.append(b'{"type":"root"}', "nixfleet-root-v1", "admin")
    assert "malformed" in last(fleet)
    fleet.device("web-01")
    assert last(fleet) == "Valid"


# Devices


def test_a_token_gives_exactly_its_tags_and_so_many_devices() -> None:
    """A token's key enrols devices with the tag keys of its selector, one allowed value each, `max_uses` of them."""
    fleet = Fleet()
    fleet.grant("token", "enroll", select={"env": ["prod", "test"]}, max_uses=2)
    fleet.device("web-01", by="token", tags={"env": "prod", "role": "db"})
    assert isinstance(fleet.verdicts[-1], Void)
    fleet.device("web-01", by="token", tags={})
    assert isinstance(fleet.verdicts[-1], Void)
    fleet.device("web-01", by="token", tags={"env": "test"})
    assert last(fleet) == "Valid"
    fleet.device("web-02", by="token", tags={"env": "prod"})
    assert last(fleet) == "Valid"
    fleet.device("web-03", by="token", tags={"env": "prod"})
    assert "used up" in last(fleet)
    fleet.device("web-01", by="token", tags={"env": "prod"})
    assert "lacks the right to change" in last(fleet)


def test_a_claim_counts_valid_or_not() -> None:
    """An id that was claimed in vain uses up its place, as every party can count from leaves alone."""
    fleet = Fleet()
    fleet.grant("token", "enroll", select={"env": ["prod"]}, max_uses=1)
    fleet.device("web-01", by="token", tags={"env": "dev"})
    fleet.device("web-02", by="token", tags={"env": "prod"})
    assert "used up" in last(fleet)
    fleet.device("web-01", by="token", tags={"env": "prod"})
    assert last(fleet) == "Valid"


def test_a_device_changes_its_own_key_and_nothing_else() -> None:
    """The current key may hand over to a new one; not rename, tag, hold or retire."""
    fleet = prod()
    fleet.device("web-01", by="web-01", name="db-01")
    assert isinstance(fleet.verdicts[-1], Void)
    fleet.device("web-01", by="web-01", key=key("new").public.text)
    assert last(fleet) == "Valid"
    fleet.device("web-01", by="web-01", key=key("newer").public.text)
    assert "names its key" in last(fleet)
    assert fleet.state.device_of(fingerprint("new")) == device_id("web-01")


def test_a_tag_change_needs_the_right_before_and_after() -> None:
    """Nobody pulls a device into, or pushes it out of, what they may not touch."""
    fleet = prod()
    fleet.grant("ops", "device", select={"env": ["prod"]})
    fleet.device("web-01", by="ops", tags={"env": "dev"})
    assert isinstance(fleet.verdicts[-1], Void)
    fleet.device("dev-01", by="ops", tags={"env": "prod"})
    assert isinstance(fleet.verdicts[-1], Void)
    fleet.device("web-01", by="ops", tags={"env": "prod", "rack": "2"})
    assert last(fleet) == "Valid"


def test_a_tag_change_into_a_standing_rollout_needs_deploy() -> None:
    """Tagging a device so that a rollout applies to it is a deployment."""
    fleet = prod()
    fleet.grant("ops", "device")
    release, _ = fleet.release("a")
    fleet.rollout(release, select={"rack": ["2"]})
    fleet.device("web-01", by="ops", tags={"env": "prod", "rack": "2"})
    assert "right to deploy" in last(fleet)
    fleet.grant("ops", "deploy")
    fleet.device("web-01", by="ops", tags={"env": "prod", "rack": "2"})
    assert last(fleet) == "Valid"


def test_versions_of_a_device_come_one_by_one_and_end() -> None:
    """A version cannot be skipped or repeated; a retired device stays retired."""
    fleet = prod()
    fleet.device("web-01", version=3)
    assert "does not follow" in last(fleet)
    fleet.device("web-01", version=1, name="x")
    assert "does not follow" in last(fleet)
    fleet.device("web-09", version=2)
    assert last(fleet) == "the device is not enrolled"
    fleet.device("web-01", state="retired")
    assert fleet.state.named("web-01") == ()
    fleet.device("web-01", state="active")
    assert "retired" in last(fleet)


def test_a_taken_name_is_shown_not_judged() -> None:
    """Both keep the name, so that no payload of another device can change a device's own verdict."""
    fleet = prod()
    fleet.device("web-02", name="web-01")
    assert last(fleet) == "Valid"
    assert {device_id("web-01"), device_id("web-02")} == set(fleet.state.named("web-01"))


# Releases, rollouts, controls


def test_a_release_names_only_the_roots_caches() -> None:
    """A cache or key that the root does not name brings nothing to a device."""
    fleet = Fleet()
    fleet.release("a", caches=(CacheRef(url="https://evil.example", key="evil-1:" + "A" * 43 + "="),))
    assert last(fleet) == "it names a cache that the root does not"


def test_an_update_needs_a_live_right_to_something() -> None:
    """Without any right of its kind, a release or rollout is void by its leaf."""
    fleet = Fleet()
    fleet.grant("ops", "control")
    release, _ = fleet.release("a")
    fleet.release("b", by="ops")
    assert "lacks the right to release" in last(fleet)
    fleet.rollout(release, by="ops")
    assert "lacks the right to deploy or rollback" in last(fleet)
    fleet.rollout(None, kind="rollback", of="0" * 64)
    assert "not of this log" in last(fleet)


def test_controls_come_in_sequence() -> None:
    """`seq` is 1 + the controls in effect: a withheld resume cannot surface later."""
    fleet = prod()
    rollout = fleet.rollout(fleet.release("a")[0])
    fleet.control(Digest(rollout[:32] + "0" * 32), "pause")
    assert last(fleet) == "the rollout that it controls is not of this log"  # its signature tells 32 digits alone
    fleet.control(rollout, "pause", seq=2)
    assert "does not follow" in last(fleet)
    fleet.control(rollout, "pause")
    assert fleet.state.rollouts[rollout].paused
    fleet.control(rollout, "resume", seq=1)
    assert fleet.state.rollouts[rollout].paused
    fleet.control(rollout, "resume")
    assert not fleet.state.rollouts[rollout].paused
    fleet.control(rollout, "advance", wave=2)
    assert "1 waves" in last(fleet)
    fleet.control(rollout, "retry", devices="failed")
    fleet.control(rollout, "retry", devices=(device_id("web-01"),))
    assert (3, 2) == tuple(fleet.state.rollouts[rollout].runs(device_id(name)) for name in ("web-01", "dev-01"))
    fleet.control(rollout, "cancel")
    fleet.control(rollout, "resume")
    assert last(fleet) == "the rollout is cancelled"


def test_a_rule_may_ask_controls_for_a_note() -> None:
    """Where it could touch what the rule selects, a control without a reason is void, and uses up no `seq`."""
    rule = Rule(select={"env": ("prod",)}, actions=("control",), note_required=True)
    fleet = Fleet("lead", "security", threshold=2, rules=(rule,))
    fleet.approve(digest(fleet.entries[0][1]), "security")
    fleet.approve(fleet.device("web-01", by="lead", tags={"env": "prod"}), "security")
    release, _ = fleet.release("a", by="lead")
    rollout, elsewhere = (fleet.rollout(release, by="lead", select={"env": [env]}) for env in ("prod", "dev"))
    for one, note in ((rollout, " "), (rollout, "OPS-7"), (elsewhere, None)):
        fleet.approve(fleet.control(one, "pause", by="lead", note=note), "security")
        assert last(fleet) == ("a rule asks for a note" if note == " " else "Valid")
    assert (1, 1) == (fleet.state.rollouts[rollout].controls, fleet.state.rollouts[elsewhere].controls)


def test_a_control_needs_the_right_over_the_whole_selection() -> None:
    """Who may control production pauses a production rollout, and no wider one."""
    fleet = prod()
    fleet.grant("ops", "control", select={"env": ["prod"]})
    release, _ = fleet.release("a")
    wide, narrow = fleet.rollout(release), fleet.rollout(release, select={"env": ["prod"]})
    fleet.control(wide, "pause", by="ops")
    assert "lacks the right to control" in last(fleet)
    fleet.control(narrow, "pause", by="ops")
    assert last(fleet) == "Valid"


def test_a_copy_is_independent() -> None:
    """Replaying on a copy leaves the original as it was."""
    fleet = prod()
    before = copy.deepcopy(fleet.state)
    other = fleet.state.copy()
    assert before == _comparable(fleet.state, before)
    payload = encode(fleet.rollout_statement(None, kind="rollback", of="0" * 64))
    replay(other, other.size, fleet.leaf(payload, "nixfleet-rollout-v1", "admin"), payload)
    assert other.size == fleet.state.size + 1
    assert before == _comparable(fleet.state, before)
    assert namespace_of(fleet.root_statement) == "nixfleet-root-v1"
    assert isinstance(Leaf.unpack(fleet.entries[0][0]), Leaf)


def _comparable(state: State, other: State) -> State:
    """Compare all but the tree, which has its root for that."""
    assert state.tree.root() == other.tree.root()
    made = copy.copy(state)
    made.tree = other.tree
    return made
