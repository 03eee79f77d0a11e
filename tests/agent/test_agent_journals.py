"""Journals as agents of every version wrote them: each is read, and goes on to the one end that it was on its way to.

A folder of `journals` is what one version writes in each state; recorded once and never changed. Who changes what is
journalled records another folder, and keeps the old ones.
"""

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from tests.agent.steps import DONE, NEW, OLD, OLD_DIGEST, READY

from nixfleet.agent.journal import Journal
from nixfleet.agent.machine import BEFORE_SWITCH, ENDED, step
from nixfleet.agent.update import (
    Activate,
    Arm,
    Armed,
    Check,
    CheckDevice,
    Checked,
    Contact,
    Contacted,
    Disarm,
    Disarmed,
    Effect,
    Event,
    Fetch,
    GoBack,
    Keep,
    Look,
    Looked,
    Passed,
    Restarted,
    Stage,
    State,
    Tidy,
    Verify,
)
from nixfleet.model.device import Outcome, Phase

JOURNALS = Path(__file__).with_name("journals")
FILES = sorted(JOURNALS.rglob("*.json"))


def read(file: Path, folder: Path) -> State:
    """Read a recorded journal as an agent does."""
    shutil.copy(file, folder / "journal.json")
    return Journal(folder).state


def answer(effect: Effect) -> Event | None:
    """Answer as a device on which everything works."""
    answers: dict[type, Event | None] = {
        Look: Looked(current=OLD),
        CheckDevice: Passed(previous_digest=OLD_DIGEST),
        Fetch: Passed(),
        Verify: Passed(),
        Stage: READY,
        Arm: Armed(),
        Activate: DONE,
        Check: Checked(),
        Contact: Contacted(by="coordinator"),
        Disarm: Disarmed(),
        GoBack: DONE,
        Keep: None,
        Tidy: None,
    }
    return answers[type(effect)]


@pytest.mark.parametrize("version", ["before-guard", "with-guard"])
def test_each_version_wrote_each_state(version: str) -> None:
    """A recorded version has all of its states, so that none is left out of the rows below."""
    names = {file.stem.partition("+")[0] for file in (JOURNALS / version).glob("*.json")}
    assert {*Phase} - {Phase.IDLE} == {Phase(name) for name in names}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_recorded_journal_goes_on_to_its_end(tmp_path: Path, file: Path) -> None:
    """In the same boot and after another: one outcome, told once, whichever agent began it."""
    for boot in ("boot-1", "boot-2"):
        state = read(file, tmp_path)
        assert state.update is not None
        began = state.update.phase
        told = len(state.outbox)
        current = OLD if began in BEFORE_SWITCH or began is Phase.REVERTING else NEW
        state, effects = step(state, Restarted(boot_id=boot, current=current), 10)
        for _ in range(30):
            event = answer(effects[0]) if effects else None
            if event is None:
                break
            if state.update is not None and state.update.phase is Phase.REBOOT_PENDING:
                event = Restarted(boot_id="boot-3", current=NEW)
            state, effects = step(state, event, 20)
        assert state.update is not None
        assert state.update.phase in ENDED
        assert len(state.outbox) == told + (0 if began in ENDED else 1)
        forward = began not in {Phase.REVERTING, Phase.REVERTED, Phase.FAILED, Phase.REFUSED}
        assert (state.update.outcome is Outcome.CONFIRMED) == forward


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_what_is_read_is_written_without_a_loss(tmp_path: Path, file: Path) -> None:
    """An agent that is replaced at once hands on all that the one before it noted."""
    recorded = json.loads(file.read_bytes())["state"]
    now = json.loads(msgspec.json.encode(read(file, tmp_path)))
    assert recorded == now
