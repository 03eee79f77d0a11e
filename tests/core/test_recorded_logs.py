"""Logs of every protocol so far, as they were written down: all later software reaches the same verdicts.

The files are made once (`tests.core.record_log`) and never again; a change here is a change of the protocol, and that
needs a new number.
"""

import base64
import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
from tests.core.record_log import FOLDER, choices, main, recorded, written

from nixfleet.errors import Untrusted
from nixfleet.model.ids import PROTOCOL, FleetId
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf, type_of
from nixfleet.trust.replay import State, replay
from nixfleet.trust.view import verify_all
from nixfleet.trust.words import verdict_words

FILES: Final = sorted(FOLDER.glob("protocol-*.jsonl"))
TYPES: Final = {"root", "grant", "revoke", "device", "release", "rollout", "control", "approve"}


def read(file: Path) -> tuple[dict[str, Any], list[tuple[bytes, bytes, str]]]:
    """Read a recorded log: its head; leaf, payload and verdict of each entry."""
    head, *entries = map(json.loads, file.read_text().splitlines())
    decode = base64.b64decode
    return head, [(decode(one["leaf"]), decode(one["payload"]), one["verdict"]) for one in entries]


def kind_of(leaf: bytes) -> str:
    """Give a leaf's type, or what stands for one that has none."""
    try:
        return type_of(sshsig.parse(Leaf.unpack(leaf).sshsig).namespace)
    except Untrusted:
        return "unreadable"


def test_there_is_a_log_of_every_protocol() -> None:
    """From the first to the one that this software follows."""
    assert [f"protocol-{number}.jsonl" for number in range(1, PROTOCOL + 1)] == [file.name for file in FILES]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recorded_log_replays_to_its_verdicts(file: Path) -> None:
    """Entry by entry the verdict of its day, and on the way what each device was to follow then."""
    head, entries = read(file)
    state = State(FleetId(head["fleet"]))
    told = {one["size"]: one for one in head["choices"]}
    for index, (leaf, payload, verdict) in enumerate(entries):
        assert (index, verdict) == (index, verdict_words(replay(state, index, leaf, payload))[0])
        if one := told.pop(index + 1, None):
            assert one["devices"] == choices(state, one["now"])
    assert {} == told


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recorded_log_verifies_whole(file: Path) -> None:
    """Its checkpoint covers exactly its entries."""
    head, entries = read(file)
    view = verify_all(head["fleet"], head["checkpoint"].encode(), [(leaf, payload) for leaf, payload, _ in entries])
    assert len(entries) == view.size


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recorded_log_has_something_of_everything(file: Path) -> None:
    """Each type valid and void, each that can wait waiting, and leaves that are no statement at all."""
    _, entries = read(file)
    seen = Counter((kind_of(leaf), verdict) for leaf, _, verdict in entries)
    valid = {(kind, "valid") for kind in TYPES - {"root"}}
    waiting = {(kind, "waiting") for kind in ("root", "grant", "revoke", "device", "control")}
    wanted = valid | waiting | {(kind, "void") for kind in (*TYPES, "unreadable")}
    assert set() == wanted - seen.keys()


def test_a_log_that_is_written_down_is_never_written_again() -> None:
    """The script leaves a file that is there alone, and says so."""
    before, said = FILES[-1].read_bytes(), list[str]()
    assert 1 == main(said.append)
    assert before == FILES[-1].read_bytes()
    assert ["never written again"] == [text[-19:] for text in said]


def test_the_script_still_makes_such_a_log() -> None:
    """What it makes today has the verdicts that are written down, so that the next protocol's can be made by it."""
    made = list(map(json.loads, written(recorded()).splitlines()))
    assert [verdict for _, _, verdict in read(FILES[-1])[1]] == [one["verdict"] for one in made[1:]]
