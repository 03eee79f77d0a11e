"""The verified view: pinned, all or nothing, and it says which rule a bad log broke."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import Fleet, device_id, key

from nixfleet.errors import Untrusted
from nixfleet.model.ids import DeviceId
from nixfleet.model.statements import LogKey, LogState
from nixfleet.trust.merkle import Tree
from nixfleet.trust.note import Checkpoint, origin, sign_checkpoint
from nixfleet.trust.replay import Valid
from nixfleet.trust.view import BadEntry, Behind, Fork, LogView, verify_all


def grown() -> Fleet:
    """Make a fleet with a few acts."""
    fleet = Fleet()
    fleet.grant("ops", "deploy")
    fleet.device("web-01")
    fleet.rollout(fleet.release("a")[0])
    return fleet


def followed(fleet: Fleet) -> LogView:
    """View all of a fleet's log."""
    view = LogView(fleet.fleet)
    view.extend(fleet.checkpoint, 0, fleet.entries)
    return view


def test_a_log_is_followed_from_nothing_and_on() -> None:
    """First all of it, then what is new; the view's state is what a statement's base says."""
    fleet = grown()
    view = followed(fleet)
    assert fleet.log == view.log
    fleet.device("web-02")
    fleet.device("web-03")
    extended = view.extend(fleet.checkpoint, 5, fleet.entries[5:])
    assert (5, 2, fleet.log) == (extended.start, len(extended.verdicts), view.log)
    assert fleet.state.devices == view.state.devices
    assert key("log").public == view.log_key


def test_what_is_known_may_come_again() -> None:
    """A stream and a poll may overlap; the same checkpoint twice is fine."""
    fleet = grown()
    view = followed(fleet)
    assert () == view.extend(fleet.checkpoint, 5, []).verdicts
    fleet.device("web-02")
    assert 1 == len(view.extend(fleet.checkpoint, 2, fleet.entries[2:]).verdicts)


def test_entries_must_join_and_reach_the_checkpoint() -> None:
    """A gap, too few or too many entries change nothing."""
    fleet = grown()
    view = followed(fleet)
    fleet.device("web-02")
    fleet.device("web-03")
    for start, entries in (
        (6, fleet.entries[6:]),
        (5, fleet.entries[5:6]),
        (5, [*fleet.entries[5:], (bytes(80), None)]),
    ):
        with pytest.raises(Untrusted):
            view.extend(fleet.checkpoint, start, entries)
    assert 5 == view.size
    view.extend(fleet.checkpoint, 5, fleet.entries[5:])


def test_another_fleets_log_is_refused() -> None:
    """The fleet id is the digest of root 1, and nothing else is trusted on first use."""
    fleet, other = grown(), Fleet("stranger")
    with pytest.raises(BadEntry, match="entry 0: it is not the root that the fleet id names"):
        LogView(fleet.fleet).extend(other.checkpoint, 0, other.entries)
    with pytest.raises(BadEntry, match="entry 0"):
        LogView(fleet.fleet).extend(fleet.checkpoint, 0, [])


def test_a_checkpoint_is_signed_by_the_log_key() -> None:
    """Neither another key's checkpoint nor another log's moves the view."""
    fleet = grown()
    view = followed(fleet)
    fleet.device("web-02")
    for name, key_name in ((fleet.fleet, "stranger"), ("0" * 64, "log")):
        note = sign_checkpoint(Checkpoint(origin(name, 0), fleet.size, fleet.tree.root()), key(key_name))
        with pytest.raises(Untrusted):
            view.extend(note, 5, fleet.entries[5:])
    assert 5 == view.size


def test_a_rewritten_log_is_a_fork() -> None:
    """Another root at a size that is known is told as what it is."""
    fleet = grown()
    view = followed(fleet)
    other = Tree()
    for leaf, _ in fleet.entries[:4]:
        other.append(leaf)
    other.append(bytes(80))
    for size in (4, 5):
        forged = sign_checkpoint(Checkpoint(origin(fleet.fleet, 0), size, b"x" * 32), key("log"))
        with pytest.raises(Fork, match=f"another root at {size}"):
            view.extend(forged, 5, [])
    forged = sign_checkpoint(Checkpoint(origin(fleet.fleet, 0), 5, other.root()), key("log"))
    with pytest.raises(Fork):
        view.extend(forged, 5, [])


def test_an_old_backup_is_behind() -> None:
    """A true beginning of what is known is no fork, but nothing to go by either."""
    fleet = grown()
    view = followed(fleet)
    with pytest.raises(Behind, match="3 entries of the 5 known"):
        view.extend(fleet.checkpoint_at(3), 5, [])
    assert 5 == view.size


def test_a_pin_must_be_part_of_the_log() -> None:
    """What a token pinned is extended, or the log is a fork or an old backup."""
    fleet = grown()
    pin = LogState(size=3, root=fleet.tree.root(3).hex())
    view = LogView(fleet.fleet, pin)
    with pytest.raises(Behind, match="pinned"):
        view.extend(fleet.checkpoint_at(2), 0, fleet.entries[:2])
    assert 0 == view.size
    view.extend(fleet.checkpoint, 0, fleet.entries)
    with pytest.raises(Fork, match="pinned"):
        LogView(fleet.fleet, LogState(size=3, root="0" * 64)).extend(fleet.checkpoint, 0, fleet.entries)


def test_a_payload_that_all_need_must_come() -> None:
    """Without it nothing is taken over, and the entry is named; with it, all is."""
    fleet = grown()
    view = LogView(fleet.fleet)
    holes = [(leaf, None if index == 4 else payload) for index, (leaf, payload) in enumerate(fleet.entries)]
    with pytest.raises(BadEntry, match="entry 4: its payload is needed and missing"):
        view.extend(fleet.checkpoint, 0, holes)
    assert 0 == view.size
    view.extend(fleet.checkpoint, 0, fleet.entries)


def test_a_device_hears_of_each_of_its_own_statements() -> None:
    """A hold that is withheld from its device changes nothing there; another device need not hear of it."""
    fleet = grown()
    mine, other = (LogView(fleet.fleet, own=device_id(name)) for name in ("web-01", "web-02"))
    for view in (mine, other):
        view.extend(fleet.checkpoint, 0, fleet.entries)
    fleet.device("web-01", version=2, state="held", until=fleet.now + 3_600)
    leaf, payload = fleet.entries[-1]
    with pytest.raises(BadEntry, match="needed and missing"):
        mine.extend(fleet.checkpoint, 5, [(leaf, None)])
    assert 5 == mine.size
    assert 1 == len(other.extend(fleet.checkpoint, 5, [(leaf, None)]).verdicts)
    mine.extend(fleet.checkpoint, 5, [(leaf, payload)])
    assert "held" == mine.state.devices[DeviceId(device_id("web-01"))].statement.state


def test_a_new_log_key_signs_from_its_root_on() -> None:
    """The key in force at the checkpoint's end signs it; the old one no longer does, but for older ends."""
    fleet = grown()
    view = followed(fleet)
    fleet.root(log=LogKey(key=key("log-2").public.text, epoch=0))
    with pytest.raises(Untrusted):
        view.extend(fleet.checkpoint, 5, fleet.entries[5:])
    assert 5 == view.size
    old = fleet.checkpoint_at(5)
    fleet.log_key = key("log-2")
    view.extend(fleet.checkpoint, 5, fleet.entries[5:])
    assert key("log-2").public == view.log_key
    with pytest.raises(Behind):
        view.extend(old, 6, [])
    with pytest.raises(Untrusted):
        view.extend(fleet.checkpoint_at(5), 6, [])


def test_a_malformed_leaf_is_void_and_kept() -> None:
    """Whatever the coordinator appended is part of the log, and has a verdict."""
    fleet = grown()
    fleet.append_leaf(b"short", b"")
    view = LogView(fleet.fleet)
    entries = [*fleet.entries[:-1], (b"short", None)]
    verdicts = view.extend(fleet.checkpoint, 0, entries).verdicts
    assert not isinstance(verdicts[-1], Valid)
    fleet.append_leaf(bytes(1_025), b"")
    with pytest.raises(BadEntry, match="entry 6: its leaf is larger than 1024"):
        view.extend(fleet.checkpoint, 6, [(bytes(1_025), None)])


@given(st.data())
@settings(deadline=None)
def test_any_changed_byte_of_a_log_is_found(data: st.DataObject) -> None:
    """Whoever changes a leaf, a payload or the checkpoint is found out, and the view stays as it was."""
    fleet = grown()
    entries = list(fleet.entries)
    note = fleet.checkpoint
    index = data.draw(st.integers(0, len(entries)))
    in_leaf = data.draw(st.booleans())
    text = note if index == len(entries) else entries[index][0 if in_leaf else 1]
    place = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != text[place]))
    changed = text[:place] + bytes([byte]) + text[place + 1 :]
    if index == len(entries):
        note = changed
    else:
        leaf, payload = entries[index]
        entries[index] = (changed, payload) if in_leaf else (leaf, changed)
    view = LogView(fleet.fleet)
    with pytest.raises(Untrusted):
        view.extend(note, 0, entries)
    assert 0 == view.size


def test_an_audit_names_the_first_bad_entry() -> None:
    """A changed payload, signature or order is found at its entry."""
    fleet = grown()
    assert 5 == verify_all(fleet.fleet, fleet.checkpoint, fleet.entries).size
    entries = list(fleet.entries)
    entries[3] = (entries[3][0], entries[3][1] + b" ")
    with pytest.raises(BadEntry, match="entry 3: its payload is not the one") as caught:
        verify_all(fleet.fleet, fleet.checkpoint, entries)
    assert 3 == caught.value.index
    entries = list(fleet.entries)
    leaf = entries[2][0]
    entries[2] = (leaf[:-1] + bytes([leaf[-1] ^ 1]), entries[2][1])
    with pytest.raises(BadEntry, match="entry 2") as caught:
        verify_all(fleet.fleet, fleet.checkpoint, entries)
    assert 2 == caught.value.index
    entries = [*fleet.entries[:2], *fleet.entries[3:]]
    with pytest.raises(BadEntry) as caught:
        verify_all(fleet.fleet, fleet.checkpoint, entries)
    assert 2 == caught.value.index


def test_an_audit_of_a_cut_log_says_so() -> None:
    """Entries that are all good but too few are told by the checkpoint."""
    fleet = grown()
    with pytest.raises(Untrusted, match="is for 5 entries, but 4 are given"):
        verify_all(fleet.fleet, fleet.checkpoint, fleet.entries[:4])


def test_a_log_of_protocol_1_keeps_its_verdicts() -> None:
    """A stored log of every earlier version is judged by new software as it always was."""
    stored = json.loads((Path(__file__).parent / "vectors" / "log-1.json").read_text())
    entries = [(base64.b64decode(entry["leaf"]), entry["payload"].encode()) for entry in stored["entries"]]
    extended = LogView(stored["fleet"]).extend(stored["checkpoint"].encode(), 0, entries)
    assert [entry["verdict"] for entry in stored["entries"]] == [
        type(verdict).__name__.lower() for verdict in extended.verdicts
    ]
