"""Fixtures of the agent's tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.agent.workbench import Bench, with_systemd


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Give a bench in a folder of its own."""
    return Bench(tmp_path)


@pytest.fixture
def asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Give what systemd-run was asked, on a machine where systemd runs."""
    return with_systemd(bench, monkeypatch)
