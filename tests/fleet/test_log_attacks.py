"""Each way to change a log's past, and who notices it: coordinator, console and command line, device, other devices.

The attacker has the coordinator's database and its log key, and runs a coordinator of their own making.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import msgspec
import pytest
from tests.factories import Fleet
from tests.fakelog import FakeLog
from tests.httpd import Answer, Asked, httpd
from tests.server.backups import entries_of, fork_of, mirror_of
from tests.server.harness import rig

from nixfleet.client.api import Client
from nixfleet.client.gossip import check_witnesses, witnesses
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Untrusted
from nixfleet.model.statements import LogState
from nixfleet.model.wire import Proof

MENDS = "put a backup back"


def history(fleet: Fleet) -> None:
    """Do enough that there is something to hide: a grant, its end, a release, a rollout."""
    fleet.device("web-01", tags={"env": "prod"})
    grant = fleet.grant("ops", "deploy")
    fleet.revoke(grant=grant)
    release, _ = fleet.release("a")
    fleet.rollout(release)
    fleet.device("web-02")


REVOKE = 3


Edit = Callable[[sqlite3.Connection], object]


def edit(data_dir: Path, change: Edit) -> None:
    """Change a stopped coordinator's database."""
    with closing(sqlite3.connect(data_dir / "fleet.db")) as database:
        change(database)
        database.commit()


def run(*commands: str) -> Edit:
    """Change rows by SQL."""
    return lambda database: [database.execute(command) for command in commands]


def change(column: str, index: int, made: Callable[[bytes], bytes]) -> Edit:
    """Change the bytes of one entry."""

    def act(database: sqlite3.Connection) -> None:
        [(old,)] = database.execute(f'select {column} from entries where "index" = {index}')
        assert made(old) != old
        database.execute(f'update entries set {column} = ? where "index" = {index}', [made(old)])

    return act


def move(old: int, new: int) -> str:
    """Move a row to another index."""
    return f'update entries set "index" = {new} where "index" = {old}'


EDITS: dict[str, tuple[Edit, str]] = {
    "a leaf's signature": (
        change("leaf", 2, lambda leaf: leaf[:-1] + bytes([leaf[-1] ^ 1])),
        r"are not those that were appended \(entry 2 is the first without effect",
    ),
    "a leaf's log time": (
        change("leaf", 4, lambda leaf: leaf[:7] + bytes([leaf[7] + 1]) + leaf[8:]),
        "are not those that were appended",
    ),
    "a payload": (
        change("payload", 1, lambda payload: payload.replace(b"prod", b"test")),
        "entry 1 in .* has another payload than the one that was signed",
    ),
    "a payload's type": (
        run("update entries set payload = 'x' where \"index\" = 1"),
        "entry 1 in .* has another payload than the one that was signed",
    ),
    "an entry's kind": (
        run("update entries set kind = 'device' where \"index\" = 3"),
        "entry 3 in .* is filed under another kind",
    ),
    "a hidden revoke": (
        run(f'delete from entries where "index" = {REVOKE}', move(4, 3), move(5, 4), move(6, 5)),
        "has 6 entries of the 7 that were appended",
    ),
    "a hole": (run('delete from entries where "index" = 2'), "entry 2 in .* is missing"),
    "the newest entries": (
        run('delete from entries where "index" > 4'),
        "has 5 entries of the 7 that were appended",
    ),
    "the order": (run(move(4, 99), move(5, 4), move(99, 5)), "are not those that were appended"),
    "the newest checkpoint": (
        run("update marks set note = cast(replace(note, 'nixfleet', 'nixfleeT') as blob)"),
        "the newest checkpoint in .* does not hold",
    ),
}


@pytest.mark.parametrize("what", EDITS)
async def test_the_coordinator_notices_a_changed_database_at_its_start(tmp_path: Path, what: str) -> None:
    """It does not serve, names what was changed, and says how to go on; the database as it was is served again."""
    made, why = EDITS[what]
    async with rig(tmp_path / "data") as one:
        history(one.fleet)
        async with one.client("admin") as admin:
            await one.send(admin)
        await asyncio.to_thread(one.server.stop)
        whole = (tmp_path / "data" / "fleet.db").read_bytes()
        edit(one.data_dir, made)
        one.server = one.make_server()
        with pytest.raises(Untrusted, match=f"({why}).*{MENDS}"):
            await asyncio.to_thread(one.server.start)
        (tmp_path / "data" / "fleet.db").write_bytes(whole)
        one.server = one.make_server()
        await asyncio.to_thread(one.server.start)


def without_revoke(fleet: Fleet) -> Fleet:
    """Make the log that hides a revoke, and goes on beyond the true one, with checkpoints by the true log key."""
    return branched(fleet, REVOKE, lambda other: [other.device(f"new-{number}") for number in range(5)])


def branched(fleet: Fleet, at: int, go_on: Callable[[Fleet], object]) -> Fleet:
    """Make another history from an entry on."""
    other = Fleet()
    other.fleet = fleet.fleet
    other.entries = list(fleet.entries[:at])
    other.tree, other.state = fork_of(other)
    other.now = fleet.now
    go_on(other)
    return other


def reordered(fleet: Fleet) -> Fleet:
    """Swap the last two entries."""
    other = branched(fleet, fleet.size - 2, lambda _: None)
    for leaf, payload in (fleet.entries[-1], fleet.entries[-2]):
        other.append_leaf(leaf, payload)
    return other


def cut(fleet: Fleet) -> Fleet:
    """Leave the newest entries out."""
    return branched(fleet, 4, lambda _: None)


KNOWN = "another root at 7 entries than the one known: it was rewritten"
LIES: dict[str, tuple[Callable[[Fleet], Fleet], str, str]] = {
    "a revoke hidden": (without_revoke, "fork", KNOWN),
    "the same size": (lambda fleet: branched(fleet, 6, lambda one: one.device("x")), "fork", KNOWN),
    "fewer": (lambda fleet: branched(fleet, 3, lambda one: one.device("x")), "fork", "another root at 4 entries"),
    "another order": (reordered, "fork", KNOWN),
    "cut off": (cut, "behind", "has 4 entries of the 7 known: an old backup"),
}


class LyingLog(FakeLog):
    """Serves another history, with proofs of its own tree."""

    def __call__(self, asked: Asked) -> Answer:
        """Answer one request."""
        if asked.path == "/v1/log/consistency":
            query = dict(pair.split("=") for pair in asked.query.split("&"))
            hashes = tuple(self.fleet.tree.consistency(int(query["old"]), int(query["new"])))
            return Answer(msgspec.json.encode(Proof(hashes=hashes)))
        return super().__call__(asked)


@asynccontextmanager
async def lying(fleet: Fleet) -> AsyncIterator[Client]:
    """Serve a history and give a client of it."""
    log = LyingLog(fleet)
    async with httpd(log) as server, Client([server.url], fleet=fleet.fleet, key=None, clock=lambda: fleet.now) as api:
        yield api


@pytest.mark.parametrize("what", LIES)
async def test_a_copy_of_the_log_notices_another_history(tmp_path: Path, what: str) -> None:
    """Console and command line say fork or behind, in words that say what to do, and keep the history they know."""
    lie, verified, why = LIES[what]
    fleet = Fleet()
    history(fleet)
    mirror = mirror_of(tmp_path / "mirror", fleet)
    async with lying(lie(fleet)) as api:
        with pytest.raises(Untrusted, match=why):
            await mirror.catch_up(api)
    assert (verified, fleet.log) == (mirror.verified, mirror.log_state)
    assert why in mirror.why
    if verified == "fork":
        assert "compare with other machines ('nixfleet audit verify' there)" in mirror.why
    assert fleet.log == Mirror.open(tmp_path / "mirror", fleet.fleet).log_state


async def test_spoiled_entries_are_no_fork(tmp_path: Path) -> None:
    """A log that can prove that it extends ours was not rewritten, whatever became of its entries on the way."""
    fleet = Fleet()
    history(fleet)
    mirror = mirror_of(tmp_path / "mirror", fleet, size=5)
    async with lying(fleet) as api:
        log = [*fleet.entries]
        fleet.entries[5], fleet.entries[6] = log[6], log[5]
        with pytest.raises(Untrusted, match="do not lead to the checkpoint's root"):
            await mirror.catch_up(api)
        assert "untrusted" == mirror.verified
        fleet.entries[:] = log
        assert 2 == await mirror.catch_up(api)


async def test_a_device_that_was_shown_more_of_the_log_witnesses_it(tmp_path: Path) -> None:
    """Its signed report is compared by who verifies, not by the coordinator alone; others agree, and are not blamed."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("admin") as admin:
        await admin.report(one.report("web-02"))
        mirror = Mirror.open(tmp_path / "mirror", one.fleet.fleet)
        told = await witnesses(admin, mirror)
        assert {("web-01", "silent"), ("web-02", "ok")} == {(each.name, each.seen) for each in told}
        check_witnesses(told)
        await admin.report(one.report("web-01", log=LogState(size=9, root="ab" * 32)))
        told = await witnesses(admin, mirror)
        assert {"web-02": "ok"}.items() <= {each.name: each.seen for each in told}.items()
        why = "web-01 signed for a log of 9 entries, and the coordinator shows 3 of them"
        with pytest.raises(Untrusted, match=f"{why}; sign nothing, save this copy"):
            check_witnesses(told)


async def test_a_report_that_the_coordinator_made_up_convinces_nobody(tmp_path: Path) -> None:
    """Whoever runs the coordinator has no device's key: a report by another is no witness, and is named."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("admin") as admin:
        for name in ("web-01", "web-02"):
            await admin.report(one.report(name))
        await asyncio.to_thread(one.server.stop)
        edit(one.data_dir, run("update devices set signature = (select signature from devices limit 1)"))
        one.server = one.make_server()
        await asyncio.to_thread(one.server.start)
        async with one.client("admin") as again:
            told = await witnesses(again, mirror_of(tmp_path / "mirror", one.fleet))
        assert ["forged", "ok"] == sorted(each.seen for each in told)
        with pytest.raises(Untrusted, match=r"the report that the coordinator shows of web-0. is not by its key"):
            check_witnesses(told)


def test_the_made_histories_are_what_they_say() -> None:
    """The attacks above differ from the truth where they say, and only there."""
    fleet = Fleet()
    history(fleet)
    assert entries_of(fleet, 0, REVOKE) == entries_of(without_revoke(fleet), 0, REVOKE)
    assert fleet.entries[REVOKE] not in without_revoke(fleet).entries
