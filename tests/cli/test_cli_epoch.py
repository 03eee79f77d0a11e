"""A next epoch that several sign over time: a file from hand to hand, no coordinator, and nothing secret in it."""

import json
import shutil
from pathlib import Path

import pytest
from tests.cli.commandline import Commands
from tests.factories import key

from nixfleet.cli import clock, newepoch, refounding
from nixfleet.server.coordinator import restoring

FLAGS = ("--new-log-key", "--timeout", "1", "--yes")


class Lost:
    """A fleet of three root principals, two of whom sign, whose coordinator is gone; each has a copy of the log."""

    def __init__(self, nixfleet: Commands, folder: Path) -> None:
        self.nixfleet = nixfleet
        self.folder = folder
        self.file = folder / "next.json"
        nixfleet.init()
        self.keys = {name: folder / name for name in ("bob", "carol")}
        for name, path in self.keys.items():
            path.write_text(key(name).to_openssh())
            path.chmod(0o600)
            path.with_suffix(".pub").write_text(key(name).public.text + "\n")
        add = [f"--add-principal={name}={path}.pub" for name, path in self.keys.items()]
        with nixfleet.serving():
            nixfleet.enroll("web-01")
            nixfleet("log", "mirror", str(folder / "early"))
            nixfleet("access", "root", "update", *add, "--threshold", "2", "--yes")
            nixfleet("access", "root", "sign", "--yes", "--key", str(self.keys["bob"]))
            nixfleet("log", "mirror")
            nixfleet("log", "mirror", str(folder / "copy"))
        nixfleet.data.rename(folder / "lost")

    def sign(self, who: str, *options: str, code: int = 0, file: Path | None = None) -> str:
        """Sign the file as somebody; gives what was said."""
        argv = ("access", "root", "sign", str(file or self.file), "--key", str(self.keys[who]), "--yes", *options)
        done = self.nixfleet(*argv, code=code)
        return done.out + done.err

    def restore(self, *argv: str, code: int = 0) -> str:
        """Restore, or propose to; gives what was said."""
        done = self.nixfleet("log", "restore", *FLAGS, *argv, code=code)
        return done.out + done.err


@pytest.fixture
def lost(nixfleet: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lost:
    """Give a fleet that nobody serves."""
    monkeypatch.setattr(restoring, "QUIET_S", 0)
    return Lost(nixfleet, tmp_path)


def test_two_sign_in_two_places_and_the_first_completes_it(lost: Lost) -> None:
    """Bob signs on a copy of his own; the file says what it does and for whom it waits; then the folder is made."""
    nixfleet = lost.nixfleet
    said = lost.restore("--propose", str(lost.file), "-m", "the disk is gone")
    assert "waits for 1 more of bob, carol for the root in force" in said
    assert "they run: nixfleet access root sign next.json" in said
    kept = nixfleet.data.with_name(f".{nixfleet.data.name}.next")
    assert [0o600, 0o600] == [path.stat().st_mode & 0o777 for path in sorted(kept.iterdir())]
    assert (kept / "log.key").read_text().splitlines()[1] not in lost.file.read_text()
    assert not nixfleet.data.exists()
    early = lost.restore("--signed", str(lost.file), code=3)
    assert "it waits for 1 more of bob, carol" in early
    signed = lost.sign("bob", "--copy", str(lost.folder / "copy"))
    assert "root 3 takes the log up after 4 entries, by " in signed
    assert ("note: the disk is gone" in signed, "~ epoch 0 → 1" in signed) == (True, True)
    assert "has all signatures; who proposed it runs: nixfleet log restore --new-log-key --signed next.json" in signed
    again = lost.sign("carol", code=3)
    assert "root 3 is not signed: it has all signatures" in again
    assert f"{nixfleet.data} holds the log with 6 entries" in lost.restore("--signed", str(lost.file))
    assert not kept.exists()
    with nixfleet.serving():
        found = nixfleet("audit", "verify", "--json").json
        assert (6, nixfleet.fleet) == (found["size"], found["fleet"])
        entry = nixfleet("audit", "list", "--json").json["entries"][-1]
        assert "approve" == entry["type"]
        root = nixfleet("access", "root", "show", "--json").json["root"]
        assert (3, 1) == (root["version"], root["epoch"])


def test_signed_apart_goes_together_and_another_proposal_does_not(lost: Lost) -> None:
    """Copies of one file that two people signed both count; a file of another proposal, or its keys, are refused."""
    nixfleet = lost.nixfleet
    lost.restore("--propose", str(lost.file))
    twin, other = lost.folder / "twin.json", lost.folder / "other.json"
    shutil.copy(lost.file, twin)
    assert "goes round: complete that one with --signed FILE, or remove the folder" in lost.restore(
        "--propose", str(other), code=2
    )
    lost.sign("bob")
    lost.sign("carol", file=twin)
    lost.restore("--propose", str(other), "--data", str(lost.folder / "elsewhere"))
    lost.sign("bob", file=other)
    mixed = lost.restore("--signed", str(lost.file), "--signed", str(other), code=2)
    assert "other.json is another proposal" in mixed
    keys = lost.restore("--signed", str(other), code=2)
    assert "the root that is to be in force names another log key" in keys
    assert not nixfleet.data.exists()
    assert "holds the log with 7 entries" in lost.restore("--signed", str(lost.file), "--signed", str(twin))


def test_who_holds_another_log_signs_nothing(lost: Lost) -> None:
    """A shorter copy is named, a longer one warns of what would be given up, a forged file is untrusted."""
    nixfleet = lost.nixfleet
    lost.restore("--propose", str(lost.file))
    short = lost.sign("bob", "--copy", str(lost.folder / "early"), code=2)
    assert "has 2 of the 4 entries that the proposal takes up: name a copy that has them all" in short
    whole = json.loads(lost.file.read_text())
    forged = lost.folder / "forged.json"
    forged.write_text(json.dumps({**whole, "signatures": [whole["signatures"][0][:-8] + "AAAAAAA="]}))
    assert "is not to be signed: signature 1 of 1 does not hold" in lost.sign("bob", file=forged, code=4)
    forged.write_text("{}")
    assert "is no proposal of a root" in lost.sign("bob", file=forged, code=2)
    assert whole == json.loads(lost.file.read_text())
    assert "--copy belongs to the FILE" in nixfleet("access", "root", "sign", "abc", "--copy", "x", code=2).err
    assert "say one of them" in lost.restore("--propose", "a", "--signed", "b", code=2)
    assert "completed on the machine" in lost.restore(
        "--signed", str(lost.file), "--data", str(lost.folder / "new"), code=2
    )


def test_a_proposal_from_a_clock_that_is_ahead_is_signed_by_nobody(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its date would be the log's, for ever: whoever is asked holds it against their own clock."""
    with monkeypatch.context() as wrong:
        for module in (refounding, newepoch):
            wrong.setattr(module, "now", lambda: clock.now() + 10 * 366 * 86_400)
        lost.restore("--propose", str(lost.file))
    assert "which is yet to come: every device would count from then on" in lost.sign("bob", code=4)
    assert "which is yet to come" in lost.restore("--signed", str(lost.file), code=4)


def test_a_copy_that_knows_more_is_told_what_is_given_up(lost: Lost) -> None:
    """Proposed from an older copy of the same root; who has more entries sees how many, and may still sign."""
    nixfleet = lost.nixfleet
    (lost.folder / "lost").rename(nixfleet.data)
    with nixfleet.serving():
        nixfleet("enroll", "token", "--yes")
        nixfleet("log", "mirror")
    nixfleet.data.rename(lost.folder / "gone")
    lost.restore("--propose", str(lost.file), str(lost.folder / "copy"))
    said = lost.sign("bob")
    assert "! your copy of the log of acme has 1 entry more, which would be given up" in said
    wrong = lost.restore("--signed", str(lost.file), code=2)
    assert "the proposal takes the log up after 4 entries, and the copy in" in wrong
    assert "holds the log with 6 entries" in lost.restore(str(lost.folder / "copy"), "--signed", str(lost.file))
