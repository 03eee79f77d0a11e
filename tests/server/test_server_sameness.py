"""A PostgreSQL database that was restored from a dump is an old backup, and is treated as one at once."""

import asyncio
import secrets
import subprocess
from pathlib import Path

import pytest
from tests.factories import device_id
from tests.server import postgres
from tests.server.harness import Rig, rig

from nixfleet.client.mirror import Mirror
from nixfleet.client.offering import give_back
from nixfleet.errors import Unreachable
from nixfleet.server.backup import write_backup
from nixfleet.server.coordinator.restoring import QUIET_S
from nixfleet.server.coordinator.sameness import RECORD
from nixfleet.server.settings import ServerSettings
from nixfleet.server.store import Store
from nixfleet.server.unpack import restore_backup


def _run(program: str, *argv: str) -> None:
    programs = postgres.binaries()
    assert programs is not None
    subprocess.run([programs / program, *argv], check=True, capture_output=True)


def _dump(url: str, file: Path) -> None:
    """Save a database as docs/server.md says."""
    _run("pg_dump", "--format=custom", f"--file={file}", url)


def _restore(url: str, file: Path) -> str:
    """Put a dump into a new database of the same server; gives its URL."""
    server, _, _ = url.rpartition("/")
    name = f"t{secrets.token_hex(8)}"
    _run("createdb", f"--maintenance-db={server}/postgres", name)
    _run("pg_restore", "--exit-on-error", "--no-owner", f"--dbname={server}/{name}", str(file))
    return f"{server}/{name}"


async def _enrol(one: Rig, name: str) -> None:
    async with one.client("admin") as admin:
        one.fleet.device(name)
        await one.send(admin)


async def test_a_restored_dump_asks_first_and_takes_back(tmp_path: Path, postgres_url: str) -> None:
    """The keys never left: the next start appends nothing for half a minute, and a copy gives back what came after."""
    async with rig(tmp_path / "data", "web-01", database_url=postgres_url) as one:
        await asyncio.to_thread(one.restart)
        await _enrol(one, "web-02")  # the same database after a restart is nothing to ask about
        dump = tmp_path / "dump"
        await asyncio.to_thread(_dump, postgres_url, dump)
        await _enrol(one, "web-03")
        copy = Mirror.open(tmp_path / "mirror", one.fleet.fleet)
        async with one.client("admin") as admin:
            await copy.catch_up(admin)
        await asyncio.to_thread(one.server.stop)
        one.database_url = await asyncio.to_thread(_restore, postgres_url, dump)
        one.server = one.make_server()
        await asyncio.to_thread(one.server.start)
        one.fleet.device("web-04")
        async with one.client("admin") as admin:
            with pytest.raises(Unreachable, match=f"for another {QUIET_S} s it asks whether anybody knows of more"):
                await admin.append([one.submission(one.fleet.size - 1)])
            answer = await give_back(admin, copy)
            assert (copy.size, ()) == (answer.size, answer.lacks)
            one.now += QUIET_S + 1
            await one.send(admin)
            assert {"web-01", "web-02", "web-03", "web-04"} == {view.name for view in await admin.devices()}
        await asyncio.to_thread(one.restart)
        async with one.client("admin") as admin:
            repeat = await admin.append([one.submission(one.fleet.size - 1)])
        assert (one.fleet.size - 1,) == repeat.indexes


async def test_a_restored_pair_of_keys_and_dump_asks_first(tmp_path: Path, postgres_url: str) -> None:
    """Both on a new machine, by `coordinator restore FILE --database URL`: the first start waits as SQLite's does."""
    async with rig(tmp_path / "data", "web-01", database_url=postgres_url) as one:
        dump, backup = tmp_path / "dump", tmp_path / "backup"
        await asyncio.to_thread(_dump, postgres_url, dump)
        settings = ServerSettings(data_dir=one.data_dir, database_url=postgres_url)
        await asyncio.to_thread(write_backup, settings, backup, "secret")
        await asyncio.to_thread(one.server.stop)
        one.database_url = await asyncio.to_thread(_restore, postgres_url, dump)
        one.data_dir = tmp_path / "new"
        await asyncio.to_thread(restore_backup, backup, one.data_dir, "secret", one.database_url)
        assert not (one.data_dir / RECORD).exists()
        one.server = one.make_server()
        await asyncio.to_thread(one.server.start)
        one.fleet.device("web-02")
        async with one.client("admin") as admin:
            with pytest.raises(Unreachable, match="asks whether anybody knows of more"):
                await admin.append([one.submission(one.fleet.size - 1)])
            one.now += QUIET_S + 1
            await one.send(admin)
            assert device_id("web-02") in {view.id for view in await admin.devices()}
        assert (one.data_dir / RECORD).read_text().count("/") == 3


@pytest.mark.skipif(postgres.binaries() is None, reason="needs PostgreSQL")
def test_files_that_were_rolled_forward_are_another_database() -> None:
    """A copy of the cluster's files recovers on a timeline of its own, as a standby does that takes over."""

    async def identity(server: str) -> str:
        store = Store(f"{server}/fleet".replace("postgresql:", "postgresql+asyncpg:"))
        try:
            await store.open()
            return await store.identity()
        finally:
            await store.close()

    with postgres.files() as folder:
        with postgres.running(folder) as server:
            postgres.new_database(server, "fleet")
            first = asyncio.run(identity(server))
        with postgres.running(folder) as server:
            assert first == asyncio.run(identity(server))
        (folder / "data" / "recovery.signal").touch()
        with postgres.running(folder, restore_command="false", hot_standby="off") as server:
            recovered = asyncio.run(identity(server))
    assert (first.partition("/")[2], True) == (recovered.partition("/")[2], first != recovered)


async def test_a_server_that_keeps_its_number_to_itself_is_served(postgres_url: str) -> None:
    """Who may not ask for the cluster's number knows the database by the rest, the same each time."""
    server, _, _ = postgres_url.rpartition("/")
    name = f"t{secrets.token_hex(8)}"
    for program, *argv in (
        ("psql", f"{server}/postgres", "-c", f"CREATE ROLE {name} LOGIN"),
        ("createdb", f"--maintenance-db={server}/postgres", f"--owner={name}", name),
        ("psql", f"{server}/{name}", "-c", "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public"),
    ):
        await asyncio.to_thread(_run, program, *argv)
    store = Store(f"{server}/{name}".replace("//nixfleet@", f"//{name}@").replace("postgresql:", "postgresql+asyncpg:"))
    try:
        await store.open()
        found = await store.identity()
        assert (3, "0") == (found.count("/"), found.partition("/")[0])
        assert found == await store.identity()
    finally:
        await store.close()


async def test_a_file_of_the_folders_own_has_no_record(tmp_path: Path) -> None:
    """SQLite's database is the folder's: nothing is noted, and a restart asks nobody."""
    async with rig(tmp_path / "data", "web-01") as one:
        await asyncio.to_thread(one.restart)
        await _enrol(one, "web-02")
        assert not (one.data_dir / RECORD).exists()
