"""Fixtures of the agent's tests; no guard outlives its test."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.agent.workbench import Bench, with_systemd

from nixfleet.agent import agent as agents
from nixfleet.agent import link as links


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Give a bench in a folder of its own."""
    return Bench(tmp_path)


@pytest.fixture
def asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Give what systemd-run was asked, on a machine where systemd runs."""
    return with_systemd(bench, monkeypatch)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a whole agent come back at once instead of after a second."""
    monkeypatch.setattr(links, "BACKOFF_FIRST_S", 0.02)
    monkeypatch.setattr(agents, "CONTACT_S", 0.05)


@pytest.fixture(autouse=True)
def _no_guard_left(tmp_path: Path) -> Iterator[None]:
    """Take the folders of guards away, which ends them at their next look."""
    yield
    for folder in tmp_path.rglob("nixfleet/guard"):
        shutil.rmtree(folder, ignore_errors=True)
