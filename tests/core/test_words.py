"""Entries in words: total for any bytes, and in the words that people know."""

from hypothesis import given
from hypothesis import strategies as st
from tests.factories import Fleet, device_id, fingerprint

from nixfleet.model.ids import FleetId
from nixfleet.model.views import EntryView
from nixfleet.trust.replay import State, Unknown, Valid, Verdict, Void, Waiting
from nixfleet.trust.words import entry_view, select_words, verdict_words

VERDICTS: list[Verdict] = [Valid(None), Waiting(None, "1 more"), Void("no"), Unknown(), Unknown(needed=True)]


@given(st.binary(max_size=1_100), st.none() | st.binary(max_size=100), st.sampled_from(VERDICTS))
def test_any_bytes_have_words(leaf: bytes, payload: bytes | None, verdict: Verdict) -> None:
    """Whatever stands in a log can be shown."""
    view = entry_view(3, leaf, payload, verdict, State(FleetId("a" * 64)))
    assert (3, True, True) == (view.index, bool(view.what), bool(view.verdict))


@given(st.data())
def test_any_changed_entry_has_words(data: st.DataObject) -> None:
    """An entry of a real log with changed bytes, or another's payload, can be shown too."""
    fleet = Fleet()
    fleet.device("web-01")
    fleet.release("a")
    leaf, payload = data.draw(st.sampled_from(fleet.entries))
    at = data.draw(st.integers(0, len(leaf) - 1))
    changed = leaf[:at] + bytes([leaf[at] ^ data.draw(st.integers(1, 255))]) + leaf[at + 1 :]
    other = data.draw(st.sampled_from([None, payload, fleet.entries[0][1]]))
    assert entry_view(0, changed, other, Void("x"), fleet.state).what


def last(fleet: Fleet) -> EntryView:
    """Describe the last entry."""
    leaf, payload = fleet.entries[-1]
    return entry_view(fleet.size - 1, leaf, payload, fleet.verdicts[-1], fleet.state)


def test_an_entry_carries_who_when_and_on_what() -> None:
    """Principal, key, log time, subject, digest and note come from the entry itself."""
    fleet = Fleet()
    digest = fleet.device("web-01", note="T-1")
    expected = EntryView(
        index=1,
        at=fleet.now,
        type="device",
        by=fingerprint("admin"),
        principal="admin",
        what="enrol web-01 (no tags)",
        subject=device_id("web-01"),
        verdict="valid",
        digest=digest,
        note="T-1",
    )
    assert expected == last(fleet)


def test_rollouts_name_their_release_and_approvals_their_act() -> None:
    """A rollout says what it brings to whom, a rollback what it takes back, an approval what it approves."""
    fleet = Fleet("lead", "security", threshold=2)
    fleet.approve(fleet.fleet, "security")  # type: ignore[arg-type]  # the fleet id is root 1's digest
    assert "approve: found the fleet: lead, security, 2 signatures" == last(fleet).what
    release, _ = fleet.release("a", by="lead")
    rollout = fleet.rollout(release, by="lead", select={"env": ("prod", "dev")})
    assert ("roll out a to env=prod,dev in 1 wave", release) == (last(fleet).what, last(fleet).subject)
    fleet.rollout(release, by="lead", select={})
    assert "roll out a to all devices in 1 wave" == last(fleet).what
    fleet.rollout(None, by="lead", kind="rollback", of=rollout)
    assert f"roll back {rollout[:12]} on all devices" == last(fleet).what
    fleet.control(rollout, "advance", by="lead", wave=1)
    assert f"open wave 1 of rollout {rollout[:12]}" == last(fleet).what
    fleet.control(rollout, "retry", by="lead", devices="failed")
    assert f"retry what failed in rollout {rollout[:12]}" == last(fleet).what


def test_what_is_not_held_is_said_by_its_leaf() -> None:
    """Without its payload an entry still tells type, subject and signer."""
    fleet = Fleet()
    fleet.device("web-01")
    view = entry_view(1, fleet.entries[1][0], None, Unknown(), fleet.state)
    assert ("device (content not held)", device_id("web-01"), "unknown", "") == (
        view.what,
        view.subject,
        view.verdict,
        view.digest,
    )


def test_verdicts_and_selectors_are_plain_words() -> None:
    """Each verdict is one word and a reason; a selector reads as its tags."""
    assert ["valid", "waiting", "void", "unknown", "unknown"] == [verdict_words(one)[0] for one in VERDICTS]
    assert ("all devices", "env=prod site=a,b") == (
        select_words({}),
        select_words({"site": ("a", "b"), "env": ("prod",)}),
    )


def test_times_beyond_the_calendar_do_not_break() -> None:
    """A hold until the end of numbers is shown in words."""
    fleet = Fleet()
    fleet.device("web-01")
    fleet.device("web-01", state="held", until=2**53 - 1)
    assert "hold web-01 until the far future" == last(fleet).what
