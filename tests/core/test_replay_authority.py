"""The replay against who would widen or block a right: by other names, other tags, or a revocation of their own."""

from typing import Any

import pytest
from tests.core.replay_fleets import last, prod
from tests.factories import Fleet, device_id, fingerprint, principal

from nixfleet.model.ids import Digest
from nixfleet.model.statements import Action, Rule
from nixfleet.trust.replay import Follow, Idle, choose, principal_of
from nixfleet.trust.statements import digest


def ruled(*actions: Action, approvals: int = 1) -> Fleet:
    """Make a fleet with a threshold of two and a rule on production; `sign` lets both root principals sign."""
    rule = Rule(select={"env": ("prod",)}, actions=actions, approvals=approvals)
    fleet = Fleet("lead", "security", threshold=2, rules=(rule,))
    fleet.approve(newest(fleet), "security")
    return fleet


def newest(fleet: Fleet) -> Digest:
    """Give the digest of the newest payload."""
    return digest(fleet.entries[-1][1])


def granted(fleet: Fleet, name: str, *actions: Action, **fields: Any) -> str:
    """Grant by both root principals."""
    made = fleet.grant(name, *actions, by="lead", **fields)
    fleet.approve(newest(fleet), "security")
    return made


def followed(fleet: Fleet, name: str = "web-01") -> str:
    """Say which rollout a device follows, or why the newest does not count."""
    choice = choose(fleet.state, device_id(name), fleet.now, covers=lambda _: True)
    if isinstance(choice, Follow):
        return str(choice.rollout.digest)
    assert isinstance(choice, Idle)
    return choice.skipped[0].kind


# Names


def enrolled(fleet: Fleet) -> None:
    """Let an operator, an approver and a device be there."""
    granted(fleet, "ops", "deploy", "release", "enroll", "device")
    granted(fleet, "oncall", "approve")
    fleet.device("web-01", by="ops", tags={"env": "prod"})


def test_who_may_name_keys_makes_no_two_people_one() -> None:
    """A delegate of the lab lists operator and approver as one principal: the approval in production still counts."""
    fleet = ruled("deploy")
    enrolled(fleet)
    lab = granted(fleet, "lab", "deploy", "grant", select={"env": ["lab"]}, depth=1)
    rollout = fleet.rollout(fleet.release("a", by="ops")[0], by="ops")
    fleet.approve(rollout, "oncall")
    assert rollout == followed(fleet)
    both = principal("x", "ops", "oncall")
    fleet.grant("x", "deploy", by="lab", parent=lab, select={"env": ["lab"]}, to=both)
    assert "Valid" == last(fleet)
    assert rollout == followed(fleet)
    assert ["ops", "oncall"] == [principal_of(fleet.state, fingerprint(name)) for name in ("ops", "oncall")]


def test_a_delegate_keeps_nobody_from_approving_for_another_delegate() -> None:
    """The lab calls the organization's CI and the approver one; by the organization's chain they are still two."""
    fleet = ruled("deploy")
    enrolled(fleet)
    org = granted(fleet, "org", "deploy", "release", "grant", depth=1)
    fleet.grant("ci", "deploy", "release", by="org", parent=org)
    lab = granted(fleet, "lab", "deploy", "grant", select={"env": ["lab"]}, depth=1)
    rollout = fleet.rollout(fleet.release("a", by="ci")[0], by="ci")
    fleet.approve(rollout, "oncall")
    assert rollout == followed(fleet)
    both = principal("x", "ci", "oncall")
    fleet.grant("x", "deploy", by="lab", parent=lab, select={"env": ["lab"]}, to=both)
    assert "Valid" == last(fleet)
    assert rollout == followed(fleet)


def test_two_approvers_that_a_delegate_calls_one_are_two() -> None:
    """They approve under the names that the root gave them."""
    fleet = ruled("deploy", approvals=2)
    enrolled(fleet)
    granted(fleet, "night", "approve")
    lab = granted(fleet, "lab", "deploy", "grant", select={"env": ["lab"]}, depth=1)
    both = principal("x", "oncall", "night")
    fleet.grant("x", "deploy", by="lab", parent=lab, select={"env": ["lab"]}, to=both)
    rollout = fleet.rollout(fleet.release("a", by="ops")[0], by="ops")
    for approver, expected in (("oncall", "approvals"), ("night", rollout)):
        fleet.approve(rollout, approver)
        assert expected == followed(fleet)


def test_one_person_under_a_delegates_name_approves_nothing_of_their_own() -> None:
    """The issuer says that both keys are its CI's: the one does not approve what the other submits by that grant."""
    fleet = ruled("deploy")
    enrolled(fleet)
    org = granted(fleet, "org", "deploy", "release", "grant", depth=1)
    fleet.grant("ci", "deploy", "release", by="org", parent=org, to=principal("ci", "ci", "oncall"))
    rollout = fleet.rollout(fleet.release("a", by="ci")[0], by="ci")
    fleet.approve(rollout, "oncall")
    assert "approvals" == followed(fleet)


@pytest.mark.parametrize("spare", ["org", "org-spare"])
def test_an_issuer_approves_with_no_key_what_it_handed_out(spare: str) -> None:
    """Neither with the key that issued the grant nor with another one of the same principal."""
    fleet = ruled("deploy")
    enrolled(fleet)
    org = granted(fleet, "org", "deploy", "release", "grant", "approve", depth=1)
    granted(fleet, "org", "approve", to=principal("org", "org-spare"))
    fleet.grant("ci", "deploy", "release", by="org", parent=org)
    rollout = fleet.rollout(fleet.release("a", by="ci")[0], by="ci")
    fleet.approve(rollout, spare)
    assert "approvals" == followed(fleet)
    fleet.approve(rollout, "oncall")
    assert rollout == followed(fleet)


def test_a_key_goes_by_the_roots_name_for_it() -> None:
    """What others call it comes after; without the root's, it is theirs."""
    fleet = prod()
    lab = fleet.grant("lab", "deploy", "grant", depth=1)
    fleet.grant("ci", "deploy", by="lab", parent=lab)
    assert "lab/ci" == principal_of(fleet.state, fingerprint("ci"))
    fleet.grant("build", "release", to=principal("build", "ci"))
    fleet.grant("evil", "deploy", by="lab", parent=lab, to=principal("evil", "ci"))
    assert "build" == principal_of(fleet.state, fingerprint("ci"))


# Approvals at use


def test_an_approval_counts_while_its_approver_may_approve() -> None:
    """It is judged again on the device: its grant's end takes it away, as does its key's."""
    for ended in ("grant", "key"):
        fleet = ruled("deploy")
        granted(fleet, "ops", "deploy", "release", "enroll")
        grant = granted(fleet, "oncall", "approve")
        fleet.device("web-01", by="ops", tags={"env": "prod"})
        rollout = fleet.rollout(fleet.release("a", by="ops")[0], by="ops")
        fleet.approve(rollout, "oncall")
        assert rollout == followed(fleet)
        fleet.revoke(by="lead", **({"grant": grant} if ended == "grant" else {"key_name": "oncall"}))
        assert rollout == followed(fleet)
        fleet.approve(newest(fleet), "security")
        assert "approvals" == followed(fleet)


def test_an_approver_of_other_devices_does_not_count() -> None:
    """The grant of approve reaches what it selects."""
    fleet = ruled("deploy")
    enrolled(fleet)
    granted(fleet, "lab-lead", "approve", select={"env": ["lab"]})
    rollout = fleet.rollout(fleet.release("a", by="ops")[0], by="ops")
    fleet.approve(rollout, "lab-lead")
    assert "approvals" == followed(fleet)


# Tags


def test_new_tags_need_deploy_where_an_earlier_rollout_would_then_apply() -> None:
    """One that selects every device, by a signer with a right to the lab alone, is not brought in by a retagging."""
    fleet = prod()
    fleet.grant("ops", "release", "deploy", select={"env": ["lab"]})
    fleet.grant("tagger", "device")
    rollout = fleet.rollout(fleet.release("a", by="ops")[0], by="ops")
    fleet.device("web-01", by="tagger", tags={"env": "lab"})
    assert last(fleet).startswith("tagger lacks the right to deploy to web-01 as env=lab: its grant ")
    assert "unauthorised" == followed(fleet)
    fleet.device("web-01", by="tagger", tags={"env": "prod", "rack": "1"})
    assert "tagger lacks the right to deploy" in last(fleet)
    fleet.control(rollout, "cancel")
    fleet.device("web-01", tags={"env": "lab"})
    assert "Valid" == last(fleet)


def test_new_tags_alone_need_no_deploy_where_the_rollout_applied_before() -> None:
    """What a device gets already, it gets under more tags as well."""
    fleet = prod()
    fleet.grant("tagger", "device")
    rollout = fleet.rollout(fleet.release("a")[0])
    fleet.device("web-01", by="tagger", tags={"env": "prod", "rack": "1"})
    assert ("Valid", rollout) == (last(fleet), followed(fleet))


def test_new_tags_need_deploy_where_a_rollback_or_a_rules_end_would_apply() -> None:
    """A rollback takes devices back; a rule that keeps a rollout from production does not bind elsewhere."""
    fleet = prod()
    fleet.grant("tagger", "device")
    first = fleet.rollout(fleet.release("a")[0], select={"env": ["prod"]})
    fleet.rollout(None, kind="rollback", of=first, select={"env": ["dev"]})
    fleet.device("web-01", by="tagger", tags={"env": "dev"})
    assert "lacks the right to deploy to web-01 as env=dev" in last(fleet)
    ruled_fleet = ruled("deploy")
    enrolled(ruled_fleet)
    granted(ruled_fleet, "tagger", "device")
    ruled_fleet.rollout(ruled_fleet.release("a", by="ops")[0], by="ops")
    assert "approvals" == followed(ruled_fleet)
    ruled_fleet.device("web-01", by="tagger", tags={"env": "dev"})
    assert "lacks the right to deploy to web-01 as env=dev" in last(ruled_fleet)


def test_a_retagging_waits_for_approvals_under_old_and_new_tags() -> None:
    """Out of production as into it; the approver's grant must reach both."""
    fleet = ruled("device")
    granted(fleet, "ops", "enroll", "device")
    granted(fleet, "prod-lead", "approve", select={"env": ["prod"]})
    granted(fleet, "dev-lead", "approve", select={"env": ["dev"]})
    fleet.device("web-01", by="ops", tags={"env": "prod"})
    for tags in ({"env": "dev"}, {"env": "prod"}):
        change = fleet.device("web-01", by="ops", tags=tags)
        assert "1 more approval is needed" in last(fleet)
        fleet.approve(change, "dev-lead")
        before = fleet.state.devices[device_id("web-01")].statement.tags
        assert tags != before
        fleet.approve(change, "prod-lead")
        assert tags == fleet.state.devices[device_id("web-01")].statement.tags


# Limits and revocation


def test_a_narrow_grant_beside_a_wide_one_takes_nothing_away() -> None:
    """Whichever came first: the chain that is limited to the most devices counts."""
    for limits in ((1, None), (None, 1)):
        fleet = prod()
        for limit in limits:
            fleet.grant("ops", "release", "deploy", max_devices=limit)
        rollout = fleet.rollout(fleet.release("a", {"web-01": "a", "dev-01": "b"}, by="ops")[0], by="ops")
        assert rollout == followed(fleet)


def test_a_right_to_revoke_is_bound_by_rules_and_ones_own_grant_is_not() -> None:
    """Who revokes what is another's needs the approvals that a rule asks for; a holder ends their own at once."""
    fleet = ruled("revoke")
    ci = granted(fleet, "ci", "deploy", select={"env": ["prod"]})
    own = granted(fleet, "bot", "deploy", select={"env": ["prod"]})
    granted(fleet, "guard", "revoke")
    granted(fleet, "oncall", "approve")
    fleet.revoke(grant=ci, by="guard")
    assert "1 more approval is needed" in last(fleet)
    assert ci not in fleet.state.revoked_grants
    fleet.approve(newest(fleet), "oncall")
    assert ci in fleet.state.revoked_grants
    fleet.revoke(grant=own, by="bot")
    assert own in fleet.state.revoked_grants


def test_a_revocation_stops_what_is_judged_at_use_and_nothing_else() -> None:
    """The open rollout ends for its device; devices enrolled and changed by the key stay as they are."""
    fleet = prod()
    ops = fleet.grant("ops", "release", "deploy", "enroll", "device", "control")
    fleet.device("web-02", by="ops", tags={"env": "prod"})
    fleet.device("web-02", by="ops", name="web-03")
    rollout = fleet.rollout(fleet.release("a", by="ops")[0], by="ops")
    fleet.control(rollout, "pause", by="ops")
    fleet.revoke(grant=ops)
    fleet.control(rollout, "resume")
    assert "unauthorised" == followed(fleet)
    assert "web-03" == fleet.state.devices[device_id("web-02")].statement.name
    assert 2 == fleet.state.rollouts[rollout].controls
