"""``nixfleet init --claim`` by the real command line, on a coordinator that runs as a program of its own."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cli.commandline import Commands, free_port

DEADLINE_S = 30


class Coordinator:
    """A coordinator's process, and the journal that its operator reads."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.journal = folder.parent / f"{folder.name}.journal"
        self.listen = f"127.0.0.1:{port}"

    @contextmanager
    def run(self) -> Iterator[None]:
        """Run it with an empty home and a data folder of its own, as the service does."""
        env = {**os.environ, "NIXFLEET_DATA_DIR": str(self.folder)}
        argv = [sys.executable, "-m", "nixfleet", "coordinator", "run", "--listen", self.listen]
        with self.journal.open("ab") as journal:
            process = subprocess.Popen(argv, env=env, stdout=journal, stderr=journal)
        try:
            yield
        finally:
            process.terminate()
            process.wait(DEADLINE_S)

    def says(self, pattern: str) -> str:
        """Wait until its journal has something; gives the first group, from the newest place."""
        end = time.monotonic() + DEADLINE_S
        while not (found := re.findall(pattern, self.journal.read_text())):
            assert time.monotonic() < end, self.journal.read_text()
            time.sleep(0.02)
        return str(found[-1])


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Coordinator]:
    """Give a coordinator that waits for its fleet."""
    made = Coordinator(tmp_path / "server", free_port())
    with made.run():
        made.says(r"--claim (\S+)")
        yield made


def test_a_fleet_begins_on_a_server_with_one_string(nixfleet: Commands, waiting: Coordinator) -> None:
    """The string from the journal, the address and a key: the fleet is there, verified, and the current context."""
    claim = waiting.says(r"--claim (\S+)")
    key = str(nixfleet.agent.public)
    done = nixfleet("init", "acme", "--url", waiting.url, "--key", key, "--claim", claim, "--json")
    assert (done.json["name"], done.json["urls"]) == ("acme", [waiting.url])
    assert nixfleet("audit", "verify", "--json").json["fleet"] == done.json["fleet"] == nixfleet.fleet
    assert not nixfleet.data.exists()
    assert "claimed" in waiting.journal.read_text()
    assert "serving" in waiting.says(r"(serving \S+)")
    root = nixfleet("audit", "show", "0", "--json").json["payload"]
    assert '"/cache"' in root
    assert '"acme-1:' in root
    again = nixfleet("init", "other", "--url", waiting.url, "--key", key, "--claim", claim, code=2)
    assert "has a fleet already" in again.complaint
    token = nixfleet("enroll", "token", "--tag", "env=prod", "--uses", "1", "--days", "1").out
    assert token.startswith("nixfleet-join-1.")


@pytest.mark.parametrize(
    ("damage", "code", "why"),
    [
        (lambda text: "a" * 26 + text[26:], 3, "the code is not this coordinator's"),
        (lambda text: text[:-4] + "AAAA", 4, "another one answers at this address"),
        (lambda text: text[5:], 2, "no claim string"),
    ],
)
def test_a_wrong_string_begins_nothing(
    nixfleet: Commands, waiting: Coordinator, damage: Callable[[str], str], code: int, why: str
) -> None:
    """Each kind of mistake, or attack, has its exit code and its words, and leaves no context."""
    claim = damage(waiting.says(r"--claim (\S+)"))
    argv = ("init", "acme", "--url", waiting.url, "--key", str(nixfleet.agent.public), "--claim", claim)
    complaint = nixfleet(*argv, code=code).complaint
    assert why in complaint
    assert claim not in complaint
    assert {} == nixfleet("context", "list", "--json").json["contexts"]


def test_an_address_where_nobody_answers_and_a_database_are_told(nixfleet: Commands, waiting: Coordinator) -> None:
    """Exit code 5 where nobody listens; --database with --claim is a mistake of use."""
    claim = waiting.says(r"--claim (\S+)")
    url = f"http://127.0.0.1:{free_port()}"
    key = str(nixfleet.agent.public)
    nixfleet("init", "acme", "--url", url, "--key", key, "--claim", claim, code=5)
    argv = ("init", "acme", "--url", waiting.url, "--key", key, "--claim", claim, "--database", "postgresql:///x")
    assert "the coordinator that is claimed has its own" in nixfleet(*argv, code=2).complaint


def test_the_service_comes_back_to_the_same_fleet(nixfleet: Commands, tmp_path: Path) -> None:
    """Before the claim a restart keeps the string; after it, the fleet is served and no string is printed."""
    server = Coordinator(tmp_path / "server", free_port())
    with server.run():
        claim = server.says(r"--claim (\S+)")
    server.journal.unlink()
    with server.run():
        assert claim == server.says(r"--claim (\S+)")
        nixfleet("init", "acme", "--url", server.url, "--key", str(nixfleet.agent.public), "--claim", claim)
    server.journal.unlink()
    with server.run():
        server.says(r"(serving \S+)")
        assert "--claim" not in server.journal.read_text()
        assert 1 == nixfleet("audit", "verify", "--json").json["size"]
