"""The audit as files: exported, verified with no coordinator, held against earlier checkpoints, and tampered with."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.commandline import Commands
from tests.factories import device_id, store_path

from nixfleet.model.device import Outcome
from nixfleet.model.statements import LogState


@pytest.fixture
def exported(served: Commands, tmp_path: Path) -> Path:
    """Give an export of a fleet in which one device has confirmed a rollout."""
    served.enroll("web-01", "web-02")
    served.release("a", web_01="a")
    served("rollout", "start", "a", "--all-at-once", "--yes", "-m", "OPS-7")
    (rollout,) = served("rollout", "list", "--json").json["rollouts"]
    log = served("audit", "verify", "--json").json
    known = LogState(size=log["size"], root=log["root"])
    served.report("web-01", rollout["id"], Outcome.CONFIRMED, path=store_path("a"), log=known)
    path = tmp_path / "acme.jsonl"
    done = served("audit", "export", "--out", str(path))
    assert f"{path} has 5 entries and 1 report; 'nixfleet audit verify {path}' checks it, anywhere\n" == done.out
    return path


def lines(path: Path) -> list[Any]:
    """Read an export."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_export_is_verified_without_a_coordinator_or_a_home(
    exported: Path, served: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has only the file learns that the log holds, what ran where, by which rollout and by whose right."""
    fleet = served.fleet
    monkeypatch.setenv("NIXFLEET_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("SSH_AUTH_SOCK")
    done = served("audit", "verify", str(exported))
    assert f"the log verifies: 5 entries of fleet {fleet}, root " in done.out
    assert "web-01 ran /run/old; rollout " in done.out
    assert " confirmed, signed by " in done.out.splitlines()[-1]
    assert done.out.endswith(" as root\n")
    assert "compare its id with one that you trust" in done.err
    assert "" == served("audit", "verify", str(exported), "--fleet", fleet).err
    found = served("audit", "verify", str(exported), "--json").json
    assert (5, fleet, None) == (found["size"], found["fleet"], found["first_void"])
    (outcome,) = found["outcomes"]
    assert (device_id("web-01"), "confirmed", "", []) == tuple(
        outcome[name] for name in ("device", "outcome", "why", "grants")
    )
    assert "not of " + "ab" * 32 in served("audit", "verify", str(exported), "--fleet", "ab" * 32, code=4).complaint


Change = Callable[[list[Any]], object]


def swapped(found: list[Any]) -> None:
    """Swap two entries' contents."""
    found[2]["leaf"], found[3]["leaf"] = found[3]["leaf"], found[2]["leaf"]


TAMPERED: dict[str, tuple[Change, str]] = {
    "a payload": (lambda found: found[2].update(payload=found[3]["payload"]), "entry 1: its payload is not the one"),
    "a leaf": (lambda found: found[5].update(leaf=found[4]["leaf"]), "entry 4: its payload is not the one that was"),
    "the order": (swapped, "entry 1: its payload is not the one that was signed"),
    "an index": (lambda found: found[3].update(index=7), "has entry 7 where 2 belongs"),
    "one entry less": (lambda found: (found.pop(5), found[0].update(entries=4)), "the checkpoint is for 5 entries"),
    "a shorter file": (lambda found: found.pop(), "ends or is damaged in its reports"),
    "a longer file": (lambda found: found.append({}), "goes on after what it says it holds"),
    "another fleet's name": (lambda found: found[0].update(fleet="ab" * 32), "entry 0: "),
    "a report": (
        lambda found: found[6]["report"].update(signature=found[6]["report"]["payload"]),
        "the report of web-01 is not by its key: ",
    ),
    "another device's report": (lambda found: found[6].update(device=device_id("web-02")), "of web-02 is not by its"),
    "no device's report": (lambda found: found[6].update(device="ab" * 16), "is no device of this log"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_changed_export_is_found_out(exported: Path, served: Commands, tmp_path: Path, what: str) -> None:
    """Whatever is changed, the first thing that does not hold is named, and the exit code says untrusted."""
    change, why = TAMPERED[what]
    found = lines(exported)
    change(found)
    changed = tmp_path / "changed.jsonl"
    changed.write_text("".join(json.dumps(line) + "\n" for line in found))
    assert why in served("audit", "verify", str(changed), code=4).complaint


def test_what_is_no_export_is_said_so(served: Commands, tmp_path: Path) -> None:
    """Another file, an empty one, and one with an absurd claim are the user's mistake, not an attack."""
    for content in (b"", b"hello\n", b'{"format": "other"}\n', b"\xff\n", b"[" * 100_000):
        (tmp_path / "file").write_bytes(content)
        assert "is no export of an audit" in served("audit", "verify", str(tmp_path / "file"), code=2).complaint
    head = {"format": "nixfleet-audit-v1", "fleet": "", "entries": 10**15, "reports": 0, "checkpoint": ""}
    (tmp_path / "file").write_text(json.dumps(head))
    assert "claims" in served("audit", "verify", str(tmp_path / "file"), code=2).complaint


def test_the_log_is_held_against_an_earlier_checkpoint(exported: Path, served: Commands, tmp_path: Path) -> None:
    """A note or an export of before is extended by what is served and by a later export, never the other way round."""
    note, later = tmp_path / "note", tmp_path / "later.jsonl"
    note.write_bytes(served.on_wire(lambda client: client.checkpoint()))
    served("device", "tag", "web-02", "site=rome")
    served("audit", "export", "--out", str(later), "-q")
    for argv in ([], [str(later)]):
        for earlier in (note, exported):
            said = served("audit", "verify", *argv, "--against", str(earlier)).out
            assert f"it extends the 5 entries of {earlier}" in said
            assert 5 == served("audit", "verify", *argv, "--against", str(earlier), "--json").json["extends"]
    refused = served("audit", "verify", str(exported), "--against", str(later), code=4).complaint
    assert f"{later} is of 6 entries, and the log has 5: entries are kept back" in refused
    note.write_bytes(note.read_bytes().replace(b"\n5\n", b"\n4\n"))
    assert "signature" in served("audit", "verify", "--against", str(note), code=4).complaint


def test_a_folder_is_checked_by_openssh_alone(served: Commands, tmp_path: Path) -> None:
    """`--out DIR/` gives each entry as ssh-keygen takes it, and a script for all; a changed byte fails."""
    served.enroll("web-01")
    folder = tmp_path / "audit"
    done = served("audit", "export", "--out", f"{folder}/")
    assert f"'sh verify.sh' in {folder} checks every signature" in done.out
    served("audit", "verify", str(folder / "log.audit.jsonl"))
    told = subprocess.run(["sh", str(folder / "verify.sh")], check=True, capture_output=True, text=True).stdout
    assert 2 == told.count("Good ")
    entry = folder / "entries" / "000001.json"
    entry.write_bytes(entry.read_bytes().replace(b"web-01", b"web-99"))
    assert 0 != subprocess.run(["sh", str(folder / "verify.sh")], check=False, capture_output=True).returncode
    shutil.rmtree(folder)


def test_an_export_goes_to_standard_output_or_beside_the_caller(
    served: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """'-' writes the file's bytes alone; without --out its name says fleet and size; --json says where it is."""
    monkeypatch.chdir(tmp_path)
    piped = served("audit", "export", "--out", "-")
    assert {"file": "acme-1.audit.jsonl", "entries": 1, "reports": 0} == served("audit", "export", "--json").json
    assert piped.out == (tmp_path / "acme-1.audit.jsonl").read_text()


def test_a_device_that_saw_another_log_fails_the_check(served: Commands, tmp_path: Path) -> None:
    """`audit verify` counts who signed for this log, tells who lags behind, and ends as untrusted for another log."""

    def verified() -> str:
        return served("audit", "verify").out

    def now() -> LogState:
        found = served("audit", "verify", "--json").json
        return LogState(size=found["size"], root=found["root"])

    served.enroll("web-01", "web-02")
    served.report("web-01", "ab" * 32, Outcome.CONFIRMED, log=now())
    assert "1 device signed for this log; 1 told nothing yet" in verified()
    assert 1 == served("audit", "verify", "--json").json["witnesses"]
    served("device", "tag", "web-02", "site=rome")
    assert "1 device signed for this log, for its beginning alone (web-01: 3 of 4 entries);" in verified()
    served.report("web-02", "ab" * 32, Outcome.CONFIRMED, log=now())
    assert "2 devices signed for this log, 1 of them for its beginning alone (web-01: 3 of 4 entries)" in verified()
    found = served("audit", "verify", "--json").json
    assert (2, 1) == (found["witnesses"], found["behind"])
    served.report("web-02", "ab" * 32, Outcome.CONFIRMED, log=LogState(size=2, root="ab" * 32))
    assert "web-02 signed for another log at 2 entries" in served("audit", "verify", code=4).err
