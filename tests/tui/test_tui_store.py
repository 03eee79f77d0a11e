"""The store: snapshots, deltas, gaps, counts, and what it says has changed."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tui.console_fleet import device, fleet_devices, fleet_releases, fleet_requests, fleet_rollouts

from nixfleet.model.device import Outcome, Phase
from nixfleet.model.views import Delta, DeviceView, FleetView, Snapshot
from nixfleet.query import status_of
from nixfleet.tui.store import MAX_LINES, Gap, Store


def snapshot(devices: list[DeviceView], seq: int = 0) -> Snapshot:
    """Make a snapshot of these devices and the usual rest."""
    return Snapshot(
        seq=seq,
        fleet=FleetView(id="f"),
        devices=tuple(devices),
        rollouts=tuple(fleet_rollouts()),
        releases=tuple(fleet_releases()),
        requests=tuple(fleet_requests()),
    )


def loaded() -> Store:
    """Make a store that has taken the made-up fleet."""
    store = Store()
    store.load(snapshot(fleet_devices()))
    store.take_changes()
    return store


def test_a_snapshot_replaces_everything() -> None:
    """After a snapshot the store holds its records, and says that everything changed."""
    store = loaded()
    one = device("web-x", "web", "oslo")
    store.load(snapshot([one], seq=9))
    assert ({one.id: one}, 9, True) == (dict(store.devices), store.seq, store.take_changes().everything)


def test_a_delta_changes_one_record() -> None:
    """A delta marks just the ids it changes, once."""
    store = loaded()
    one = device("web-x", "web", "oslo")
    store.apply(Delta(seq=1, device=one))
    changes = store.take_changes()
    assert (frozenset({one.id}), frozenset(), False) == (
        changes.of("device"),
        changes.of("rollout"),
        changes.everything,
    )
    assert not store.take_changes()


@pytest.mark.parametrize("kind", ["device", "rollout", "release", "request"])
def test_a_removal_takes_the_record_away(kind: str) -> None:
    """``kind:id`` takes away that record and no other."""
    store = loaded()
    records = {"device": store.devices, "rollout": store.rollouts, "release": store.releases, "request": store.requests}
    key = next(iter(records[kind]))
    before = len(records[kind])
    store.apply(Delta(seq=1, removed=f"{kind}:{key}"))
    assert (before - 1, False) == (len(records[kind]), key in records[kind])
    assert sum(store.counts.values()) == len(store.devices)


def test_unknown_removals_are_ignored() -> None:
    """A coordinator that knows more kinds than we do breaks nothing."""
    store = loaded()
    store.apply(Delta(seq=1, removed="grant:x"))
    store.apply(Delta(seq=2, removed="device:unheard-of"))
    assert (2, 40) == (store.seq, len(store.devices))


def test_a_repeated_delta_is_ignored_and_a_missing_one_is_a_gap() -> None:
    """Numbers go up by one: an old one changes nothing, a jump asks for a snapshot."""
    store = loaded()
    one = device("web-x", "web", "oslo")
    store.apply(Delta(seq=1))
    store.apply(Delta(seq=1, device=one))
    assert one.id not in store.devices
    with pytest.raises(Gap):
        store.apply(Delta(seq=3, device=one))
    assert (1, False) == (store.seq, one.id in store.devices)


def test_lines_are_kept_only_while_somebody_watches() -> None:
    """Output lines of a watched device are kept, the newest 2,000; others are dropped."""
    store = loaded()
    key, other = list(store.devices)[:2]
    store.watch_lines(key, ("old",))
    store.apply(Delta(seq=1, line_device=key, lines=("new",)))
    store.apply(Delta(seq=2, line_device=other, lines=("lost",)))
    assert (("old", "new"), ()) == (store.lines(key), store.lines(other))
    store.apply(Delta(seq=3, line_device=key, lines=tuple(str(number) for number in range(MAX_LINES))))
    assert (MAX_LINES, "0") == (len(store.lines(key)), store.lines(key)[0])
    store.unwatch_lines(key)
    assert () == store.lines(key)


def test_names_find_the_device_that_is_not_retired() -> None:
    """Of two devices of one name the active one is meant."""
    store = loaded()
    old = msgspec.structs.replace(device("nas-x", "nas", "oslo"), id="1" * 32, state="retired")
    new = msgspec.structs.replace(old, id="2" * 32, state="active")
    store.apply(Delta(seq=1, device=old))
    store.apply(Delta(seq=2, device=new))
    assert (new, None) == (store.device_named("nas-x"), store.device_named("unheard-of"))


CHANGES = st.tuples(
    st.integers(0, 5), st.sampled_from([None, *Outcome]), st.sampled_from(list(Phase)), st.booleans(), st.booleans()
)


@given(st.lists(CHANGES, max_size=30))
def test_counts_are_those_of_the_records(changes: list[tuple[int, Outcome | None, Phase, bool, bool]]) -> None:
    """Whatever comes and goes, counting along gives what counting afresh would."""
    store = Store()
    store.load(snapshot(fleet_devices()[:4]))
    for seq, (which, outcome, phase, online, gone) in enumerate(changes, start=1):
        name = f"x-{which}"
        if gone:
            store.apply(Delta(seq=seq, removed=f"device:{device(name, 'web', 'oslo').id}"))
        else:
            made = msgspec.structs.replace(device(name, "web", "oslo"), outcome=outcome, phase=phase, online=online)
            store.apply(Delta(seq=seq, device=made))
    expected = Counter(status_of(record) for record in store.devices.values())
    assert expected == store.counts
