"""Rules that nobody could fulfil: said in words, and never of one that somebody can."""

from typing import Any

import pytest
from tests.factories import Fleet, principal

from nixfleet.model.ids import Selector
from nixfleet.model.statements import Action, Rule
from nixfleet.trust.statements import digest
from nixfleet.trust.unmeetable import unmeetable

PROD: Selector = {"env": ("prod",)}


def _rule(approvals: int, *actions: Action) -> Rule:
    return Rule(select=PROD, actions=actions or ("deploy",), approvals=approvals)


def _fleet(*rules: Rule) -> Fleet:
    fleet = Fleet("admin", "bob", threshold=2, rules=rules)
    fleet.approve(digest(fleet.entries[0][1]), "bob")
    return fleet


def _granted(fleet: Fleet, name: str, *actions: Action, **fields: Any) -> str:
    """Grant by both root principals; gives the grant's id."""
    made = fleet.grant(name, *actions, **fields)
    fleet.approve(digest(fleet.entries[-1][1]), "bob")
    return made


def _said(fleet: Fleet) -> tuple[str, ...]:
    assert fleet.state.root is not None
    return unmeetable(fleet.state, fleet.state.root, fleet.now)


def test_more_approvals_than_people_are_said() -> None:
    """Nine are asked for and one may approve: the sentence names the rule, the people and the two ways out."""
    fleet = _fleet(_rule(9))
    _granted(fleet, "carol", "approve")
    (said,) = _said(fleet)
    assert said.startswith("rule env=prod: deploy approvals=9: nothing under it can take effect: 9 approvals asked for")
    assert "carol may approve there; grant 'approve' to others" in said
    assert "or ask for fewer" in said


def test_a_person_counts_once_whatever_their_keys_and_names() -> None:
    """Two grants under two names, one of them with a further key, are one approver where a key is in both."""
    fleet = _fleet(_rule(2))
    _granted(fleet, "carol", "approve")
    _granted(fleet, "carol-home", "approve", to=principal("carol-home", "carol", "carol-2"))
    assert "carol may approve there" in _said(fleet)[0]
    _granted(fleet, "dora", "approve")
    assert () == _said(fleet)


def test_who_alone_may_approve_submits_nothing() -> None:
    """The only approver is at the root too: what they submit is said never to take effect; what others do is free."""
    fleet = _fleet(_rule(1))
    _granted(fleet, "admin-approves", "approve", to=principal("admin-approves", "admin"))
    (said,) = _said(fleet)
    assert (
        "what admin submit under it never takes effect: admin may approve there, and nobody what is their own" in said
    )


def test_an_issuer_approves_nothing_of_those_below() -> None:
    """What a team's CI submits cannot be approved by the lead who granted it, and no other may."""
    fleet = _fleet(_rule(1))
    lead = _granted(fleet, "lead", "approve", "grant", "deploy", depth=1)
    fleet.grant("ci", "deploy", by="lead", parent=lead)
    (said,) = _said(fleet)
    assert "lead/ci" in said
    _granted(fleet, "dora", "approve")
    assert () == _said(fleet)


@pytest.mark.parametrize(
    ("fields", "met"),
    [({}, True), ({"select": {"env": ["test"]}}, False), ({"select": {"site": ["rome"]}}, True), ({"ended": 1}, False)],
)
def test_only_a_grant_that_could_reach_and_is_live_counts(fields: dict[str, Any], met: bool) -> None:
    """One of other devices, or of the past, is no approver; one that overlaps may be."""
    fleet = _fleet(_rule(1))
    ended = fields.pop("ended", 0)
    _granted(fleet, "carol", "approve", **fields)
    now = fleet.now + 10 * 365 * 86_400 if ended else fleet.now
    assert fleet.state.root is not None
    assert (unmeetable(fleet.state, fleet.state.root, now) == ()) == met


def test_rules_without_approvals_ask_nobody() -> None:
    """A rule of notes and soaks is everybody's to meet."""
    assert () == _said(_fleet(Rule(select={}, actions=("deploy",), note_required=True)))
