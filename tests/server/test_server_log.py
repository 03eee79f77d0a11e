"""The log over HTTP: appending, reading, proving, refusing."""

from pathlib import Path

import pytest
from tests.factories import Fleet, device_id
from tests.server.harness import Rig, rig

from nixfleet.errors import Conflict, Refused, UserError
from nixfleet.model.statements import LogState
from nixfleet.model.wire import AppendRequest
from nixfleet.server.coordinator.judging import Judged
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.logkeys import LogKeys
from nixfleet.server.settings import ServerSettings
from nixfleet.server.store import Store
from nixfleet.trust.merkle import EMPTY_ROOT, leaf_hash, verify_consistency, verify_inclusion
from nixfleet.trust.note import open_checkpoint, origin
from nixfleet.trust.view import LogView

BEGINNING = LogState(size=0, root=EMPTY_ROOT.hex())


async def test_log_is_served_as_it_was_made(tmp_path: Path) -> None:
    """What is read verifies from nothing but the fleet id, and is byte for byte what was signed."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("admin") as admin:
        entries = await admin.entries(0)
        assert [entry.leaf for entry in entries.entries] == [leaf for leaf, _ in one.fleet.entries]
        view = LogView(one.fleet.fleet)
        view.extend(await admin.checkpoint(), 0, [(entry.leaf, entry.payload) for entry in entries.entries])
        assert view.size == 3
        assert sorted(view.state.devices) == sorted([device_id("web-01"), device_id("web-02")])


async def test_append_answers_indexes_and_the_checkpoint_that_covers_them(tmp_path: Path) -> None:
    """The answer's checkpoint has the new size and is signed by the log key; a repeat answers the same index."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        one.fleet.device("web-01")
        answer = await one.send(admin)
        assert answer is not None
        assert answer.indexes == (1,)
        name = origin(one.fleet.fleet, 0)
        checkpoint = open_checkpoint(answer.checkpoint, one.fleet.log_key.public, name)
        assert (checkpoint.size, checkpoint.root) == (2, one.fleet.tree.root())
        again = await admin.append([one.submission(1)])
        assert again == answer


async def test_stale_size_is_a_conflict(tmp_path: Path) -> None:
    """An append that names an old size is turned away, and nothing is appended."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        one.fleet.device("web-02")
        with pytest.raises(Conflict, match="2 entries, not 1"):
            await admin.append([one.submission(2)], size=1)
        assert (await admin.fleet()).log_size == 2


async def test_void_statements_are_refused_whole_with_the_reason(tmp_path: Path) -> None:
    """A stranger's, a foreign fleet's and a stale statement are refused, and take a good one beside them along."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        fleet = one.fleet
        fleet.device("web-01")
        fleet.device("web-02", by="stranger")
        with pytest.raises(Refused, match="neither root nor grant names its key"):
            await admin.append([one.submission(1), one.submission(2)])
        other = Fleet(at=fleet.now)
        other.root_statement = fleet.root_statement
        other.fleet = "0" * 64
        other.device("web-03")
        fleet.entries.append(other.entries[-1])
        with pytest.raises(Refused, match="another fleet"):
            await admin.append([one.submission(3)])
        assert (await admin.fleet()).log_size == 1


async def test_malformed_statement_is_the_users_fault(tmp_path: Path) -> None:
    """Bytes that are no statement are answered with 400 and the field at fault."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        payload = b'{"type":"device","v":1.5}'
        one.fleet.append(payload, f"nixfleet-device-v1@{device_id('x')}", "admin")
        with pytest.raises(UserError, match="not an integer"):
            await admin.append([one.submission(1)])


async def test_skewed_statement_is_refused(tmp_path: Path) -> None:
    """A statement signed too far from the coordinator's clock does not enter."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        one.fleet.now += 4_000
        one.fleet.device("web-01")
        with pytest.raises(Refused, match="5 min after"):
            await admin.append([one.submission(1)])


async def test_proofs_verify(tmp_path: Path) -> None:
    """Inclusion and consistency proofs hold for every size of the log."""
    async with rig(tmp_path / "data", "a", "b", "c") as one, one.client("admin") as admin:
        tree, leaves = one.fleet.tree, [leaf for leaf, _ in one.fleet.entries]
        for index in range(4):
            proof = await admin.inclusion(index, 4)
            verify_inclusion(leaf_hash(leaves[index]), index, 4, proof.hashes, tree.root(4))
            old = await admin.consistency(index + 1, 4)
            verify_consistency(index + 1, tree.root(index + 1), 4, tree.root(4), old.hashes)


async def test_audit_says_who_did_what(tmp_path: Path) -> None:
    """The audit shows entries in words, with names and verdict."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        audit = await admin.audit(0)
        assert audit.size == 2
        entry = audit.entries[1]
        assert (entry.index, entry.principal, entry.type, entry.verdict) == (1, "admin", "device", "valid")
        assert "web-01" in entry.what


async def test_set_of_a_rollout_is_that_of_its_index(tmp_path: Path) -> None:
    """What follows a rollout in the same request is in nobody's set of it, nor after a restart."""
    fleet = Fleet()
    one = Rig(tmp_path / "data", fleet)
    one.create()
    for name in ("web-01", "web-02"):
        fleet.device(name, tags={"env": "prod"}, base=BEGINNING)
    rollout = fleet.rollout(fleet.release("a", base=BEGINNING)[0], select={"env": ("prod",)}, base=BEGINNING)
    fleet.device("web-02", tags={"env": "test"}, base=BEGINNING)
    fleet.device("web-03", tags={"env": "prod"}, base=BEGINNING)
    store = Store(ServerSettings(data_dir=one.data_dir).url())
    try:
        keepers = [LogKeeper(store, LogKeys(fleet.log_key), lambda: int(fleet.now)) for _ in range(2)]
        await keepers[0].load()
        every = tuple(one.submission(index) for index in range(1, fleet.size))
        await keepers[0].append(AppendRequest(statements=every))
        await keepers[1].load()
    finally:
        await store.close()
    tags = {"env": "prod"}
    assert [{rollout: {device_id("web-01"): tags, device_id("web-02"): tags}}] * 2 == [each.sets for each in keepers]


async def test_append_outlasts_a_coordinator_that_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often another one on the same database was first, the statement gets its place behind all of those."""
    one = Rig(tmp_path / "data", Fleet())
    one.create()
    fleet = one.fleet
    for number in range(9):
        fleet.device(f"web-0{number}", base=BEGINNING)
    *faster, last = (AppendRequest(statements=(one.submission(index),)) for index in range(1, fleet.size))
    store = Store(ServerSettings(data_dir=one.data_dir).url())
    slow, fast = (LogKeeper(store, LogKeys(fleet.log_key), lambda: int(fleet.now)) for _ in range(2))
    append = slow._append

    async def overtaken(request: AppendRequest) -> tuple[tuple[int, ...], list[Judged]]:
        if faster:
            await fast.append(faster.pop(0))
        return await append(request)

    try:
        await slow.load()
        await fast.load()
        monkeypatch.setattr(slow, "_append", overtaken)
        assert (9,) == (await slow.append(last)).indexes
        assert list(range(10)) == [row.index for row in await store.log.entries(0, 20)]
    finally:
        await store.close()
