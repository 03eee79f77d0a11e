"""What an export of the audit says of who stood behind an update."""

import pytest
from tests.core.test_replay_authority import enrolled, granted, ruled
from tests.factories import Fleet, device_id, key

from nixfleet.client.archive import Archive, Head, ReportLine, verify
from nixfleet.model.device import Attempt, Cause, Outcome, Phase, Report
from nixfleet.trust.reports import sign_report


def told(fleet: Fleet, rollout: str) -> str:
    """Export a log with the device's report that it confirmed a rollout, verify it, and give its sentence."""
    attempt = Attempt(rollout=rollout, run=1, phase=Phase.CONFIRMED, outcome=Outcome.CONFIRMED, cause=Cause.NONE)
    report = Report(
        v=1,
        fleet=fleet.fleet,
        device=device_id("web-01"),
        seq=1,
        at=fleet.now,
        log=fleet.log,
        protocol=1,
        boot_id="b",
        system="",
        booted="",
        healthy=True,
        attempt=attempt,
    )
    head = Head(fleet=fleet.fleet, entries=fleet.size, reports=1, checkpoint=fleet.checkpoint)
    line = ReportLine(device=device_id("web-01"), report=sign_report(report, key("web-01")))
    (outcome,) = verify(Archive(head, list(fleet.entries), [line])).outcomes
    return outcome.sentence


@pytest.mark.parametrize("good", [True, False])
def test_only_approvals_that_count_are_named(*, good: bool) -> None:
    """Who may approve for other devices alone has signed, too, and is no witness that this update was approved."""
    fleet = ruled("deploy")
    enrolled(fleet)
    granted(fleet, "labs", "approve", select={"env": ["lab"]})
    rollout = fleet.rollout(fleet.release("a", by="ops")[0], by="ops")
    for name in ("labs", "oncall") if good else ("labs",):
        fleet.approve(rollout, name)
    said = told(fleet, rollout)
    assert good == said.endswith(", approved by oncall")
    assert good != said.endswith("1 more approval is needed, by another principal with the right to approve")


def test_who_signed_for_the_root_as_well_is_named() -> None:
    """What one root principal submits stands by the others' signatures, which are no approvals of it."""
    fleet = ruled("control")
    enrolled(fleet)
    rollout = fleet.rollout(fleet.release("a", by="ops")[0], by="lead")
    fleet.approve(rollout, "security")
    assert told(fleet, rollout).endswith("signed by lead as root, approved by security")
