"""The store: what is durable, what is compare-and-set, on SQLite and PostgreSQL alike."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from nixfleet.errors import Conflict, Unreachable, UserError
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.logkeys import LogKeys
from nixfleet.server.faults import Busy
from nixfleet.server.store import (
    AttemptRow,
    ClockRow,
    DeviceRow,
    EnrollRow,
    EntryRow,
    Forget,
    LineRow,
    RefusalRow,
    RolloutRow,
    SessionRow,
    Store,
    Told,
)
from nixfleet.server.tables import metadata
from nixfleet.trust.sshsig import SecretKey


def _entry(index: int, mark: str = "a") -> EntryRow:
    return EntryRow(index, b"leaf", mark * 64, mark.encode(), "device", "d", b"{}")


def _device(device: str, seq: int, at: int = 10) -> DeviceRow:
    return DeviceRow(device, seq, str(seq).encode(), b"s", b"{}", at, at, at)


async def test_append_keeps_order_and_lines(store: Store) -> None:
    """Entries and release lines come back as they were written."""
    await store.log.append([_entry(0), _entry(1, "b")], [LineRow("r", 1, "y", "two"), LineRow("r", 0, "x", "one")])
    assert await store.log.size() == 2
    assert await store.log.entries(0, 10) == [_entry(0), _entry(1, "b")]
    assert await store.log.entries(1, 10) == [_entry(1, "b")]
    assert await store.log.lines("r") == ["one", "two"]
    assert await store.log.payload("b" * 64) == ("device", "d", b"b")
    assert await store.log.payload("c" * 64) is None
    assert await store.log.said(0, 1) == [b"{}"]


async def test_taken_index_is_a_conflict_and_writes_nothing(store: Store) -> None:
    """The second writer of an index fails whole: its other entries and lines are not there."""
    await store.log.append([_entry(0)])
    with pytest.raises(Conflict):
        await store.log.append([_entry(1), _entry(0, "b")], [LineRow("r", 0, "x", "one")])
    assert await store.log.size() == 1
    assert await store.log.lines("r") == []


async def test_racing_appends_have_one_winner(store: Store) -> None:
    """Of many writers of the same index exactly one wins."""
    results = await asyncio.gather(*(store.log.append([_entry(0)]) for _ in range(8)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Conflict"] * 7 + ["NoneType"]


async def test_reports_keep_the_highest_seq(store: Store) -> None:
    """A lower seq never replaces a higher one, neither in one group nor in a later one."""
    await store.status.save([Told(_device("a", 5)), Told(_device("a", 4)), Told(_device("b", 1))])
    await store.status.save([Told(_device("a", 3)), Told(_device("b", 2))])
    rows = await store.status.devices()
    assert {row.device: row.seq for row in rows} == {"a": 5, "b": 2}
    newest = max(row.changed_at for row in rows)
    assert await store.status.devices(changed_after=newest) == []


async def test_late_report_takes_nothing_back(store: Store) -> None:
    """What a newer report told of a try stays, whether an older one comes in its group or after it."""
    ended, begun = AttemptRow("r", "a", 1, b"ended", 12, outcome_s=20), AttemptRow("r", "a", 1, b"begun", 13)
    await store.status.save([Told(_device("a", 6), ended), Told(_device("a", 5), begun)])
    assert [row.told for row in await store.status.attempts(["r"])] == [b"ended"]
    await store.status.save([Told(_device("a", 4), begun), Told(_device("a", 6), begun)])
    assert [row.told for row in await store.status.attempts(["r"])] == [b"ended"]


async def test_reports_of_one_group_are_all_kept(store: Store) -> None:
    """Two reports of a device on different tries in one group both leave theirs."""
    first, second = AttemptRow("r", "a", 1, b"one", 1), AttemptRow("q", "a", 1, b"two", 1)
    await store.status.save([Told(_device("a", 2), second), Told(_device("a", 1), first)])
    assert [row.told for row in await store.status.attempts(["r", "q"])] == [b"one", b"two"]


async def test_first_outcome_time_and_offer_stay(store: Store) -> None:
    """A start after a start keeps the first offer; a later report keeps the first outcome's time."""
    start = AttemptRow("r", "a", 1, b"offered", 10, offered_s=7, offered_at=17)
    await store.plans.decide(RolloutRow("r", 0, b"1"), [start])
    await store.plans.decide(
        RolloutRow("r", 1, b"2"), [AttemptRow("r", "a", 1, b"again", 11, offered_s=9, offered_at=19)]
    )
    await store.status.save([Told(_device("a", 1), AttemptRow("r", "a", 1, b"done", 12, outcome_s=20, outcome_at=30))])
    await store.status.save([Told(_device("a", 2), AttemptRow("r", "a", 1, b"yes", 13, outcome_s=25, healthy_s=25))])
    want = AttemptRow("r", "a", 1, b"yes", 13, offered_s=7, offered_at=17, outcome_s=20, outcome_at=30, healthy_s=25)
    (held,) = await store.status.attempts(["r"])
    assert replace(want, changed_at=held.changed_at) == held
    assert await store.status.history("a", 5) == [held]
    assert await store.status.attempts(["r"], changed_after=held.changed_at) == []


async def test_postgresql_stamps_changes_by_its_own_clock(store: Store) -> None:
    """Where coordinators with different clocks write, one clock says what changed after what; a file has one writer."""
    start = AttemptRow("r", "a", 1, b"", 10, offered_s=7)
    await store.plans.decide(RolloutRow("r", 0, b"1"), [start])
    await store.status.save([Told(_device("a", 1), AttemptRow("r", "b", 1, b"done", 10))])
    stamps = {row.changed_at for row in await store.status.devices()}
    stamps |= {row.changed_at for row in await store.status.attempts(["r"])}
    if store.shared:
        now = await store.status.now_s()
        assert now - 60 <= min(stamps) <= max(stamps) <= now
    else:
        assert {10} == stamps


async def test_history_has_one_order_whatever_changed_at_once(store: Store) -> None:
    """Tries that changed in the same second stand in the order of their runs, newest first, and then of rollouts."""
    tries = [AttemptRow(rollout, "a", run, b"", 10) for rollout in ("q", "p", "r") for run in (1, 2)]
    for number, row in enumerate(tries):
        await store.plans.decide(RolloutRow(f"x{number}", 0, b"1"), [row])
    rows = await store.status.history("a", 9)
    assert sorted(rows, key=lambda row: (-row.changed_at, -row.run, row.rollout)) == rows
    assert len(tries) == len(rows)


async def test_seen_only_grows(store: Store) -> None:
    """Being seen earlier than known changes nothing."""
    await store.status.save([Told(_device("a", 1, at=10))])
    await store.status.seen([("a", 20), ("b", 20)])
    await store.status.seen([("a", 15)])
    assert [row.seen_at for row in await store.status.devices()] == [20]


async def test_forgetting_takes_what_came_before_it_and_nothing_after(store: Store) -> None:
    """Of one group, a device's reports before a key change go, and the lower seq after it stays."""
    await store.status.save([Told(_device("a", 7)), Told(_device("b", 7))])
    await store.status.save([Told(_device("a", 9)), Forget("a"), Told(_device("a", 1))])
    assert {row.device: row.seq for row in await store.status.devices()} == {"a": 1, "b": 7}
    await store.status.save([Told(_device("b", 9)), Forget("b")])
    assert {row.device: row.seq for row in await store.status.devices()} == {"a": 1}


async def test_decision_is_compare_and_set(store: Store) -> None:
    """A decision on an old version fails and leaves no start behind."""
    await store.plans.decide(RolloutRow("r", 0, b"1"), [])
    for version in (0, 2):
        with pytest.raises(Conflict):
            await store.plans.decide(RolloutRow("r", version, b"x"), [AttemptRow("r", "a", 1, b"", 1, offered_s=1)])
    assert await store.plans.rollout("r") == RolloutRow("r", 1, b"1")
    assert await store.status.attempts(["r"]) == []


async def test_clock_is_compare_and_set(store: Store) -> None:
    """The running clock moves only for who read its newest value."""
    assert await store.plans.clock() is None
    first, second = ClockRow(0, 100), ClockRow(10, 110)
    await store.plans.beat(None, first)
    await store.plans.beat(first, second)
    with pytest.raises(Conflict):
        await store.plans.beat(first, ClockRow(11, 111))
    with pytest.raises(Conflict):
        await store.plans.beat(None, first)
    assert await store.plans.clock() == second


async def test_requests_and_sessions(store: Store) -> None:
    """A repeated request keeps its age; a session is found until it is swept."""
    await store.people.ask(EnrollRow("d", b"1", b"s", 10, 10))
    await store.people.ask(EnrollRow("d", b"2", b"s", 20, 20))
    assert await store.people.requests() == [EnrollRow("d", b"2", b"s", 10, 20)]
    await store.people.forget("d")
    assert await store.people.requests() == []
    old, new = SessionRow("k", "t", "me", 50), SessionRow("l", "t", "me", 150)
    await store.people.save_session(old, 10, most=1, most_of_one=1)
    await store.people.save_session(new, 100, most=1, most_of_one=1)
    assert [await store.people.session("k"), await store.people.session("l")] == [None, new]


async def test_sessions_are_bounded_by_those_that_last(store: Store) -> None:
    """Ended sessions count for nothing, a repeated key counts once, and nobody takes what others need."""

    async def save(key: str, by: str, now: int) -> None:
        await store.people.save_session(SessionRow(key, "t", by, now + 100), now, most=3, most_of_one=2)

    await save("a", "me", 0)
    await save("b", "me", 50)
    await save("b", "me", 50)
    with pytest.raises(Busy, match="2 sessions of the key me"):
        await save("c", "me", 99)
    await save("d", "you", 99)
    with pytest.raises(Busy, match="too many"):
        await save("e", "they", 99)
    await save("c", "me", 100)
    with pytest.raises(Busy):
        await save("e", "they", 100)


async def test_one_signer_does_not_fill_the_journal(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one signer was refused pushes out only its own older rows."""
    monkeypatch.setattr("nixfleet.server.store.log._REFUSALS_OF_ONE", 2)
    rows = [RefusalRow(at, "loud" if at else "quiet", "n", "0" * 64, "why") for at in range(5)]
    for row in rows:
        await store.log.refuse(row)
    assert await store.log.refused(9) == [rows[4], rows[3], rows[0]]


async def test_refusals_are_read_newest_first(store: Store) -> None:
    """The newest refused statement comes first."""
    rows = [RefusalRow(at, "by", "n", "0" * 64, "why") for at in (1, 2)]
    for row in rows:
        await store.log.refuse(row)
    assert await store.log.refused(5) == rows[::-1]


async def test_opening_twice_keeps_the_content(store: Store, store_url: str) -> None:
    """A second start migrates nothing and finds what the first wrote."""
    await store.log.append([_entry(0)])
    again = Store(store_url)
    await again.open()
    assert await again.log.size() == 1
    await again.close()


async def test_newer_schema_is_refused(store: Store, store_url: str) -> None:
    """A database of a newer program is left alone."""
    async with store._db.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    again = Store(store_url)
    with pytest.raises(UserError, match="newer program"):
        await again.open()
    await again.close()


async def test_no_database_is_unreachable() -> None:
    """A server that does not answer, and a folder that does not exist, are told apart from bugs."""
    for url in ("postgresql+asyncpg://x@127.0.0.1:1/x", "sqlite+aiosqlite:////nonexistent/fleet.db"):
        closed = Store(url)
        with pytest.raises(Unreachable):
            await closed.open()
        await closed.close()


async def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    """A file that is something else is told by its path, to whoever has to put the right one there."""
    path = tmp_path / "fleet.db"
    path.write_bytes(b"something else entirely" * 100)
    store = Store(f"sqlite+aiosqlite:///{path}")
    with pytest.raises(Unreachable, match=rf"^{re.escape(str(path))}: the database refuses: file is not a database$"):
        await store.open()
    await store.close()


async def test_a_database_that_refuses_is_named(tmp_path: Path) -> None:
    """What cannot be opened is told by its path."""
    store = Store(f"sqlite+aiosqlite:///{tmp_path}")
    with pytest.raises(Unreachable, match=rf"^{re.escape(str(tmp_path))}: the database refuses: "):
        await store.open()
    await store.close()


async def test_an_empty_database_is_named(store: Store) -> None:
    """A database without a fleet is told by its name: it may have been put there by mistake."""
    log = LogKeeper(store, LogKeys(SecretKey.generate()), lambda: 0)
    with pytest.raises(UserError, match=f"^{re.escape(store.name)} holds no fleet"):
        await log.load()


async def test_the_tables_are_those_of_the_migrations(store: Store) -> None:
    """What the migrations make is what the program reads and writes: Alembic finds nothing to change."""

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with store._db.read() as connection:
        assert [] == await connection.run_sync(differences)
