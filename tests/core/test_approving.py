"""Whether one more signature would bring a statement further, and why not: the same judgement as the replay's."""

from typing import Any

import pytest
from tests.core.replay_fleets import last
from tests.factories import Fleet, device_id, fingerprint, key

from nixfleet.model.ids import Digest
from nixfleet.model.statements import Rule
from nixfleet.trust.access import access_view
from nixfleet.trust.approving import unmet, why_not
from nixfleet.trust.replay import Allowed, authorise
from nixfleet.trust.statements import digest

PROD = {"env": ["prod"]}
RULE = Rule(select={"env": ("prod",)}, actions=("deploy", "control", "device"), approvals=1)


@pytest.fixture
def fleet() -> Fleet:
    """Make a fleet of two root principals whose rule asks for an approval of deploys to production."""
    made = Fleet("admin", "second", threshold=2, rules=(RULE,))
    made.approve(Digest(made.fleet), "second")
    made.approve(made.device("web-01", tags={"env": "prod"}), "second")
    made.approve(made.device("dev-01", tags={"env": "dev"}), "second")
    for name, actions, more in (
        ("lead", ("release", "deploy", "control", "device", "grant"), {"depth": 1}),
        ("checker", ("approve",), {"select": PROD}),
        ("outsider", ("approve",), {"select": {"env": ["dev"]}}),
    ):
        signed(made, made.grant(name, *actions, **more))
    return made


def signed(fleet: Fleet, grant: str) -> str:
    """Let the second root principal sign the newest entry, too; gives the grant's id back."""
    fleet.approve(newest(fleet), "second")
    return grant


def newest(fleet: Fleet) -> Digest:
    """Give the digest of the newest entry."""
    return digest(fleet.entries[-1][1])


def payload(fleet: Fleet, of: Digest) -> bytes:
    """Give the payload of a digest."""
    return next(payload for _, payload in fleet.entries if digest(payload) == of)


def rolled_out(fleet: Fleet, by: str = "lead", **fields: Any) -> bytes:
    """Start a rollout of a fresh release to everything; give its payload."""
    release, _ = fleet.release(f"v{fleet.size}", by="lead")
    return payload(fleet, fleet.rollout(release, by, **fields))


def told(fleet: Fleet, of: bytes, by: str) -> str:
    """Say why somebody's signature would not count."""
    return why_not(fleet.state, of, fingerprint(by), fleet.now)


def test_an_approval_that_counts_is_wanted_until_it_is_there(fleet: Fleet) -> None:
    """Who may approve is welcome; with the signature the device's judgement changes, and nothing is wanted any more."""
    of = rolled_out(fleet)
    assert ("1 more approval is needed, by another principal with the right to approve",) == unmet(
        fleet.state, of, fleet.now
    )
    assert [digest(of)] == [one.digest for one in access_view(fleet.state, fleet.now).pending]
    assert "" == told(fleet, of, "checker")
    fleet.approve(digest(of), "checker")
    assert ((), "it waits for no signature") == (unmet(fleet.state, of, fleet.now), told(fleet, of, "checker"))
    one = fleet.state.rollouts[digest(of)]
    right = authorise(fleet.state, one.place.signer, "deploy", device_id("web-01"), fleet.now, one.place.sha512)
    assert isinstance(right, Allowed)


def test_asking_changes_nothing(fleet: Fleet) -> None:
    """What a signature would do is tried on a copy: the state itself still waits."""
    of = rolled_out(fleet)
    before = unmet(fleet.state, of, fleet.now)
    told(fleet, of, "checker")
    assert before == unmet(fleet.state, of, fleet.now)


def test_nobody_approves_their_own(fleet: Fleet) -> None:
    """The submitter's principal, also by another key or grant, is told that it has to be somebody else."""
    signed(fleet, fleet.grant("lead", "approve"))
    of = rolled_out(fleet)
    assert "lead has submitted it, and nobody approves what is their own" == told(fleet, of, "lead")
    fleet.approve(digest(of), "lead")
    assert unmet(fleet.state, of, fleet.now)


def test_an_issuer_below_the_root_does_not_approve(fleet: Fleet) -> None:
    """Who handed out a link of the submitter's chain is told which grant it is, and the replay counts them not."""
    signed(fleet, fleet.grant("lead", "approve"))
    top = next(iter(fleet.state.grants))
    child = fleet.grant("ci", "deploy", by="lead", parent=top)
    of = rolled_out(fleet, by="ci")
    assert f"lead issued grant {child[:12]}, by which it is signed: somebody else has to approve it" == told(
        fleet, of, "lead"
    )
    fleet.approve(digest(of), "lead")
    assert unmet(fleet.state, of, fleet.now)
    assert "" == told(fleet, of, "checker")


def test_who_may_not_approve_here_is_told_the_limit(fleet: Fleet) -> None:
    """A grant for other devices, one without `approve`, and a key of no grant each name what is missing."""
    of = rolled_out(fleet)
    signed(fleet, fleet.grant("reader"))
    assert "outsider lacks the right to approve acts on a device with env=prod: its grant" in told(
        fleet, of, "outsider"
    )
    assert "covers env=dev only" in told(fleet, of, "outsider")
    assert "reader lacks the right to approve" in told(fleet, of, "reader")
    assert "no grant names its key" in told(fleet, of, "stranger")
    fleet.revoke(key_name="checker", by="checker")
    assert f"the key {fingerprint('checker')} is revoked" == told(fleet, of, "checker")


def test_the_same_principal_counts_once(fleet: Fleet) -> None:
    """With two approvals asked for, who has given one is told so; the second is somebody else's."""
    fleet.approve(fleet.root("admin", rules=(Rule(select={}, actions=("deploy",), approvals=2),)), "second")
    signed(fleet, fleet.grant("other", "approve"))
    of = rolled_out(fleet)
    fleet.approve(digest(of), "checker")
    assert "checker has signed it already" == told(fleet, of, "checker")
    assert "" == told(fleet, of, "other")


def test_the_roots_own_acts_want_root_principals(fleet: Fleet) -> None:
    """A grant by one of two root principals wants the other; an approver who is none is told so."""
    fleet.grant("later", "deploy")
    of = fleet.entries[-1][1]
    assert "" == told(fleet, of, "second")
    assert "it waits for signatures of root principals, and checker is none" == told(fleet, of, "checker")
    assert "admin has submitted it" in told(fleet, of, "admin")
    fleet.approve(digest(of), "second")
    assert "Valid" == last(fleet)
    assert "it waits for no signature" == told(fleet, of, "second")


def test_an_approval_counts_before_the_roots_signatures_are_complete(fleet: Fleet) -> None:
    """A deploy by a root principal wants a co-signature and an approval; they may come in either order."""
    of = rolled_out(fleet, by="admin")
    assert ["", ""] == [told(fleet, of, name) for name in ("second", "checker")]
    fleet.approve(digest(of), "checker")
    fleet.approve(digest(of), "second")
    assert () == unmet(fleet.state, of, fleet.now)


def test_a_root_version_is_judged_as_a_root(fleet: Fleet) -> None:
    """Old and new principals are wanted, others are told who is."""
    fleet.root("admin", urls=("http://new",))
    of = fleet.entries[-1][1]
    assert "" == told(fleet, of, "second")
    assert "is a key of neither the root in force nor the new one" in told(fleet, of, "checker")


def test_a_retag_and_a_control_wait_and_say_so(fleet: Fleet) -> None:
    """What is judged at its completing leaf waits in the log, and is approved in the same way."""
    of = rolled_out(fleet)
    fleet.control(digest(of), "pause", by="lead")
    control = fleet.entries[-1][1]
    fleet.device("web-01", by="lead", tags={"env": "prod", "site": "berlin"})
    retag = fleet.entries[-1][1]
    for one in (control, retag):
        assert unmet(fleet.state, one, fleet.now)
    assert "" == told(fleet, retag, "checker")
    fleet.approve(digest(retag), "checker")
    assert "berlin" == fleet.state.devices[device_id("web-01")].statement.tags["site"]


def test_a_change_that_another_one_has_overtaken_is_not_signed(fleet: Fleet) -> None:
    """A device that changes its own key while a change of it waits takes the version: nobody is asked to sign that."""
    held = payload(fleet, fleet.device("dev-01", state="held", until=fleet.now + 1_000))
    assert "" == told(fleet, held, "second")
    fleet.device("dev-01", by="dev-01", key=key("fresh").public.text)
    assert "Valid" == type(fleet.verdicts[-1]).__name__
    said = "another change of dev-01 is in force since, and this one no longer follows: sign it anew if still wanted"
    assert said == told(fleet, held, "second")
    assert "Void" == type(fleet.approve(digest(held), "second")).__name__
