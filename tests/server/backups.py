"""A coordinator whose database is an old copy: what every restored backup is, on SQLite and on PostgreSQL."""

import asyncio
import secrets
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from tests.factories import Fleet, device_id
from tests.server import postgres
from tests.server.harness import Rig, rig

from nixfleet.client.mirror import Mirror
from nixfleet.model.ids import FleetId
from nixfleet.model.statements import LogState
from nixfleet.model.wire import Entry
from nixfleet.trust.merkle import Tree
from nixfleet.trust.replay import Needs, State, replay


def copy_database(one: Rig) -> Path | str:
    """Copy a stopped coordinator's database."""
    if one.database_url is None:
        place = one.data_dir.parent / f"copy-{secrets.token_hex(4)}.db"
        with closing(sqlite3.connect(one.data_dir / "fleet.db")) as database, closing(sqlite3.connect(place)) as copy:
            database.backup(copy)
        return place
    server, _, name = one.database_url.rpartition("/")
    programs, copied = postgres.binaries(), f"t{secrets.token_hex(8)}"
    assert programs is not None
    argv = ["createdb", f"--maintenance-db={server}/postgres", f"--template={name}", copied]
    subprocess.run([programs / argv[0], *argv[1:]], check=True)
    return f"{server}/{copied}"


def put_back(one: Rig, copy: Path | str) -> None:
    """Put a copy in place of a stopped coordinator's database."""
    if isinstance(copy, str):
        one.database_url = copy
        return
    for end in ("", "-wal", "-shm"):
        (one.data_dir / f"fleet.db{end}").unlink(missing_ok=True)
    shutil.copy(copy, one.data_dir / "fleet.db")


@asynccontextmanager
async def old_backup(folder: Path, database_url: str | None = None) -> AsyncGenerator[Rig, None]:
    """Serve a fleet from a backup that knows two devices of four, and neither release, rollout, pause nor revoke."""
    async with rig(folder / "data", "web-01", "web-02", database_url=database_url) as one:
        await asyncio.to_thread(one.server.stop)
        copy = await asyncio.to_thread(copy_database, one)
        one.server = one.make_server()
        await asyncio.to_thread(one.server.start)
        later(one.fleet)
        async with one.client("admin") as admin:
            await one.send(admin)
        await asyncio.to_thread(one.server.stop)
        await asyncio.to_thread(put_back, one, copy)
        one.server = one.make_server()
        await asyncio.to_thread(one.server.start)
        yield one


def later(fleet: Fleet) -> None:
    """Do what the backup does not know."""
    fleet.device("web-03", tags={"env": "prod"})
    grant = fleet.grant("ops", "deploy")
    release, _ = fleet.release("a")
    rollout = fleet.rollout(release)
    fleet.control(rollout, "pause")
    fleet.revoke(grant=grant)
    fleet.release("unused")
    fleet.device("web-04")


def entries_of(fleet: Fleet, start: int = 0, end: int | None = None) -> list[Entry]:
    """Give a made fleet's entries as they come over the wire."""
    return [Entry(leaf=leaf, payload=payload) for leaf, payload in fleet.entries[start:end]]


def mirror_of(folder: Path, fleet: Fleet, *, size: int | None = None) -> Mirror:
    """Give a copy of the log, up to a size, as a person's machine has it."""
    made = Mirror.open(folder, fleet.fleet)
    made.extend(fleet.checkpoint_at(size or fleet.size), 0, entries_of(fleet, 0, size))
    return made


def copy_of_device(folder: Path, fleet: Fleet, name: str) -> Mirror:
    """Give the log as a named device has it: every leaf, and the payloads that it needs."""
    device = device_id(name)
    needs = Needs(fleet.state, device)
    made = Mirror.open(folder / name, fleet.fleet, device=device)
    own = [Entry(leaf=leaf, payload=payload if needs(leaf) else None) for leaf, payload in fleet.entries]
    made.extend(fleet.checkpoint, 0, own)
    return made


def state_at(fleet: Fleet, size: int) -> LogState:
    """Give the state of a made log at a size."""
    return LogState(size=size, root=fleet.tree.root(size).hex())


def fork_of(fleet: Fleet) -> tuple[Tree, State]:
    """Replay what is left of a made fleet's entries: where another history begins."""
    tree, state = Tree(), State(FleetId(fleet.fleet))
    for index, (leaf, payload) in enumerate(fleet.entries):
        replay(state, index, leaf, payload)
        tree.append(leaf)
    return tree, state
