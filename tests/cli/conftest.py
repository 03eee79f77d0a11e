"""Fixtures of the command line's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.commandline import Commands
from tests.sshagent import SshAgent, ssh_agent


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshAgent]:
    """Run one ssh-agent for all tests of this process: none changes what it holds."""
    with ssh_agent(tmp_path_factory.mktemp("ssh")) as started:
        yield started


@pytest.fixture
def nixfleet(
    tmp_path: Path, agent: SshAgent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    """Give the command line with an empty home."""
    return Commands(tmp_path / "home", agent, monkeypatch, capsys)


@pytest.fixture
def served(nixfleet: Commands) -> Iterator[Commands]:
    """Give the command line with a fleet of its own that is being served."""
    nixfleet.init()
    server = nixfleet.server()
    server.start()
    try:
        yield nixfleet
    finally:
        server.stop()
