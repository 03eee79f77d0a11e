"""What a device signs of itself: the note says what is most urgent."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.agent.site import Site

from nixfleet.agent.reporter import Reporter
from nixfleet.agent.update import State
from nixfleet.model.device import FORK, Facts, Report
from nixfleet.model.wire import Signed
from nixfleet.trust.reports import open_report
from nixfleet.trust.view import rewritten


async def told(root: Path, *, waits: str, failed: tuple[str, ...]) -> Report:
    """Give the report of a device that waits for something, and some of whose units have failed."""
    parts, sent = Site(root, token=False).parts(), list[Signed]()

    async def send_report(signed: Signed) -> None:
        sent.append(signed)

    async def failed_units() -> tuple[str, ...]:
        return failed

    link: Any = SimpleNamespace(send_report=send_report, signing_s=lambda: 1_800_000_000)
    service: Any = SimpleNamespace(state=State())
    reporter = Reporter(
        parts,
        link,
        service,
        failed_units=failed_units,
        gather=Facts,
        waits=lambda: waits,
        paused=lambda: None,
        key=lambda: parts.key,
    )
    await reporter.deliver()
    return open_report(sent[0], parts.key.public, fleet=parts.identity.fleet, device=parts.identity.device)


@pytest.mark.parametrize(
    ("waits", "failed", "note", "forked"),
    [
        ("its wave is not open yet", (), "its wave is not open yet", False),
        ("its wave is not open yet", ("nginx.service",), "failed units: nginx.service", False),
        (f"{FORK}{rewritten(7)}", ("nginx.service",), f"{FORK}{rewritten(7)}", True),
    ],
)
async def test_a_fork_is_told_before_anything_else(
    tmp_path: Path, waits: str, failed: tuple[str, ...], note: str, forked: bool
) -> None:
    """Failed units come before what is waited for, and a fork before both."""
    report = await told(tmp_path, waits=waits, failed=failed)
    assert (note, forked, not failed) == (report.note, report.forked, report.healthy)
