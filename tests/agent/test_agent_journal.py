"""The agent's memory: replaced whole or not at all, read tolerantly, and never guessed."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nixfleet import config
from nixfleet.agent.journal import SEQ_BLOCK, SEQ_MOST, Journal
from nixfleet.agent.update import Confirmed, Offer, State, Update
from nixfleet.errors import UserError
from nixfleet.model.device import Phase

OFFER = Offer(rollout="ab" * 32, epoch=0, index=5, run=1, path="/nix/store/x")
UPDATE = Update(phase=Phase.FETCHING, offer=OFFER, boot_id="b", give_up_s=9, previous="/nix/store/y")
STATE = State(
    update=UPDATE, attempted=(0, 5), left=("/nix/store/z",), confirmed=(Confirmed(rollout="r", path="p", previous="q"),)
)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    """A new process finds the state; the file is for root alone."""
    Journal(tmp_path).write(STATE)
    assert STATE == Journal(tmp_path).state
    assert (tmp_path / "journal.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("step", ["open", "write", "fsync", "rename", "folder"])
def test_a_write_torn_at_any_step_leaves_a_whole_state(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full or failing disk raises, memory and file stay at a whole state, and the next write works."""
    journal = Journal(tmp_path)
    journal.write(STATE)
    later = replace(STATE, attempted=(0, 6))
    calls = 0

    def fail(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        match step:
            case "open":
                patch.setattr(tempfile, "mkstemp", fail)
            case "write":
                patch.setattr(os, "fdopen", fail)
            case "fsync":
                patch.setattr(os, "fsync", fail)
            case "rename":
                patch.setattr(Path, "replace", fail)
            case _:
                patch.setattr(config, "sync_folder", fail)
        with pytest.raises(UserError, match="No space left"):
            journal.write(later)
    assert calls == 1
    assert STATE == journal.state
    assert Journal(tmp_path).state in {STATE, later} if step == "folder" else STATE == Journal(tmp_path).state
    journal.write(later)
    assert later == Journal(tmp_path).state


def test_a_leftover_of_a_crash_is_in_nobodys_way(tmp_path: Path) -> None:
    """A half-written new file is never read, and is gone at the next start."""
    Journal(tmp_path).write(STATE)
    (tmp_path / ".journal.json.x1y2").write_bytes(b'{"v":1,"sta')
    journal = Journal(tmp_path)
    assert STATE == journal.state
    assert os.listdir(tmp_path) == ["journal.json"]  # noqa: PTH208 - names alone


def test_fields_of_a_newer_agent_are_ignored(tmp_path: Path) -> None:
    """After going back to an older agent its journal still reads."""
    Journal(tmp_path).write(STATE)
    file = tmp_path / "journal.json"
    tree = json.loads(file.read_text())
    tree |= {"v": 9, "new": 1}
    tree["state"] |= {"new": [1]}
    tree["state"]["update"] |= {"new": {"a": 1}}
    tree["state"]["update"]["offer"] |= {"new": "x"}
    file.write_text(json.dumps(tree))
    assert STATE == Journal(tmp_path).state


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"state":{"attempted":["x",1]}}', b"\xff", b'{"\xff', b'{"seq_limit":"1"}']
)
def test_an_unreadable_journal_stops_the_agent(tmp_path: Path, data: bytes) -> None:
    """Going on without memory could repeat an update or forget the way back."""
    (tmp_path / "journal.json").write_bytes(data)
    with pytest.raises(UserError, match=r"journal\.json: unreadable"):
        Journal(tmp_path)


def test_an_unknown_phase_is_an_error_and_never_a_default(tmp_path: Path) -> None:
    """A newer agent's state that this one does not know is not guessed at."""
    Journal(tmp_path).write(STATE)
    file = tmp_path / "journal.json"
    file.write_text(file.read_text().replace('"fetching"', '"dancing"'))
    with pytest.raises(UserError, match="unreadable"):
        Journal(tmp_path)


def test_nothing_new_is_not_written_again(tmp_path: Path) -> None:
    """An unchanged state costs no write."""
    journal = Journal(tmp_path)
    journal.write(STATE)
    before = (tmp_path / "journal.json").stat()
    journal.write(replace(STATE))
    assert before.st_ino == (tmp_path / "journal.json").stat().st_ino


@settings(max_examples=40, deadline=None)  # every write waits for the disk
@given(st.lists(st.integers(0, 150), min_size=1, max_size=6))
def test_report_numbers_only_grow_over_any_restarts(runs: list[int]) -> None:
    """A crash may skip numbers, and never repeats one; most numbers cost no write."""
    with tempfile.TemporaryDirectory() as folder:
        given_out: list[int] = []
        for count in runs:
            journal = Journal(Path(folder))
            given_out += [journal.next_seq() for _ in range(count)]
        assert sorted(set(given_out)) == given_out
        assert max(given_out, default=0) <= sum(runs) + SEQ_BLOCK * len(runs)


def test_a_number_is_reserved_durably_before_it_is_given_out(tmp_path: Path) -> None:
    """The file always holds a limit above every number given."""
    journal = Journal(tmp_path)
    for _ in range(SEQ_BLOCK + 1):
        number = journal.next_seq()
        assert number < json.loads((tmp_path / "journal.json").read_text())["seq_limit"]
    assert os.listdir(tmp_path) == ["journal.json"]  # noqa: PTH208 - names alone


def test_numbers_go_on_above_what_the_coordinator_holds(tmp_path: Path) -> None:
    """After a snapshot was restored the next number is above all that were given, and stays so over a restart."""
    journal = Journal(tmp_path)
    first = journal.next_seq()
    assert journal.go_on_above(first + 5_000)
    assert first + 5_001 == journal.next_seq()
    assert first + 5_001 < Journal(tmp_path).next_seq()


@pytest.mark.parametrize("seq", [SEQ_MOST, 1 << 60, 0])
def test_a_number_that_is_no_devices_own_changes_nothing(tmp_path: Path, seq: int) -> None:
    """A coordinator that lies cannot use up the numbers, nor take them back."""
    journal = Journal(tmp_path)
    for _ in range(3):
        last = journal.next_seq()
    assert not journal.go_on_above(seq)
    assert last + 1 == journal.next_seq()
