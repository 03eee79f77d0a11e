"""Who may do what, in words: the tree of grants, why a key may or may not act, and what a revocation would stop."""

import pytest
from tests.core.replay_fleets import prod
from tests.factories import T0, YEAR_S, Fleet, device_id, fingerprint, key, principal

from nixfleet.model.statements import Action, Principal, RevokeSubject, Rule
from nixfleet.trust.access import access_view
from nixfleet.trust.replay import Chain, Explanation, Stopped, explain, would_stop
from nixfleet.trust.replay.select import tag_sets
from nixfleet.trust.statements import digest


def told(fleet: Fleet, who: str, action: Action, device: str, now: int | None = None) -> Explanation:
    """Explain a named key's right over a named device."""
    return explain(fleet.state, fingerprint(who), action, device_id(device), fleet.now if now is None else now)


def delegated() -> tuple[Fleet, str, str]:
    """Make a fleet whose org lets a team, and the team its CI, deploy to production."""
    fleet = prod()
    org = fleet.grant("org", "deploy", "release", "grant", depth=2, max_devices=50)
    team = fleet.grant(
        "team", "deploy", "grant", by="org", parent=org, select={"env": ["prod"]}, depth=1, max_devices=20
    )
    ci = fleet.grant("ci", "deploy", by="team", parent=team, select={"env": ["prod"]}, max_devices=9)
    return fleet, team, ci


def two_of(*rules: Rule) -> Fleet:
    """Make a fleet whose root acts by two of its principals, under rules, with an operator and two approvers."""
    fleet = Fleet("lead", "security", threshold=2, rules=rules)
    fleet.approve(digest(fleet.entries[0][1]), "security")
    for name, actions in (("ops", ("deploy", "release", "device", "enroll")), ("oncall", ("approve",))):
        fleet.grant(name, *actions, by="lead")
        fleet.approve(digest(fleet.entries[-1][1]), "security")
    fleet.device("web-01", by="ops", tags={"env": "prod"})
    return fleet


def linked(chain: Chain) -> list[tuple[str, str]]:
    """Give the holders of a chain's links, with what fails."""
    return [(link.holder, link.why) for link in chain.links]


# Explain


def test_a_right_is_told_with_its_chain() -> None:
    """Yes, by which grant, until when and within which limit; every link from the root down holds."""
    fleet, _, ci = delegated()
    said = told(fleet, "ci", "deploy", "web-01")
    assert said.allowed
    assert said.sentence == (
        f"org/team/ci may deploy to web-01, by grant {ci[:12]} until 2028-01-15 08:00 UTC,"
        " in releases of at most 9 device lines"
    )
    (chain,) = said.chains
    assert [("root", ""), ("org", ""), ("org/team", ""), ("org/team/ci", "")] == linked(chain)
    assert (True, "") == (chain.allowed, chain.why)


@pytest.mark.parametrize(
    ("action", "device", "why"),
    [
        ("deploy", "dev-01", "covers env=prod only"),
        ("release", "web-01", "allows deploy only"),
        ("grant", "web-01", "allows deploy only"),
    ],
)
def test_a_missing_right_names_the_grant_and_its_limit(action: Action, device: str, why: str) -> None:
    """No, for its nearest grant does not go so far; the first failing link says so too."""
    fleet, _, ci = delegated()
    said = told(fleet, "ci", action, device)
    assert (False, False) == (said.allowed, said.waits)
    assert said.sentence.startswith("org/team/ci lacks the right to ")
    assert said.sentence.endswith(f": its grant {ci[:12]} {why}")
    (chain,) = said.chains
    assert why in [link.why for link in chain.links]


def test_the_link_that_fails_is_named() -> None:
    """A revoked grant above cuts those below; they are whole otherwise."""
    fleet, team, _ = delegated()
    fleet.revoke(grant=team)
    said = told(fleet, "ci", "deploy", "web-01")
    assert f"grant {team[:12]}, on which its grant" in said.sentence
    (chain,) = said.chains
    assert [("root", ""), ("org", ""), ("org/team", "is revoked"), ("org/team/ci", "")] == linked(chain)
    assert f"grant {team[:12]} of org/team is revoked" == chain.why


def test_dates_are_told() -> None:
    """A grant that begins later, and one that is over, say when."""
    fleet = prod()
    fleet.grant("ops", "deploy", not_before=T0 + 86_400, not_after=T0 + 2 * 86_400)
    assert "begins only 2027-01-16 08:00 UTC" in told(fleet, "ops", "deploy", "web-01").sentence
    assert told(fleet, "ops", "deploy", "web-01", T0 + 90_000).allowed
    assert "ended 2027-01-17 08:00 UTC" in told(fleet, "ops", "deploy", "web-01", T0 + YEAR_S).sentence


def test_of_several_grants_the_nearest_is_named() -> None:
    """One that allows the act elsewhere comes before one that is about something else; all chains are listed."""
    fleet = prod()
    near = fleet.grant("ops", "deploy", select={"env": ["dev"]})
    fleet.grant("ops", "release")
    said = told(fleet, "ops", "deploy", "web-01")
    assert said.sentence == f"ops lacks the right to deploy to web-01: its grant {near[:12]} covers env=dev only"
    assert 2 == len(said.chains)


def test_a_wider_grant_beside_a_narrow_one_counts() -> None:
    """The limit told is the widest of the chains that hold."""
    fleet = prod()
    fleet.grant("ops", "deploy", max_devices=1)
    fleet.grant("ops", "deploy")
    fleet.grant("ops", "deploy", max_devices=5)
    assert "device lines" not in told(fleet, "ops", "deploy", "web-01").sentence


def test_a_stranger_a_revoked_key_and_a_missing_device_are_told() -> None:
    """Each is its own sentence."""
    fleet = prod()
    fleet.grant("ops", "deploy")
    fleet.revoke(key_name="ops")
    assert told(fleet, "stranger", "deploy", "web-01").sentence == (
        f"{fingerprint('stranger')} lacks the right to deploy to web-01: no grant names its key"
    )
    revoked = told(fleet, "ops", "deploy", "web-01")
    assert revoked.sentence == f"ops may not deploy to web-01: the key {fingerprint('ops')} is revoked"
    assert [("root", ""), ("ops", "names a key that is revoked")] == linked(revoked.chains[0])
    assert "it is not enrolled" in told(fleet, "admin", "deploy", "web-09").sentence
    fleet.device("web-01", state="retired")
    assert "admin may do nothing to web-01: it is retired" == told(fleet, "admin", "deploy", "web-01").sentence


def test_what_others_must_sign_is_told() -> None:
    """A rule's approvals and the root's threshold are no refusal: the right is there, but not alone."""
    fleet = two_of(Rule(select={"env": ("prod",)}, actions=("deploy",), approvals=1))
    operator, root = told(fleet, "ops", "deploy", "web-01"), told(fleet, "lead", "deploy", "web-01")
    assert [(False, True)] * 2 == [(one.allowed, one.waits) for one in (operator, root)]
    assert operator.sentence == (
        "ops may deploy to web-01, but not alone:"
        " 1 more approval is needed, by another principal with the right to approve"
    )
    assert "1 more root signature is needed" in root.sentence
    assert told(fleet, "ops", "device", "web-01").allowed


def test_the_root_approves_nothing_without_a_grant() -> None:
    """Approving is a right of its own, that the root hands out and does not have."""
    fleet = prod()
    fleet.grant("oncall", "approve")
    assert not told(fleet, "admin", "approve", "web-01").allowed
    assert told(fleet, "oncall", "approve", "web-01").allowed


def test_depth_ends_handing_on() -> None:
    """A grant of `grant` without depth hands on nothing."""
    fleet = prod()
    fleet.grant("ops", "deploy", "grant")
    fleet.grant("lead", "deploy", "grant", depth=1)
    assert "may not be handed on (depth 0)" in told(fleet, "ops", "grant", "web-01").chains[0].why
    assert not told(fleet, "ops", "grant", "web-01").allowed
    assert told(fleet, "lead", "grant", "web-01").allowed


# The tree


def test_the_tree_of_grants_has_parents_first_and_their_states() -> None:
    """Each grant with its limits and its state; what is below a dead one is cut, and says by which."""
    fleet, team, ci = delegated()
    later = fleet.grant("later", "deploy", not_before=T0 + 86_400)
    fleet.grant("past", "deploy", not_after=T0 + 1)
    fleet.revoke(grant=team)
    view = access_view(fleet.state, fleet.now)
    assert [
        ("org", "live", ""),
        ("org/team", "revoked", "it is revoked"),
        ("org/team/ci", "cut", f"grant {team[:12]} above it is revoked"),
        ("later", "future", "it begins only 2027-01-16 08:00 UTC"),
        ("past", "expired", "it ended 2027-01-15 08:00 UTC"),
    ] == [(one.name, one.state, one.why) for one in view.grants]
    below = view.grants[2]
    assert (ci, team, 9, "org/team", ("deploy",)) == (
        below.id, below.parent, below.max_devices, below.by_name, below.actions,
    )  # fmt: skip
    assert later == view.grants[3].id


def test_a_tokens_uses_are_counted_and_its_end_is_told() -> None:
    """As many as it was claimed for, valid or not; then it is used up."""
    fleet = Fleet()
    fleet.grant("token", "enroll", max_uses=2)
    for name, why in (("web-01", ""), ("web-02", "it is used up")):
        fleet.device(name, by="token")
        (grant,) = access_view(fleet.state, fleet.now).grants
        assert (fleet.size - 2, "live", why) == (grant.uses, grant.state, grant.why)


def test_the_root_is_told_with_its_keys_and_rules() -> None:
    """Principals with all their keys, which of them are revoked, the threshold, addresses, caches and rules."""
    rule = Rule(select={"env": ("prod",)}, actions=("deploy",), approvals=1, min_soak_s=60, max_in_flight=3)
    people: tuple[Principal, ...] = (principal("lead", "lead", "spare"), principal("security"))
    fleet = Fleet("lead", "security", threshold=2, rules=(rule,), principals=people)
    assert access_view(fleet.state, fleet.now).root is None
    fleet.approve(digest(fleet.entries[0][1]), "security")
    fleet.revoke(key_name="spare", by="lead")
    root = access_view(fleet.state, fleet.now).root
    assert root is not None
    assert (1, 1, 2, 0) == (root.version, root.protocol, root.threshold, root.epoch)
    assert key("log").public.fingerprint == root.log_key
    assert ("lead", (fingerprint("lead"), fingerprint("spare")), (fingerprint("spare"),)) == (
        root.principals[0].name, root.principals[0].keys, root.principals[0].revoked,
    )  # fmt: skip
    assert ({"env": ("prod",)}, 1, 60, 3) == (
        root.rules[0].select, root.rules[0].approvals, root.rules[0].min_soak_s, root.rules[0].max_in_flight,
    )  # fmt: skip
    assert (("http://127.0.0.1:7070",), ("/cache",)) == (root.urls, root.caches)


# What waits


def test_what_waits_for_signatures_is_listed_until_it_has_them() -> None:
    """A grant of the root's threshold and a retagging: what they wait for, and who has signed."""
    fleet = two_of(Rule(select={"env": ("prod",)}, actions=("device",), approvals=1))
    assert () == access_view(fleet.state, fleet.now).pending
    fleet.grant("guest", "release", by="lead")
    grant = digest(fleet.entries[-1][1])
    change = fleet.device("web-01", by="ops", tags={"env": "prod", "rack": "1"})
    first, second = access_view(fleet.state, fleet.now).pending
    assert (grant, "grant", "lead", ("lead",), "1 more root signature is needed") == (
        first.digest, first.type, first.by_name, first.signed, first.waits,
    )  # fmt: skip
    assert "allow guest to release on all devices" in first.subject
    assert (change, "device", "ops", fleet.size - 1) == (second.digest, second.type, second.by_name, second.index)
    fleet.approve(change, "oncall")
    fleet.approve(grant, "security")
    assert () == access_view(fleet.state, fleet.now).pending


def test_a_rollout_that_devices_do_not_take_up_yet_is_listed() -> None:
    """Its verdict is valid, but its approvals are counted at use: so it waits as well, until they are there."""
    fleet = two_of(Rule(select={"env": ("prod",)}, actions=("deploy", "release"), approvals=1))
    release = fleet.release("r1", by="ops")[0]
    rollout = fleet.rollout(release, by="ops")
    waiting = access_view(fleet.state, fleet.now).pending
    assert [("release", release), ("rollout", rollout)] == [(one.type, one.digest) for one in waiting]
    fleet.approve(release, "oncall")
    fleet.approve(rollout, "oncall")
    assert () == access_view(fleet.state, fleet.now).pending


def test_a_release_for_others_and_an_overtaken_rollout_do_not_wait() -> None:
    """What no device under the rule would get, and what a newer one has replaced, need nobody."""
    fleet = two_of(Rule(select={"env": ("prod",)}, actions=("deploy", "release"), approvals=1))
    fleet.device("dev-01", by="ops", tags={"env": "dev"})
    fleet.rollout(fleet.release("old", by="ops", note="r")[0], by="ops")
    _, newer = (fleet.release("new", by="ops")[0], fleet.size - 1)
    new = fleet.rollout(digest(fleet.entries[newer][1]), by="ops")
    for one in (digest(fleet.entries[newer][1]), new):
        fleet.approve(one, "oncall")
    waiting = access_view(fleet.state, fleet.now).pending
    assert ["release"] == [one.type for one in waiting]
    assert "publish release old" in waiting[0].subject


# What a revocation would stop


def test_a_revocation_stops_what_is_judged_at_use() -> None:
    """Open rollouts, releases and child grants end; what others signed, and what is done, stays."""
    fleet, team, ci = delegated()
    fleet.grant("ci", "release")
    mine = fleet.release("mine", {"web-01": "mine"}, by="ci")[0]
    run = fleet.rollout(mine, by="ci", select={"env": ["prod"]})
    fleet.rollout(fleet.release("other")[0], select={"env": ["dev"]})
    stopped = would_stop(fleet.state, RevokeSubject(grant=team), fleet.now)
    assert [("rollout", run, "deploy of mine to env=prod"), ("grant", ci, "org/team/ci")] == [
        (one.kind, one.id, one.name) for one in stopped
    ]
    assert f"grant {team[:12]} above it is revoked" == stopped[1].why
    by_key = would_stop(fleet.state, RevokeSubject(key=fingerprint("ci")), fleet.now)
    assert {("rollout", run), ("release", mine), ("grant", ci)} < {(one.kind, one.id) for one in by_key}
    fleet.revoke(grant=team)
    assert () == would_stop(fleet.state, RevokeSubject(grant=team), fleet.now)


def test_what_is_over_is_not_stopped() -> None:
    """A cancelled rollout, one that expired, and one that a newer one replaced end nothing any more."""
    fleet = prod()
    ops = fleet.grant("ops", "deploy", "control")
    release = fleet.release("r")[0]
    fleet.control(fleet.rollout(release, by="ops"), "cancel", by="ops")
    fleet.rollout(release, by="ops", not_after=fleet.now + 10)
    fleet.rollout(release, by="ops", not_after=fleet.now + 5_000)
    last = fleet.rollout(release, by="ops")
    stopped = would_stop(fleet.state, RevokeSubject(grant=ops), fleet.now + 100)
    assert [last] == [one.id for one in stopped]


def test_an_approval_that_counts_no_more_is_listed_with_what_it_stops() -> None:
    """The approver's grant ends: the approval, and the rollout that stood on it."""
    fleet = two_of(Rule(select={"env": ("prod",)}, actions=("deploy",), approvals=1))
    run = fleet.rollout(fleet.release("r", by="ops")[0], by="ops")
    fleet.approve(run, "oncall")
    stopped = would_stop(fleet.state, RevokeSubject(key=fingerprint("oncall")), fleet.now)
    assert [("rollout", run), ("approval", run), ("grant", "oncall")] == [
        (one.kind, one.name if one.kind == "grant" else one.id) for one in stopped
    ]
    assert Stopped("approval", run, "deploy of r to all devices", "the approval by oncall counts no more") in stopped


def test_the_preview_changes_nothing() -> None:
    """Asked again it says the same, and nothing is revoked."""
    fleet, team, _ = delegated()
    before = fleet.state.copy()
    first = would_stop(fleet.state, RevokeSubject(grant=team), fleet.now)
    assert first == would_stop(fleet.state, RevokeSubject(grant=team), fleet.now)
    assert before.revoked_grants == fleet.state.revoked_grants == {}


def test_an_approval_of_what_still_waits_is_listed() -> None:
    """It would have to be given again by somebody else."""
    fleet = two_of(Rule(select={}, actions=("device",), approvals=2))
    change = fleet.device("web-01", by="ops", name="web-02")
    fleet.approve(change, "oncall")
    stopped = would_stop(fleet.state, RevokeSubject(key=fingerprint("oncall")), fleet.now)
    assert [("approval", change, "device that waits"), ("grant", stopped[1].id, "oncall")] == [
        (one.kind, one.id, one.name) for one in stopped
    ]


def test_a_rollout_by_device_lines_waits_beside_a_newer_one_for_others() -> None:
    """Whose its lines are the log does not tell, so nothing that still waits is hidden."""
    fleet = two_of(Rule(select={"env": ("prod",)}, actions=("deploy",), approvals=1))
    fleet.device("web-02", by="ops", tags={"env": "prod"})
    runs = [fleet.rollout(fleet.release(name, {name: "a"}, by="ops")[0], by="ops") for name in ("web-01", "web-02")]
    fleet.approve(runs[1], "oncall")
    assert [runs[0]] == [one.digest for one in access_view(fleet.state, fleet.now).pending]


def test_tags_that_nothing_asks_for_do_not_tell_devices_apart() -> None:
    """A thousand devices with a value of their own each are judged as one; those that a rule tells apart are not."""
    fleet = two_of(Rule(select={"env": ("prod",)}, actions=("deploy",), approvals=1))
    for place in range(5):
        fleet.device(f"d{place}", by="ops", tags={"env": "prod", "host": str(place)})
    fleet.device("lab-01", by="ops", tags={"env": "lab", "host": "lab"})
    assert [{"env": "lab"}, {"env": "prod"}] == tag_sets(fleet.state)
    fleet.rollout(fleet.release("a", by="ops")[0], by="ops", select={"host": ["1"]})
    assert 7 == len(tag_sets(fleet.state))
