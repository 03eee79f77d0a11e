"""The mirror: verified, all or nothing, durable, and cut back to what counts after a crash at any byte."""

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.factories import Fleet, device_id
from tests.fakelog import FakeLog
from tests.httpd import httpd

from nixfleet.client import logfile, mirror
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Unreachable, Untrusted, UserError
from nixfleet.model.ids import Digest
from nixfleet.model.statements import LogState
from nixfleet.model.wire import Entry, Sync
from nixfleet.trust.replay import missing


@pytest.fixture
def fleet() -> Fleet:
    """Make a fleet with two devices, a release and a rollout."""
    made = Fleet()
    made.device("web-01", tags={"env": "prod"})
    made.device("web-02")
    release, _ = made.release("a", {"web-01": "a", "web-02": "a"})
    made.rollout(release)
    return made


def entries(fleet: Fleet, start: int = 0, end: int | None = None) -> list[Entry]:
    """Give a fleet's entries as they come over the wire."""
    return [Entry(leaf=leaf, payload=payload) for leaf, payload in fleet.entries[start:end]]


@asynccontextmanager
async def serving(fleet: Fleet) -> AsyncIterator[tuple[FakeLog, Client]]:
    """Serve a fleet's log and give a client of it."""
    log = FakeLog(fleet)
    async with httpd(log) as server, Client([server.url], fleet=fleet.fleet, key=None, clock=lambda: fleet.now) as api:
        yield log, api


def opened(folder: Path, fleet: Fleet, *, pin: LogState | None = None, device: str | None = None) -> Mirror:
    """Open a mirror of a fleet."""
    return Mirror.open(folder / "mirror", fleet.fleet, pin=pin, device=device)


def full(folder: Path, fleet: Fleet) -> Mirror:
    """Open a mirror and give it everything."""
    made = opened(folder, fleet)
    made.extend(fleet.checkpoint, made.size, entries(fleet, made.size))
    return made


async def test_catching_up_takes_everything_in_several_answers(tmp_path: Path, fleet: Fleet) -> None:
    """A log longer than one answer is fetched to its end, verified, and the next call brings only what is new."""
    async with serving(fleet) as (log, api):
        log.per_answer = 2
        made = opened(tmp_path, fleet)
        assert fleet.size == await made.catch_up(api)
        fleet.device("web-03")
        assert (1, 0) == (await made.catch_up(api), await made.catch_up(api))
    assert (fleet.log, "ok", "") == (made.log_state, made.verified, made.why)
    assert fleet.state.devices.keys() == made.state.devices.keys()


async def test_a_long_log_is_replayed_beside_the_loop(
    tmp_path: Path, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large extension gives the same result as a small one."""
    monkeypatch.setattr(mirror, "_THREAD_FROM", 1)
    async with serving(fleet) as (_, api):
        made = opened(tmp_path, fleet)
        await made.catch_up(api)
    assert fleet.log == made.log_state


@pytest.mark.parametrize("per_answer", [2, 100])
async def test_who_gives_up_leaves_no_replay_behind(
    tmp_path: Path, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, per_answer: int
) -> None:
    """A cancelled call ends when its replay does, so that the next one never works on the same entries beside it."""
    monkeypatch.setattr(mirror, "_THREAD_FROM", 1)
    begun, go_on, judged = threading.Event(), threading.Event(), Mirror._judging
    at_once, most = 0, 0

    @contextmanager
    def slowly(one: Mirror) -> Iterator[None]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        begun.set()
        assert go_on.wait(30)
        with judged(one):
            yield
        at_once -= 1

    monkeypatch.setattr(Mirror, "_judging", slowly)
    async with serving(fleet) as (log, api):
        log.per_answer = per_answer
        made = opened(tmp_path, fleet)
        first = asyncio.ensure_future(made.catch_up(api))
        assert await asyncio.to_thread(begun.wait, 30)
        first.cancel()
        second = asyncio.ensure_future(made.catch_up(api))
        # The event loop has turned often enough for the second call to begin, were it not for the first.
        await asyncio.wait((second,), timeout=0.2)
        go_on.set()
        assert await second in {0, fleet.size}
        with suppress(asyncio.CancelledError):
            await first
    assert (1, fleet.log, "ok") == (most, made.log_state, made.verified)


def test_an_opened_mirror_is_the_one_that_was_closed(tmp_path: Path, fleet: Fleet) -> None:
    """After reopening, log state, checkpoint, entries, payloads and verdicts are the same."""
    before, after = full(tmp_path, fleet), opened(tmp_path, fleet)
    assert (before.log_state, before.checkpoint) == (after.log_state, after.checkpoint)
    assert fleet.entries == [(after.leaf(index), after.payload(index)) for index in range(after.size)]
    assert fleet.verdicts == [after.verdict(index) for index in range(after.size)]


async def test_a_mirror_opened_for_later_is_the_same_once_loaded(tmp_path: Path, fleet: Fleet) -> None:
    """Until its load it holds nothing, and then what was written; catching up loads it too."""
    full(tmp_path, fleet)
    made = Mirror.open_later(tmp_path / "mirror", fleet.fleet)
    assert (0, []) == (made.size, made.entries(0, 10))
    await made.load()
    await made.load()
    assert (fleet.log, opened(tmp_path, fleet).entries(0, 10)) == (made.log_state, made.entries(0, 10))
    fleet.device("web-03")
    async with serving(fleet) as (_, api):
        again = Mirror.open_later(tmp_path / "mirror", fleet.fleet)
        assert (1, fleet.log) == (await again.catch_up(api), again.log_state)


async def test_a_spoiled_mirror_opened_for_later_says_so_at_its_load(tmp_path: Path, fleet: Fleet) -> None:
    """What is on disk is verified as ever, each time that it is asked for."""
    full(tmp_path, fleet)
    leaves = tmp_path / "mirror" / "leaves"
    leaves.write_bytes(leaves.read_bytes()[:-1] + b"?")
    made = Mirror.open_later(tmp_path / "mirror", fleet.fleet)
    for _ in range(2):
        with pytest.raises(Untrusted, match="does not verify"):
            await made.load()
    assert 0 == made.size


def test_an_empty_mirror_holds_nothing(tmp_path: Path, fleet: Fleet) -> None:
    """A mirror without entries opens, again and again, with an empty log."""
    assert (0, b"", 0) == (
        opened(tmp_path, fleet).size,
        opened(tmp_path, fleet).checkpoint,
        opened(tmp_path, fleet).size,
    )


def test_the_folder_of_another_fleet_is_refused(tmp_path: Path, fleet: Fleet) -> None:
    """A folder belongs to one fleet id."""
    full(tmp_path, fleet)
    with pytest.raises(UserError, match="another fleet"):
        opened(tmp_path, Fleet("other"))


def test_an_extension_is_taken_whole_or_not_at_all(tmp_path: Path, fleet: Fleet) -> None:
    """When one entry is changed, dropped or swapped, nothing is kept, in memory or on disk."""
    made = full(tmp_path, fleet)
    before = made.log_state
    fleet.device("web-03")
    fleet.device("web-04")
    good = entries(fleet, made.size)
    bad = [good[:1], list(reversed(good)), [good[0], Entry(leaf=good[1].leaf, payload=b"{}")], []]
    for some in bad:
        with pytest.raises(Untrusted):
            made.extend(fleet.checkpoint, before.size, some)
        assert "untrusted" == made.verified
    assert (before, before) == (made.log_state, opened(tmp_path, fleet).log_state)
    made.extend(fleet.checkpoint, before.size, good)
    assert (fleet.log, "ok") == (made.log_state, made.verified)


async def test_an_old_backup_is_called_behind(tmp_path: Path, fleet: Fleet) -> None:
    """A shorter log that is a true beginning is `behind`; nothing is lost."""
    made = full(tmp_path, fleet)
    old = fleet.checkpoint_at(3)
    async with serving(fleet) as (_, api):
        with pytest.raises(Untrusted):
            made.extend(old, made.size, [])
        assert ("behind", fleet.log) == (made.verified, made.log_state)
        assert 0 == await made.catch_up(api)
    assert "ok" == made.verified


def forked(fleet: Fleet) -> Fleet:
    """Make a log with the same first entry and another second one."""
    other = Fleet()
    assert other.fleet == fleet.fleet
    other.device("stranger")
    for _ in range(10):
        other.device("stranger", tags={"n": str(other.size)})
    return other


async def test_a_rewritten_log_is_called_a_fork(tmp_path: Path, fleet: Fleet) -> None:
    """A log with other content at a known size is a fork, told as such, and changes nothing."""
    made = full(tmp_path, fleet)
    other = forked(fleet)
    with pytest.raises(Untrusted):
        made.extend(other.checkpoint_at(made.size), made.size, [])
    assert "fork" == made.verified
    async with serving(other) as (_, api):
        with pytest.raises(Untrusted):
            await made.catch_up(api)
    assert (fleet.log, True) == (made.log_state, made.why != "")


def test_a_pinned_state_must_be_on_the_way(tmp_path: Path, fleet: Fleet) -> None:
    """A log that does not lead through the pinned state is refused from the first byte on."""
    pin = LogState(size=3, root=fleet.tree.root(3).hex())
    full(tmp_path, fleet)
    assert fleet.log == opened(tmp_path, fleet, pin=pin).log_state
    other = forked(fleet)
    fresh = opened(tmp_path / "fresh", fleet, pin=pin)
    with pytest.raises(Untrusted):
        fresh.extend(other.checkpoint, 0, entries(other))
    assert 0 == fresh.size


@pytest.mark.parametrize("note", [b"", b"x\ny\nz", b"x\n99999999999999999\nz", b"x\n1000001\nz"])
async def test_a_checkpoint_that_is_none_is_untrusted(tmp_path: Path, fleet: Fleet, note: bytes) -> None:
    """Whatever claims no usable size is refused before anything is fetched."""
    with pytest.raises(Untrusted, match=r"checkpoint is malformed|more than"):
        mirror.claimed_size(note)


async def test_a_coordinator_that_holds_back_entries_is_unreachable(tmp_path: Path, fleet: Fleet) -> None:
    """A checkpoint over more entries than are served ends in an error, not in a loop."""
    async with serving(fleet) as (log, api):
        log.per_answer = 0
        with pytest.raises(Unreachable, match="fewer entries"):
            await opened(tmp_path, fleet).catch_up(api)


# Sync answers


def sync(fleet: Fleet, start: int, end: int, *, more: bool) -> Sync:
    """Make a sync answer with the entries from `start` to `end`."""
    return Sync(checkpoint=fleet.checkpoint, start=start, entries=tuple(entries(fleet, start, end)), more=more)


def test_sync_answers_are_put_together(tmp_path: Path, fleet: Fleet) -> None:
    """Answers with `more` wait for the rest; the last one completes them; an overlap does no harm."""
    made = opened(tmp_path, fleet)
    assert (None, 2) == (made.take(sync(fleet, 0, 2, more=True)), made.next_index)
    assert (None, 4) == (made.take(sync(fleet, 1, 4, more=True)), made.next_index)
    assert 0 == made.size
    assert None is not made.take(sync(fleet, 4, 5, more=False))
    assert (fleet.log, fleet.size) == (made.log_state, made.next_index)
    assert None is not made.take(sync(fleet, 3, 5, more=False))


def test_a_sync_answer_with_a_gap_is_refused(tmp_path: Path, fleet: Fleet) -> None:
    """Entries that do not join what is held are refused, and what waited is dropped."""
    made = opened(tmp_path, fleet)
    made.take(sync(fleet, 0, 1, more=True))
    for more in (True, False):
        with pytest.raises(Untrusted, match="do not join"):
            made.take(sync(fleet, 3, 5, more=more))
    assert (0, 0) == (made.size, made.next_index)


def test_more_to_come_without_an_entry_is_untrusted(tmp_path: Path, fleet: Fleet) -> None:
    """An answer that promises the rest and brings nothing is refused, or the agent would ask for ever."""
    made = opened(tmp_path, fleet)
    made.take(sync(fleet, 0, 2, more=True))
    with pytest.raises(Untrusted, match="sends none"):
        made.take(sync(fleet, 2, 2, more=True))
    assert (0, 0) == (made.size, made.next_index)
    made.extend(fleet.checkpoint, 0, entries(fleet))


@pytest.mark.parametrize("device", [None, "web-01"])
async def test_what_is_not_proven_is_bounded_in_bytes(
    tmp_path: Path, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, device: str | None
) -> None:
    """A coordinator does not fill the memory with entries that no checkpoint has proven; a good one is followed on."""
    with monkeypatch.context() as patch:
        patch.setattr(mirror, "STAGED_BYTES" if device is None else "STAGED_BYTES_OF_DEVICE", 2_000)
        made = opened(tmp_path, fleet, device=device and device_id(device))
    for end in (1, 2, 2, 2, 2):  # a repeat counts once
        made.take(sync(fleet, end - 1, end, more=True))
    with pytest.raises(Untrusted, match="no checkpoint has proven"):
        made.take(sync(fleet, 2, fleet.size, more=True))
    assert (0, 0) == (made.size, made.next_index)
    async with serving(fleet) as (log, api):
        log.per_answer = 1
        with pytest.raises(Untrusted, match="no checkpoint has proven"):
            await made.catch_up(api)
    assert (0, 0) == (made.size, made.next_index)
    assert None is not made.take(sync(fleet, 0, fleet.size, more=False))


async def test_payloads_that_came_late_are_filled_in_and_kept(tmp_path: Path, fleet: Fleet) -> None:
    """A device fetches the release and the controls that it turns out to need; a reopened mirror has them too."""
    rollout = next(iter(fleet.state.rollouts))
    fleet.control(rollout, "pause")
    device = device_id("web-01")
    async with serving(fleet) as (log, api):
        log.wanted = lambda index: index not in {3, 5}
        made = opened(tmp_path, fleet, device=device)
        await made.catch_up(api)
        assert (True, None) == (bool(missing(made.state, device)), made.payload(3))
        log.wanted = lambda _: True
        assert (2, 0) == (await made.fill(api), await made.fill(api))
    again = opened(tmp_path, fleet, device=device)
    for one in (made, again):
        assert (False, True) == (bool(missing(one.state, device)), one.state.rollouts[rollout].paused)
        assert fleet.entries[3][1] == one.payload(3)


async def test_a_release_of_no_log_keeps_nothing_else_from_being_filled_in(tmp_path: Path, fleet: Fleet) -> None:
    """Anybody who may deploy something can name one; it stays missing, and the rest comes."""
    fleet.rollout(Digest("0" * 64))
    device = device_id("web-01")
    async with serving(fleet) as (log, api):
        log.wanted = lambda index: index != 3
        made = opened(tmp_path, fleet, device=device)
        await made.catch_up(api)
        log.wanted = lambda _: True
        assert (1, 0) == (await made.fill(api), await made.fill(api))
    assert missing(made.state, device).releases == ("0" * 64,)


# Crashes and company


def files_of(folder: Path) -> dict[str, bytes]:
    """Read a mirror's three files."""
    return {name: (folder / "mirror" / name).read_bytes() for name in ("leaves", "payloads", "meta.json")}


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(junk=st.binary(max_size=50), payload_junk=st.binary(max_size=50))
def test_a_torn_tail_is_cut(tmp_path: Path, fleet: Fleet, junk: bytes, payload_junk: bytes) -> None:
    """Whatever a crash left beyond the meta file's word is gone at the next opening, and appending goes on."""
    made = full(tmp_path, fleet)
    whole = files_of(tmp_path)
    for name, tail in (("leaves", junk), ("payloads", payload_junk)):
        (tmp_path / "mirror" / name).write_bytes(whole[name] + tail)
    assert made.log_state == opened(tmp_path, fleet).log_state
    assert whole == files_of(tmp_path)


@pytest.mark.parametrize("step", range(6))
def test_a_crash_at_any_step_loses_nothing_that_counted(
    tmp_path: Path, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Whichever sync to the disk a crash hits, the mirror reopens at the old or the new state and goes on."""
    before = full(tmp_path, fleet).log_state
    fleet.device("web-03")
    made = opened(tmp_path, fleet)
    left = [step]
    real = os.fsync

    def crash(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with suppress(KeyboardInterrupt):
            made.extend(fleet.checkpoint, made.size, entries(fleet, made.size))
    again = opened(tmp_path, fleet)
    assert again.log_state in {before, fleet.log}
    again.extend(fleet.checkpoint, again.size, entries(fleet, again.size))
    assert fleet.log == opened(tmp_path, fleet).log_state


def test_a_full_disk_is_told_and_made_up_for(tmp_path: Path, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fails the person is told; the next extension writes what is missing as well."""
    made = full(tmp_path, fleet)
    fleet.device("web-03")

    def no_space(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(logfile, "_appending", no_space)
        with pytest.raises(UserError, match="No space left"):
            made.extend(fleet.checkpoint, made.size, entries(fleet, made.size))
    fleet.device("web-04")
    made.extend(fleet.checkpoint, made.size, entries(fleet, made.size))
    assert fleet.log == opened(tmp_path, fleet).log_state


def flipped(data: bytes) -> Iterator[bytes]:
    """Change one byte at a time, in some places."""
    for at in range(0, len(data), max(1, len(data) // 40)):
        yield data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("name", ["leaves", "payloads"])
def test_a_changed_byte_on_disk_is_noticed(tmp_path: Path, fleet: Fleet, name: str) -> None:
    """No byte of the files that count can change without the opening refusing it."""
    full(tmp_path, fleet)
    path = tmp_path / "mirror" / name
    for changed in flipped(path.read_bytes()):
        path.write_bytes(changed)
        with pytest.raises(Untrusted, match="move the folder away"):
            opened(tmp_path, fleet)


@pytest.mark.parametrize("name", ["leaves", "payloads"])
@pytest.mark.parametrize("kept", [0, 1, 100])
def test_a_shortened_or_missing_file_is_noticed(tmp_path: Path, fleet: Fleet, name: str, kept: int) -> None:
    """A file that ends before what counts, or is gone, is damage and no empty log."""
    full(tmp_path, fleet)
    path = tmp_path / "mirror" / name
    data = path.read_bytes()
    path.write_bytes(data[:kept]) if kept else path.unlink()
    with pytest.raises(Untrusted, match="move the folder away"):
        opened(tmp_path, fleet)


def test_two_programs_share_a_folder(tmp_path: Path, fleet: Fleet) -> None:
    """Console and CLI append in turn: each takes over what the other wrote, and nothing is written twice."""
    one, other = opened(tmp_path, fleet), opened(tmp_path, fleet)
    one.extend(fleet.checkpoint, 0, entries(fleet))
    other.extend(fleet.checkpoint_at(3), 0, entries(fleet, 0, 3))
    other.extend(fleet.checkpoint, 3, entries(fleet, 3))
    fleet.device("web-03")
    other.extend(fleet.checkpoint, other.size, entries(fleet, other.size))
    one.extend(fleet.checkpoint, one.size, entries(fleet, one.size))
    assert [fleet.log] * 3 == [made.log_state for made in (one, other, opened(tmp_path, fleet))]
    assert fleet.entries == [(one.leaf(index), one.payload(index)) for index in range(one.size)]


def test_a_folder_that_cannot_be_used_is_a_sentence(tmp_path: Path, fleet: Fleet) -> None:
    """A file where the folder should be is the user's error."""
    (tmp_path / "mirror").write_text("in the way")
    with pytest.raises(UserError, match="cannot be used"):
        opened(tmp_path, fleet)


# In words


def test_entries_read_as_who_did_what(tmp_path: Path, fleet: Fleet) -> None:
    """Each kind of act is a sentence with its principal, its verdict, and the reason when it is void."""
    fleet.device("web-01", state="held", until=fleet.now + 3_600)
    fleet.device("web-02", state="retired")
    rollout = next(iter(fleet.state.rollouts))
    fleet.control(rollout, "pause")
    fleet.control(rollout, "retry", devices=(device_id("web-01"),))
    grant = fleet.grant("ci", "release", select={"env": ["prod"]})
    fleet.revoke(grant=grant)
    fleet.control(rollout, "resume", seq=9)
    made = full(tmp_path, fleet)
    said = [(view.principal, view.what, view.verdict) for view in made.entries(0, 100)]
    short = rollout[:12]
    assert [
        ("admin", "found the fleet: admin", "valid"),
        ("admin", "enrol web-01 (env=prod)", "valid"),
        ("admin", "enrol web-02 (no tags)", "valid"),
        ("admin", "publish release a for 2 devices", "valid"),
        ("admin", "roll out a to its 2 devices in 1 wave", "valid"),
        ("admin", "hold web-01 until 2027-01-15 09:00 UTC", "valid"),
        ("admin", "retire web-02", "valid"),
        ("admin", f"pause rollout {short}", "valid"),
        ("admin", f"retry web-01 in rollout {short}", "valid"),
        ("admin", "allow ci to release on env=prod, until 2028-01-15 08:00 UTC", "valid"),
        ("admin", f"revoke grant {grant[:12]} (ci)", "valid"),
        ("admin", f"resume rollout {short}", "void"),
    ] == said
    assert made.entry(11).why


def test_a_foreign_leaf_is_described_too(tmp_path: Path, fleet: Fleet) -> None:
    """A stranger's entry, and one that is no entry at all, have words and a void verdict."""
    fleet.device("web-09", by="stranger")
    fleet.append_leaf(bytes(8) + hashlib.sha512(b"junk").digest() + b"no signature", b"junk")
    made = full(tmp_path, fleet)
    stranger, junk = made.entries(fleet.size - 2, 2)
    assert ("void", "device", "enrol web-09 (no tags)") == (stranger.verdict, stranger.type, stranger.what)
    assert ("void", "unreadable") == (junk.verdict, junk.type)
