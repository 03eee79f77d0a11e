"""`nixfleet log`: a copy that is kept, an old backup brought back from it, and a coordinator lost for good."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.cli.commandline import Commands
from tests.factories import key

from nixfleet.server.coordinator import restoring


@pytest.fixture
def begun(nixfleet: Commands, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Give a fleet that nobody serves; an old backup waits for nobody."""
    monkeypatch.setattr(restoring, "QUIET_S", 0)
    nixfleet.init()
    return nixfleet


def fleet_id(nixfleet: Commands) -> str:
    """Give the root of the log as verified."""
    return str(nixfleet("audit", "verify", "--json").json["root"])


def test_a_mirror_is_brought_up_to_date(begun: Commands, tmp_path: Path) -> None:
    """The copy is verified, in this machine's folder or in one that is named, with the lines of releases."""
    with begun.serving():
        begun.enroll("web-01")
        begun.release("a", web_01="a")
        said = begun("log", "mirror").out
        assert f"3 entries in {begun.home}/state/mirrors/{begun.fleet}, verified; root " in said
        assert said == begun("log", "mirror").out
        told = begun("log", "mirror", str(tmp_path / "copy"), "--json").json
        assert (3, begun.fleet, 1) == (told["size"], told["fleet"], told["lines"])
        assert 1 == len(list((tmp_path / "copy" / "lines").iterdir()))
    assert "cannot be reached" in begun("log", "mirror", "--timeout", "1", code=5).complaint


def backup(nixfleet: Commands, place: Path) -> None:
    """Copy the database of a coordinator that does not run."""
    source = sqlite3.connect(nixfleet.data / "fleet.db")
    target = sqlite3.connect(place)
    source.backup(target)
    source.close()
    target.close()


def put_back(nixfleet: Commands, place: Path) -> None:
    """Put a copy in the database's place."""
    for end in ("-wal", "-shm"):
        (nixfleet.data / f"fleet.db{end}").unlink(missing_ok=True)
    shutil.copy(place, nixfleet.data / "fleet.db")


def test_an_old_backup_is_brought_back_from_a_copy(begun: Commands, tmp_path: Path) -> None:
    """`log restore DIR` gives everything, lines too; before it, nothing is appended; after it, work goes on."""
    backup(begun, tmp_path / "old.db")
    with begun.serving():
        begun.enroll("web-01")
        begun.release("a", web_01="a")
        begun("log", "mirror", str(tmp_path / "copy"))
    put_back(begun, tmp_path / "old.db")
    shutil.rmtree(begun.home / "state" / "mirrors")
    with begun.serving():
        told = begun("log", "restore", str(tmp_path / "copy"))
        assert "it has all 3 entries, and all that this copy of 3 could give\n" == told.out
        assert {"size": 3, "goal": 0, "lacks": [], "lines": []} == begun(
            "log", "restore", str(tmp_path / "copy"), "--json"
        ).json
        assert ["web-01"] == [one["name"] for one in begun("release", "show", "a", "--json").json["lines"]]
        begun("device", "tag", "web-01", "site=rome")


def test_the_command_line_gives_back_what_it_knows_by_itself(begun: Commands, tmp_path: Path) -> None:
    """Who just goes on working restores an old backup on the way, without a command for it."""
    backup(begun, tmp_path / "old.db")
    with begun.serving():
        begun.enroll("web-01")
    put_back(begun, tmp_path / "old.db")
    with begun.serving():
        begun("device", "tag", "web-01", "site=rome")
        assert 3 == begun("audit", "verify", "--json").json["size"]


def test_a_lost_coordinator_is_made_anew_from_the_copy(begun: Commands, tmp_path: Path) -> None:
    """A new log key, signed by the root; the log goes on, for who knew the old one, too."""
    with begun.serving():
        begun.enroll("web-01")
        begun.release("a", web_01="a")
        begun("log", "mirror")
        root = fleet_id(begun)
        alive = begun("log", "restore", "--new-log-key", "--yes", "--data", str(tmp_path / "new"), code=2).complaint
        assert "serves this fleet: it is not lost" in alive
    held = begun("log", "restore", "--new-log-key", "--yes", code=2).complaint
    assert "already holds log.key, cache.key" in held
    begun.data.rename(tmp_path / "lost")
    unsure = begun("log", "restore", "--new-log-key", "--timeout", "1", code=2)
    assert "add --yes" in unsure.err
    begun("log", "restore", "--new-log-key", "--yes", "-m", "the disk is gone", "--timeout", "1")
    assert (begun.data / "log.key").read_bytes() != (tmp_path / "lost" / "log.key").read_bytes()
    assert 0o600 == (begun.data / "log.key").stat().st_mode & 0o777
    with begun.serving():
        found = begun("audit", "verify", "--json").json
        assert (4, begun.fleet) == (found["size"], found["fleet"])
        assert root != found["root"]
        entry = begun("audit", "list", "--json").json["entries"][-1]
        assert ("root", "valid", "the disk is gone") == (entry["type"], entry["verdict"], entry["note"])
        assert entry["what"].endswith(", taking the lost log up after 3 entries (epoch 1)")
        assert ["web-01"] == [one["name"] for one in begun("release", "show", "a", "--json").json["lines"]]
        begun.enroll("web-02")
        begun("audit", "export", "--out", str(tmp_path / "all"))
        begun("audit", "verify", str(tmp_path / "all"))
        begun("log", "mirror", str(tmp_path / "fresh"))


def test_a_root_of_several_needs_all_their_signatures(begun: Commands, tmp_path: Path) -> None:
    """With a threshold of two, one key is told what is missing and makes nothing; with the other one it is done."""
    second = tmp_path / "second"
    second.write_text(key("second").to_openssh())
    second.chmod(0o600)
    second.with_suffix(".pub").write_text(key("second").public.text + "\n")
    with begun.serving():
        begun("access", "root", "update", "--add-principal", f"second={second}.pub", "--threshold", "2", "--yes")
        begun("access", "root", "sign", "--yes", "--key", str(second))
        begun("log", "mirror")
    begun.data.rename(tmp_path / "lost")
    argv = ["log", "restore", "--new-log-key", "--yes", "--timeout", "1"]
    alone = begun(*argv, code=3).complaint
    assert "1 more of second for the new one: name their keys with --with KEY" in alone
    assert not begun.data.exists()
    begun(*argv, "--with", str(second))
    with begun.serving():
        assert 5 == begun("audit", "verify", "--json").json["size"]


def without(column: str) -> Callable[[Commands, Path], None]:
    """Make a copy unfit."""

    def spoil(_: Commands, copy: Path) -> None:
        path = copy / column
        path.write_bytes(path.read_bytes()[:-1] + b"?")

    return spoil


@pytest.mark.parametrize("file", ["leaves", "payloads"])
def test_a_spoiled_copy_restores_nothing(begun: Commands, tmp_path: Path, file: str) -> None:
    """What does not verify is neither offered nor made a coordinator of; an empty folder is no copy."""
    with begun.serving():
        begun("log", "mirror", str(tmp_path / "copy"))
        without(file)(begun, tmp_path / "copy")
        assert "does not verify" in begun("log", "restore", str(tmp_path / "copy"), code=4).complaint
        assert "there is no copy of the log" in begun("log", "restore", str(tmp_path / "none"), code=2).complaint
    begun.data.rename(tmp_path / "lost")
    argv = ["log", "restore", str(tmp_path / "copy"), "--new-log-key", "--yes"]
    assert "does not verify" in begun(*argv, code=4).complaint
    assert not begun.data.exists()
    assert "belong to --new-log-key" in begun("log", "restore", "--data", "x", code=2).err


def test_a_mirror_that_follows_has_what_comes(begun: Commands, tmp_path: Path) -> None:
    """It stays, says each extension in a line, outlives a coordinator that is away, and ends at once when told to."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "nixfleet", "log", "mirror", str(tmp_path / "copy"), "--follow", "--timeout", "2"]
    with ExitStack() as stack:
        with begun.serving():
            process = stack.enter_context(
                subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline().startswith("1 entries in ")
            begun.enroll("web-01")
            assert process.stdout.readline().startswith("2 entries in ")
        assert "nixfleet: " in process.stderr.readline()
        with begun.serving():
            begun("device", "tag", "web-01", "site=rome")
            assert process.stdout.readline().startswith("3 entries in ")
            process.send_signal(signal.SIGTERM)
        process.wait(60)
