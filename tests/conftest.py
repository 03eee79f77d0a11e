"""Settings of the whole test run: imports from the checkout, and no skips where everything is required."""

import logging
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Tests share helpers as `tests.…`; the folders are no packages, so the checkout itself must be importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

pytest_plugins = ["tests.nix.fixtures"]

# How fast an example runs is the machine's affair, and no property of ours; all else stays as hypothesis has it.
settings.register_profile("untimed", parent=settings.default, deadline=None)
settings.load_profile("untimed")

REQUIRE_ALL = os.environ.get("NIXFLEET_REQUIRE_ALL") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip, or an expected failure, into a failure under NIXFLEET_REQUIRE_ALL=1."""
    report = yield
    if REQUIRE_ALL and (report.skipped or hasattr(report, "wasxfail")):
        why: Any = getattr(report, "wasxfail", None) or report.longrepr
        report.outcome = "failed"
        report.longrepr = f"NIXFLEET_REQUIRE_ALL=1 allows no skip: {why[-1] if isinstance(why, tuple) else why}"
        if hasattr(report, "wasxfail"):
            del report.wasxfail
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into an error of collection under NIXFLEET_REQUIRE_ALL=1."""
    report = yield
    if REQUIRE_ALL and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"NIXFLEET_REQUIRE_ALL=1 allows no skip: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def loggers_as_found() -> Iterator[None]:
    """Undo what a program that a test ran in this process did to the loggers: another test reads what they say."""
    known = logging.root.manager.loggerDict.values()
    loggers = [logging.root, *(one for one in known if isinstance(one, logging.Logger))]
    before = [(one, one.level, one.propagate, one.handlers[:]) for one in loggers]
    yield
    for one, level, propagate, handlers in before:
        one.setLevel(level)
        one.propagate, one.handlers = propagate, handlers
