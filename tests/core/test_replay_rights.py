"""The replay: who may do what, and who else has to sign; each test is one rule of the trust design."""

import hashlib
from typing import Any

import pytest
from tests.core.replay_fleets import last, prod
from tests.factories import T0, YEAR_S, Fleet, device_id, fingerprint, key, principal

from nixfleet.model.statements import LogKey, Rule
from nixfleet.trust.replay import (
    Allowed,
    Denied,
    State,
    Unknown,
    Valid,
    Waiting,
    authorise,
    principal_of,
    replay,
    rules,
    supply,
)
from nixfleet.trust.statements import Malformed, digest

WAITS = "1 more approval is needed, by another principal with the right to approve"

# Grants


def test_a_grant_stays_within_its_parent() -> None:
    """Actions, devices, time, depth and max_devices must all be a part of the parent's."""
    fleet = Fleet()
    top = fleet.grant("ops", "deploy", "grant", select={"env": ["prod", "test"]}, depth=2, max_devices=5)
    usual: dict[str, Any] = {"by": "ops", "parent": top, "select": {"env": ["prod"]}, "depth": 1, "max_devices": 5}
    for changed, what in (
        ({"select": {}}, "covers env=prod,test only"),
        ({"select": {"env": ["prod", "dev"]}}, "covers env=prod,test only"),
        ({"not_after": T0 + YEAR_S + 1}, "lasts from 2027-01-15 07:59 UTC to 2028-01-15 08:00 UTC"),
        ({"not_before": T0 - 61}, "lasts from 2027-01-15 07:59 UTC to 2028-01-15 08:00 UTC"),
        ({"depth": 2}, "has depth 2: what it hands on must have less"),
        ({"max_devices": None}, "is limited to 5 devices (max_devices)"),
        ({"max_devices": 6}, "is limited to 5 devices (max_devices)"),
    ):
        fleet.grant("ci", "deploy", **(usual | changed))
        assert last(fleet) == f"it goes beyond its parent {top[:12]}, which {what}"
    fleet.grant("ci", "release", **usual)
    assert last(fleet) == f"it goes beyond its parent {top[:12]}, which allows deploy, grant only"
    child = fleet.grant("ci", "deploy", **usual)
    assert last(fleet) == "Valid"
    fleet.grant("bot", "deploy", by="ci", parent=child, select={"env": ["prod"]}, max_devices=1)
    assert last(fleet) == (
        f"it goes beyond its parent {child[:12]}, which may not be handed on: it does not allow grant"
    )
    assert principal_of(fleet.state, fingerprint("ci")) == "ops/ci"


def test_only_a_holder_hands_on() -> None:
    """Neither another principal nor one without a parent makes a grant."""
    fleet = Fleet()
    top = fleet.grant("ops", "deploy", "grant", depth=1)
    fleet.grant("other", "deploy")
    fleet.grant("ci", "deploy", by="other", parent=top)
    assert last(fleet) == f"other does not hold grant {top[:12]}, from which it hands on"
    fleet.grant("ci", "deploy", by="ops")
    assert last(fleet).startswith("ops lacks the right to grant ci anything by itself")
    fleet.grant("ci", "deploy", by="ops", parent="0" * 32)
    assert "not a grant of this log" in last(fleet)
    fleet.grant("again", "deploy", id=top)
    assert "exists already" in last(fleet)


def test_a_grant_lasts_while_it_lasts() -> None:
    """Outside its dates its key may do nothing, at its log time."""
    fleet = Fleet()
    fleet.grant("ops", "enroll", "device", not_before=T0 + 100, not_after=T0 + 200)
    fleet.device("web-01", by="ops")
    assert "no grant of its key is live" in last(fleet)
    fleet.now = T0 + 150
    fleet.device("web-01", by="ops")
    assert last(fleet) == "Valid"
    fleet.now = T0 + 200
    fleet.device("web-01", by="ops", name="web-02")
    assert "no grant of its key is live" in last(fleet)


def test_rights_are_judged_per_device_and_action() -> None:
    """A grant reaches the devices that it selects, for its actions, at a time; the root reaches everything."""
    fleet = prod()
    fleet.grant("ops", "deploy", select={"env": ["prod"]})
    now, web, dev = fleet.now, device_id("web-01"), device_id("dev-01")
    assert isinstance(authorise(fleet.state, fingerprint("ops"), "deploy", web, now), Allowed)
    assert isinstance(authorise(fleet.state, fingerprint("ops"), "deploy", dev, now), Denied)
    assert isinstance(authorise(fleet.state, fingerprint("ops"), "rollback", web, now), Denied)
    assert isinstance(authorise(fleet.state, fingerprint("ops"), "deploy", web, T0 + YEAR_S + 1), Denied)
    assert isinstance(authorise(fleet.state, fingerprint("admin"), "deploy", dev, now), Allowed)
    assert isinstance(authorise(fleet.state, fingerprint("stranger"), "deploy", web, now), Denied)
    assert isinstance(authorise(fleet.state, fingerprint("admin"), "deploy", "0" * 32, now), Denied)


# Revocation


def test_revoking_a_grant_ends_its_children() -> None:
    """What is judged at use stops at once, for the whole chain below."""
    fleet = prod()
    top = fleet.grant("ops", "deploy", "grant", depth=1)
    fleet.grant("ci", "deploy", by="ops", parent=top)
    assert isinstance(authorise(fleet.state, fingerprint("ci"), "deploy", device_id("web-01"), fleet.now), Allowed)
    fleet.revoke(grant=top)
    assert isinstance(authorise(fleet.state, fingerprint("ci"), "deploy", device_id("web-01"), fleet.now), Denied)
    fleet.revoke(grant=top)
    assert "revoked already" in last(fleet)


def test_revoking_a_key_ends_what_it_signs_and_what_it_handed_out() -> None:
    """Nothing by the key is valid any more, nor are grants that it issued."""
    fleet = prod()
    top = fleet.grant("ops", "deploy", "grant", "device", depth=1)
    fleet.grant("ci", "deploy", by="ops", parent=top)
    fleet.revoke(key_name="ops")
    fleet.device("web-01", by="ops", name="other")
    assert "its key is revoked" in last(fleet)
    assert isinstance(authorise(fleet.state, fingerprint("ci"), "deploy", device_id("web-01"), fleet.now), Denied)


def test_who_may_revoke() -> None:
    """The root, an issuer above, the holder, or who holds `revoke` over all of it; nobody else."""
    fleet = Fleet()
    top = fleet.grant("ops", "deploy", "grant", depth=1, select={"env": ["prod"]})
    first = fleet.grant("ci", "deploy", by="ops", parent=top, select={"env": ["prod"]})
    fleet.grant("guard", "revoke", select={"env": ["prod"]})
    fleet.grant("other", "revoke", select={"env": ["dev"]})
    for who, named, by in (("other", first, "other"), ("ops/ci", top, "ci")):
        fleet.revoke(grant=named, by=by)
        assert last(fleet) == (
            f"{who} lacks the right to revoke grant {named[:12]}: that is for the root, its holder, an issuer above it,"
            " or who may revoke over devices with env=prod"
        )
    fleet.revoke(grant=first, by="ops")
    assert last(fleet) == "Valid"
    fleet.revoke(grant=top, by="guard")
    assert last(fleet) == "Valid"
    fleet.revoke(key_name="other", by="other")
    assert last(fleet) == "Valid"


@pytest.mark.parametrize("name", ["web-01", "boss2", "ops"])
def test_an_issuer_ends_its_grants_and_never_a_key_that_they_name(name: str) -> None:
    """Else a narrow grant would reach every device's key, the next root's before it is one, and another's right."""
    fleet = prod()
    fleet.grant("ops", "deploy", select={"env": ["prod"]})
    top = fleet.grant("delegate", "grant", "deploy", select={"env": ["lab"]}, depth=2)
    made = fleet.grant(name, by="delegate", parent=top, select={"env": ["lab"]})
    fleet.revoke(key_name=name, by="delegate")
    assert last(fleet) == (
        f"delegate lacks the right to revoke the key {fingerprint(name)}:"
        " that is for the root, the key itself, or who may revoke over all devices"
    )
    fleet.revoke(grant=made, by="delegate")
    assert (last(fleet), {}) == ("Valid", fleet.state.revoked_keys)
    fleet.root(principals=(principal("admin"), principal("boss2")))
    assert last(fleet) == "Valid"
    fleet.device("web-01", by="web-01", key=key("web-01b").public.text)
    assert last(fleet) == "Valid"


def test_a_revoked_grant_is_handed_on_no_more() -> None:
    """Another live grant of the same key does not stand in for it."""
    fleet = Fleet()
    parent = fleet.grant("ops", "grant", "deploy", depth=1)
    fleet.grant("ops", "deploy")
    fleet.revoke(grant=parent)
    fleet.grant("crew", "deploy", by="ops", parent=parent)
    assert last(fleet) == f"ops cannot hand on: its grant {parent[:12]} is revoked"


def test_who_may_end_a_key() -> None:
    """Itself, the root, or `revoke` over everything; a root key by its own person only, and no narrower right."""
    fleet = Fleet()
    fleet.root(principals=(principal("admin", "admin", "spare"), principal("boss")))
    fleet.grant("guard", "revoke", select={"env": ["prod"]})
    fleet.grant("chief", "revoke")
    fleet.grant("ci", "deploy", select={"env": ["prod"]})
    for by, ended, expected in (
        ("guard", "ci", "or who may revoke over all devices"),
        ("chief", "ci", "Valid"),
        ("chief", "spare", "that is for the root, the key itself, or its own principal"),
        ("boss", "guard", "Valid"),
        ("admin", "spare", "Valid"),
        ("chief", "chief", "Valid"),
    ):
        fleet.revoke(key_name=ended, by=by)
        assert last(fleet).endswith(expected)


def test_the_last_root_key_cannot_be_revoked() -> None:
    """A fleet that nobody could ever govern again is not an outcome."""
    fleet = Fleet("admin", "boss")
    fleet.revoke(key_name="boss")
    assert last(fleet) == "Valid"
    fleet.revoke(key_name="admin")
    assert "too few root keys" in last(fleet)


# Roots and thresholds


def test_a_root_needs_the_threshold_of_the_one_before() -> None:
    """One of two cannot lower the threshold alone, nor can who is no root principal propose it."""
    fleet = Fleet("lead", "security", threshold=2)
    fleet.approve(digest(fleet.entries[0][1]), "security")
    fleet.grant("ops", "deploy", by="lead")
    fleet.approve(digest(fleet.entries[-1][1]), "security")
    before = fleet.state.root
    for by, said in (("ops", "a root is signed by a root principal"), ("lead", "1 more root signature is needed")):
        fleet.root_statement = before or fleet.root_statement
        changed = fleet.root(by=by, threshold=1, principals=(principal("lead"),))
        assert (said, before) == (last(fleet), fleet.state.root)
    fleet.approve(changed, "security")
    assert (fleet.state.root and fleet.state.root.threshold) == 1


def test_root_1_is_signed_by_one_of_its_principals() -> None:
    """Whoever makes a fleet for others has no part in it."""
    fleet = Fleet("admin", principals=(principal("boss"),))
    assert (last(fleet), fleet.state.root) == ("root 1 is signed by none of its principals", None)


def test_the_protocol_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was judged by newer rules stays so."""
    monkeypatch.setattr(rules, "PROTOCOL", 2)
    fleet = Fleet()
    fleet.root(protocol=2)
    assert (last(fleet), fleet.state.stopped_at) == ("Valid", None)
    fleet.root(protocol=1)
    assert last(fleet) == "the protocol never goes back"


def test_a_root_of_revoked_keys_is_void() -> None:
    """Nobody could sign the one after it."""
    fleet = Fleet("admin", "boss")
    fleet.revoke(key_name="boss")
    fleet.root(principals=(principal("boss"),))
    assert last(fleet) == "too few of its principals have a key that is not revoked"


def test_a_root_follows_the_one_before() -> None:
    """Versions come one by one, by a root principal; the new one's keys hold from then on."""
    fleet = Fleet()
    fleet.root(version=3)
    assert "does not follow" in last(fleet)
    fleet.root_statement = fleet.state.root or fleet.root_statement
    fleet.root(principals=(principal("boss"),))
    assert last(fleet) == "1 more root signature is needed"


def test_a_new_principal_consents_by_a_cosignature() -> None:
    """The thresholds of the old and of the new version must both sign; then the old key is nobody's."""
    fleet = Fleet()
    new = fleet.root(principals=(principal("boss"),))
    assert last(fleet) == "1 more root signature is needed"
    fleet.approve(new, "boss")
    assert last(fleet) == "Valid"
    fleet.device("web-01", by="admin")
    assert "names its key" in last(fleet)
    fleet.device("web-01", by="boss")
    assert last(fleet) == "Valid"


def test_a_threshold_counts_principals_not_keys() -> None:
    """With a threshold of two, one person with two keys stays one person."""
    people = (principal("lead", "lead", "lead-2"), principal("security"))
    fleet = Fleet("lead", "security", threshold=2, principals=people)
    genesis = fleet.verdicts[0]
    assert isinstance(genesis, Waiting)
    root = hashlib.sha256(fleet.entries[0][1]).hexdigest()
    fleet.approve(root, "lead-2")  # type: ignore[arg-type]  # a digest
    assert fleet.state.root is None
    fleet.approve(root, "security")  # type: ignore[arg-type]  # a digest
    assert fleet.state.root is not None
    device = fleet.device("web-01", by="lead")
    assert last(fleet) == "1 more root signature is needed"
    assert not fleet.state.devices
    fleet.approve(device, "security")
    assert device_id("web-01") in fleet.state.devices


def test_a_protocol_above_ours_stops_the_replay() -> None:
    """What comes after is for newer software; what came before stands."""
    fleet = prod()
    fleet.root(protocol=2)
    assert last(fleet) == "Valid"
    assert fleet.state.stopped_at == 3
    fleet.device("web-02")
    assert fleet.verdicts[-1] == Unknown(needed=True)


def test_an_epoch_takes_up_the_log_where_it_says() -> None:
    """The epoch rises by one, with the state it starts from; never otherwise."""
    fleet = Fleet()
    fleet.root(log=LogKey(key=key("log").public.text, epoch=1))
    assert "takes up" in last(fleet)
    fleet.root_statement = fleet.state.root or fleet.root_statement
    fleet.root(log=LogKey(key=key("log-2").public.text, epoch=1, from_=fleet.log))
    assert last(fleet) == "Valid"


# Rules and approvals


def ruled(**rule: Any) -> Fleet:
    """Make a fleet with a threshold of two, a rule on production, and two approvers beside two operators."""
    made: dict[str, Any] = {"select": {"env": ["prod"]}, "actions": ("deploy", "control", "device"), "approvals": 1}
    fleet = Fleet("lead", "security", threshold=2, rules=(Rule(**(made | rule)),))
    fleet.approve(hashlib.sha256(fleet.entries[0][1]).hexdigest(), "security")  # type: ignore[arg-type]  # a digest
    for name, actions in (
        ("ops", ("deploy", "release", "control", "device", "enroll", "approve")),
        ("oncall", ("approve",)),
    ):
        fleet.grant(name, *actions, by="lead")
        fleet.approve(hashlib.sha256(fleet.entries[-1][1]).hexdigest(), "security")  # type: ignore[arg-type]  # a digest
    fleet.device("web-01", by="ops", tags={"env": "prod"})
    return fleet


def test_an_act_under_a_rule_waits_for_another_principal() -> None:
    """A production control takes effect at the approval that completes it; nobody approves their own."""
    fleet = ruled()
    rollout = fleet.rollout(fleet.release("a", by="ops")[0], by="ops", select={"env": ["prod"]})
    pause = fleet.control(rollout, "pause", by="ops")
    assert last(fleet) == WAITS
    fleet.approve(pause, "ops")
    assert not fleet.state.rollouts[rollout].paused
    fleet.approve(pause, "stranger")
    assert "names its key" in last(fleet)
    fleet.approve(pause, "oncall")
    assert fleet.state.rollouts[rollout].paused


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_copy_under_another_signature_does_not_stand_in_for_what_waits(first: bool, late: bool) -> None:
    """Who reads a pause late, before its approval or after, has it paused as who held the payload from the start."""
    fleet, twin = ruled(), ruled()
    for one in (fleet, twin):
        one.grant("crew", "control", by="lead")
        one.approve(digest(one.entries[-1][1]), "security")
        rollout = one.rollout(one.release("a", by="ops")[0], by="ops", select={"env": ["prod"]})
    pause = twin.control(rollout, "pause", by="ops")
    signed, payload = twin.entries[-1]
    copied = fleet.leaf(payload, f"nixfleet-control-v1@{rollout[:32]}", "crew")
    for leaf in (copied, signed) if first else (signed, copied):
        fleet.append_leaf(leaf, payload)
    fleet.approve(pause, "oncall")
    agent = State(fleet.state.fleet)
    for index, (leaf, held) in enumerate(fleet.entries):
        if index == fleet.size - 1 and not late:
            assert isinstance(supply(agent, payload), Waiting)
        replay(agent, index, leaf, None if held == payload else held)
    if late:
        assert isinstance(supply(agent, payload), Valid)
    assert (True, fleet.state.rollouts) == (agent.rollouts[rollout].paused, agent.rollouts)
    assert fleet.state.pending == agent.pending


def test_approvals_are_counted_by_principal() -> None:
    """Two keys of one person are one approval; it takes somebody else for the second."""
    fleet = ruled(approvals=2)
    for name, approver in (("oncall", "oncall-2"), ("night", "night")):
        fleet.grant(name, "approve", by="lead", to=principal(name, approver))
        fleet.approve(digest(fleet.entries[-1][1]), "security")
    rollout = fleet.rollout(fleet.release("a", by="ops")[0], by="ops", select={"env": ["prod"]})
    pause = fleet.control(rollout, "pause", by="ops")
    for approver, paused in (("oncall", False), ("oncall-2", False), ("night", True)):
        fleet.approve(pause, approver)
        assert paused == fleet.state.rollouts[rollout].paused


def test_who_handed_a_right_on_does_not_approve_its_use_nor_hand_on_approving() -> None:
    """An issuer below the root is no second pair of eyes; approving is given by the root's threshold alone."""
    fleet = ruled()
    parent = fleet.grant("boss", "grant", "control", "approve", by="lead", depth=1)
    fleet.approve(digest(fleet.entries[-1][1]), "security")
    fleet.grant("crew", "control", by="boss", parent=parent)
    assert last(fleet) == "Valid"
    rollout = fleet.rollout(fleet.release("a", by="ops")[0], by="ops", select={"env": ["prod"]})
    pause = fleet.control(rollout, "pause", by="crew")
    for approver, paused in (("boss", False), ("oncall", True)):
        fleet.approve(pause, approver)
        assert paused == fleet.state.rollouts[rollout].paused
    with pytest.raises(Malformed, match="approve is given by the root alone"):
        fleet.grant("crew", "approve", by="boss", parent=parent)


def test_a_rule_binds_only_what_it_selects() -> None:
    """Development needs no approval where the rule is about production."""
    fleet = ruled()
    fleet.device("dev-01", by="ops", tags={"env": "dev"})
    fleet.device("dev-01", by="ops", name="dev-02")
    assert last(fleet) == "Valid"
    fleet.device("dev-01", by="ops", tags={"env": "prod"})
    assert last(fleet) == WAITS


def test_a_rule_can_ask_for_a_note() -> None:
    """Without a ticket or reason the act is void."""
    fleet = ruled(note_required=True, approvals=0)
    fleet.device("web-01", by="ops", name="web-02")
    assert last(fleet) == "a rule asks for a note"
    fleet.device("web-01", by="ops", name="web-02", note="CHG-7")
    assert last(fleet) == "Valid"


def test_an_approval_by_who_may_not_approve_is_void() -> None:
    """It is not kept for a day on which its signer may."""
    fleet = ruled()
    fleet.grant("ci", "release", by="lead")
    fleet.approve(digest(fleet.entries[-1][1]), "security")
    rollout = fleet.rollout(fleet.release("a", by="ops")[0], by="ops", select={"env": ["prod"]})
    fleet.approve(fleet.control(rollout, "pause", by="ops"), "ci")
    assert last(fleet).startswith("ci lacks the right to approve: its grant ")


def test_an_approval_of_nothing_is_void() -> None:
    """A further signature needs a statement within the window."""
    fleet = Fleet()
    fleet.append(b"{}", "nixfleet-approve-v1", "admin")
    assert "approves nothing" in last(fleet)
