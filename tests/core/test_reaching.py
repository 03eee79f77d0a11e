"""Whom a rollout would not reach: said before it is signed, as each device would judge it."""

from typing import Any

import pytest
from tests.core.replay_fleets import prod
from tests.factories import Fleet, device_id

from nixfleet.client.reaching import unreached, unreached_words, within_right
from nixfleet.errors import Refused
from nixfleet.model.statements import Rule
from nixfleet.trust.statements import digest

WEB, DEV = device_id("web-01"), device_id("dev-01")


def told(fleet: Fleet, by: str, release: Any, members: Any = None, **fields: Any) -> str:
    """Say who would be left out, or why nobody would be reached."""
    made = fleet.rollout_statement(release, by, **fields)
    try:
        return unreached_words(fleet.state, unreached(fleet.state, made, fleet.now, members))
    except Refused as error:
        return str(error)


def test_who_is_left_out_is_named_with_the_limit() -> None:
    """The others go on; where nobody is left, nothing is signed."""
    fleet = prod()
    grant = fleet.grant("ops", "deploy", select={"env": ["prod"]})
    release, _ = fleet.release("a")
    why = f"ops lacks the right to deploy to dev-01: its grant {grant[:12]} covers env=prod only"
    assert f"1 device left out (dev-01): {why}" == told(fleet, "ops", release)
    assert "" == told(fleet, "ops", release, select={"env": ("prod",)})
    assert "" == told(fleet, "ops", release, {WEB})
    assert "" == told(fleet, "admin", release)
    assert f"nothing is signed: {why}" == told(fleet, "ops", release, select={"env": ("dev",)})
    assert f"nothing is signed: {why}" == told(fleet, "ops", release, {DEV})


def test_a_release_that_is_still_to_be_published_needs_its_right() -> None:
    """Who may deploy and not release is told before anything is pushed."""
    fleet = prod()
    grant = fleet.grant("ops", "deploy")
    release, _ = fleet.release("a")
    assert "" == told(fleet, "ops", release)
    lacks = f"ops lacks the right to release for web-01: its grant {grant[:12]} allows deploy only"
    assert f"nothing is signed: {lacks}" == told(fleet, "ops", "0" * 64, {WEB})


def test_limits_and_rules_that_no_signature_mends_are_told() -> None:
    """Too many device lines, a soak too short: as on the device."""
    fleet = prod()
    fleet.grant("ops", "deploy", max_devices=1)
    release, _ = fleet.release("a", {"web-01": "a", "dev-01": "b"})
    assert "ops is limited to releases of at most 1 device line" in told(fleet, "ops", release)
    fleet = Fleet("lead", "second", threshold=2, rules=(Rule(select={}, actions=("deploy",), min_soak_s=60),))
    fleet.approve(digest(fleet.entries[0][1]), "second")
    fleet.grant("ops", "deploy", "release", "enroll", by="lead")
    fleet.approve(digest(fleet.entries[-1][1]), "second")
    fleet.device("web-01", by="ops")
    release, _ = fleet.release("a", by="ops")
    assert "a rule for all devices asks for a soak of 60 s" in told(fleet, "ops", release)
    assert "" == told(fleet, "ops", release, soak_s=60)


def test_what_waits_for_others_is_no_lack() -> None:
    """Approvals and co-signatures come later."""
    fleet = Fleet("lead", "second", threshold=2, rules=(Rule(select={}, actions=("deploy",), approvals=2),))
    fleet.approve(digest(fleet.entries[0][1]), "second")
    fleet.grant("ops", "deploy", "release", "enroll", by="lead")
    fleet.approve(digest(fleet.entries[-1][1]), "second")
    fleet.device("web-01", by="ops")
    release, _ = fleet.release("a", by="ops")
    assert ["", ""] == [told(fleet, by, release) for by in ("ops", "lead")]


def test_a_rollback_is_judged_by_its_own_right() -> None:
    """Who may deploy does not take back."""
    fleet = prod()
    fleet.grant("ops", "deploy")
    first = fleet.rollout(fleet.release("a")[0])
    assert "ops lacks the right to roll back" in told(fleet, "ops", None, kind="rollback", of=first)
    assert "" == told(fleet, "admin", None, kind="rollback", of=first)


def test_nobody_selected_is_nobody_left_out() -> None:
    """A rollout for devices that are still to come is signed by whoever may deploy at all."""
    fleet = prod()
    fleet.grant("ops", "deploy", select={"env": ["prod"]})
    assert "" == told(fleet, "ops", fleet.release("a")[0], select={"env": ("stage",)})


@pytest.mark.parametrize("count", [4, 8])
def test_many_that_are_left_out_are_counted(count: int) -> None:
    """Five are named."""
    fleet = prod()
    fleet.grant("ops", "deploy", select={"env": ["prod"]})
    for place in range(count):
        fleet.device(f"lab-{place}", tags={"env": "lab"})
    said = told(fleet, "ops", fleet.release("a")[0])
    assert (f"{count + 1} devices left out" in said, " more)" in said) == (True, count == 8)


def test_a_rollout_selects_no_more_than_its_signers_right() -> None:
    """So its signer can steer it: a control takes a right over all that the rollout selects."""
    fleet = prod()
    fleet.grant("ops", "deploy", "control", select={"env": ["prod", "test"]})
    release, _ = fleet.release("a")
    for asked, expected in (
        ({}, {"env": ("prod", "test")}),
        ({"env": ("prod", "dev")}, {"env": ("prod",)}),
        ({"env": ("prod",)}, {"env": ("prod",)}),
    ):
        made = within_right(fleet.state, fleet.rollout_statement(release, "ops", select=asked), fleet.now)
        assert expected == made.select
    rollout = fleet.submit(made, "ops")
    fleet.control(rollout, "pause", by="ops")
    assert fleet.state.rollouts[rollout].paused


def test_nobody_is_cut_off_by_selecting_less() -> None:
    """Where it takes two grants to reach all, or nobody is reached yet, what was asked for stays; so for the root."""
    fleet = prod()
    for env in ("prod", "dev"):
        fleet.grant("ops", "deploy", select={"env": [env]})
    release, _ = fleet.release("a")
    for by in ("ops", "admin", "stranger"):
        made = fleet.rollout_statement(release, by)
        assert made == within_right(fleet.state, made, fleet.now)
    one = fleet.rollout_statement(release, "ops", select={"env": ("stage",)})
    assert one == within_right(fleet.state, one, fleet.now)
