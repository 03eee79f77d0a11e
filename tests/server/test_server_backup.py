"""Sealed backups of a coordinator: made while it serves, every day, whole or not at all, and put back proven."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.server.backups import mirror_of
from tests.server.harness import Rig, rig, until

from nixfleet.client.offering import give_back
from nixfleet.errors import NixfleetError, Unreachable, Untrusted, UserError
from nixfleet.server import backup as backups
from nixfleet.server.backup import name_at, newest_at, prune, write_backup
from nixfleet.server.check import check
from nixfleet.server.coordinator.backups import EVERY_S, DailyBackups, backup_fault, last_backup
from nixfleet.server.coordinator.restoring import QUIET_S
from nixfleet.server.serve import Server
from nixfleet.server.settings import ServerSettings
from nixfleet.server.unpack import restore_backup
from nixfleet.trust import sealedstream
from nixfleet.trust.sshsig import SecretKey


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive in milliseconds."""
    monkeypatch.setattr(sealedstream, "_OPS", 1)
    monkeypatch.setattr(sealedstream, "_MEMORY_BYTES", 8 << 20)


def settings_of(
    one: Rig, *, backup_dir: Path | None = None, backup_passphrase_file: Path | None = None
) -> ServerSettings:
    """Give the settings of a rig's coordinator."""
    return ServerSettings(
        data_dir=one.data_dir,
        listen="127.0.0.1:0",
        database_url=one.database_url,
        backup_dir=backup_dir,
        backup_passphrase_file=backup_passphrase_file,
    )


async def test_a_backup_of_a_serving_coordinator_is_one_moment(tmp_path: Path) -> None:
    """While others append, the copy is consistent: it is served again, and it is a beginning of the log."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        target = tmp_path / "fleet.backup"

        async def append() -> None:
            for number in range(20):
                one.fleet.device(f"d{number}")
                await one.send(admin)

        (one.data_dir / "log-next.key").write_text(SecretKey.generate().to_openssh())
        appending = asyncio.create_task(append())
        await asyncio.to_thread(write_backup, settings_of(one), target, "secret")
        await appending
        assert 0o600 == target.stat().st_mode & 0o777
        raw = target.read_bytes()
        assert b"PRIVATE KEY" not in raw
        assert b"SQLite" not in raw
        names = await asyncio.to_thread(restore_backup, target, tmp_path / "again", "secret")
        assert ["log.key", "log-next.key", "cache.key", "fleet.db"] == names
        assert (tmp_path / "again" / "log.key").read_bytes() == (one.data_dir / "log.key").read_bytes()
        assert {0o600} == {(tmp_path / "again" / name).stat().st_mode & 0o777 for name in names}
        entries = one.fleet.entries
    server = Server(ServerSettings(data_dir=tmp_path / "again", listen="127.0.0.1:0"), wall=lambda: one.now)
    await asyncio.to_thread(server.start)
    try:
        async with one.client("admin", server.address) as admin:
            held = [(entry.leaf, entry.payload) for entry in (await admin.entries(0)).entries]
    finally:
        await asyncio.to_thread(server.stop)
    assert entries[: len(held)] == held
    assert len(held) >= 2


async def test_a_restored_coordinator_asks_before_it_appends(tmp_path: Path) -> None:
    """Nobody begins another history on a backup: it waits for who knows more, and takes that back first."""
    async with rig(tmp_path / "data", "web-01") as one:
        await asyncio.to_thread(write_backup, settings_of(one), tmp_path / "backup", "secret")
        async with one.client("admin") as admin:
            one.fleet.device("web-02")
            await one.send(admin)
        mirror = mirror_of(tmp_path / "mirror", one.fleet)
        await asyncio.to_thread(restore_backup, tmp_path / "backup", tmp_path / "again", "secret")
    server = Server(ServerSettings(data_dir=tmp_path / "again", listen="127.0.0.1:0"), wall=lambda: one.now)
    await asyncio.to_thread(server.start)
    try:
        async with one.client("admin", server.address) as admin:
            one.fleet.device("web-03")
            with pytest.raises(Unreachable, match=r"has its 2 entries back; for another \d+ s it asks"):
                await admin.append([one.submission(3)])
            await give_back(admin, mirror)
            assert one.fleet.entries[:3] == [(each.leaf, each.payload) for each in (await admin.entries(0)).entries]
            one.now += QUIET_S
            assert (3,) == (await admin.append([one.submission(3)])).indexes
    finally:
        await asyncio.to_thread(server.stop)


async def test_what_does_not_open_or_does_not_fit_restores_nothing(tmp_path: Path) -> None:
    """Another passphrase, a damaged file, keys of another fleet, a folder with a fleet: one sentence, and no files."""
    async with rig(tmp_path / "data", "web-01") as one:
        target, into = tmp_path / "backup", tmp_path / "into"
        await asyncio.to_thread(write_backup, settings_of(one), target, "secret")
        with pytest.raises(UserError, match="the passphrase does not open"):
            restore_backup(target, into, "other")
        with pytest.raises(UserError, match=r"already holds log\.key"):
            restore_backup(target, one.data_dir, "secret")
        whole = target.read_bytes()
        (tmp_path / "cut").write_bytes(whole[:-10])
        with pytest.raises(Untrusted, match="cut short"):
            restore_backup(tmp_path / "cut", into, "secret")
        with pytest.raises(UserError, match=r"log\.key: this is no sealed file of nixfleet's$"):
            restore_backup(one.data_dir / "log.key", into, "secret")
        with closing(sqlite3.connect(one.data_dir / "fleet.db")) as database:
            database.execute("update entries set payload = x'00' where \"index\" = 1")
            database.commit()
        await asyncio.to_thread(write_backup, settings_of(one), target, "secret")
        with pytest.raises(Untrusted, match=r"entry 1 in .* has another payload"):
            await asyncio.to_thread(restore_backup, target, into, "secret")
        assert not into.exists()
    assert {"backup", "cut", "data"} == {path.name for path in tmp_path.iterdir()}  # noqa: ASYNC240 - a small folder


async def test_on_postgresql_a_backup_has_the_keys_alone(tmp_path: Path, postgres_url: str) -> None:
    """The database is its server's to save; put back, keys and database are proven to fit."""
    async with rig(tmp_path / "data", "web-01", database_url=postgres_url) as one:
        target = tmp_path / "backup"
        await asyncio.to_thread(write_backup, settings_of(one), target, "secret")
        with pytest.raises(UserError, match="this backup has keys alone: restore the PostgreSQL database"):
            await asyncio.to_thread(restore_backup, target, tmp_path / "into", "secret")
        names = await asyncio.to_thread(restore_backup, target, tmp_path / "into", "secret", postgres_url)
        assert ["log.key", "cache.key"] == names
        found = await check(settings_of(one), lambda: one.now)
        assert ["keys", "schema", "log"] == [each.what for each in found if each.verdict == "ok"]


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_leaves_no_half_file_under_a_final_name(tmp_path: Path, seed: int) -> None:
    """Killed at any moment, the file is whole or not there, and the next backup clears what is left."""
    data, target = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    target.mkdir()
    for name in ("log.key", "cache.key"):
        (data / name).write_text("key\n")
    with closing(sqlite3.connect(data / "fleet.db")) as database:
        database.execute("create table filler (content blob)")
        database.executemany("insert into filler values (?)", [(os.urandom(1 << 20),) for _ in range(24)])
        database.commit()
    program = (
        "import sys; from pathlib import Path\n"
        "from nixfleet.server.backup import write_backup\nfrom nixfleet.server.settings import ServerSettings\n"
        "from nixfleet.trust import sealedstream\nsealedstream._OPS, sealedstream._MEMORY_BYTES = 1, 8 << 20\n"
        "print('begins', flush=True)\n"
        "write_backup(ServerSettings(data_dir=Path(sys.argv[1])), Path(sys.argv[2]), 'secret')\n"
    )
    command = [sys.executable, "-c", program, str(data), str(target / "backup")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"begins\n" == process.stdout.readline()
        time.sleep(0.05 * seed)  # the chance moment of the kill is what is tested
        process.send_signal(signal.SIGKILL)
    if (target / "backup").exists():
        (tmp_path / "place").mkdir()
        backups.read_backup(target / "backup", tmp_path / "place", "secret")
    (target / "backup").unlink(missing_ok=True)
    for left in target.iterdir():
        os.utime(left, (0, 0))
    write_backup(ServerSettings(data_dir=data), target / "backup", "secret")
    assert ["backup"] == [path.name for path in target.iterdir()]
    assert {"log.key", "cache.key", "fleet.db", "backup.lock"} == {path.name for path in data.iterdir()}


def passphrase_file(folder: Path) -> Path:
    """Make a passphrase file."""
    path = folder / "passphrase"
    path.write_text("secret\n")
    path.chmod(0o600)
    return path


async def test_a_backup_is_made_every_day_and_the_newest_fourteen_stay(tmp_path: Path) -> None:
    """The first at the first start, the next a day later, restarts or not; other files in the folder are left alone."""
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "mine").write_text("left alone")
    async with rig(tmp_path / "data", "web-01") as one:
        name = one.fleet.fleet[:12]
        settings = settings_of(one, backup_dir=folder, backup_passphrase_file=passphrase_file(tmp_path))
        await asyncio.to_thread(one.server.stop)
        one.server = Server(settings, wall=lambda: one.now)
        await asyncio.to_thread(one.server.start)

        async def names() -> list[str]:
            return sorted(path.name for path in folder.glob("*-backup"))

        first = await until(names, lambda found: len(found) == 1)
        assert [one.now] == [newest_at(folder, name)]
        assert first[0].startswith(name)
        daily = DailyBackups(settings, lambda: one.now, lambda: name)
        await daily.look()
        assert first == await names()
        for _ in range(20):
            one.now += EVERY_S
            await daily.look()
            one.now += 60
            await DailyBackups(settings, lambda: one.now, lambda: name).look()
        assert 14 == len(await names())
        assert "left alone" == (folder / "mine").read_text()
        last = last_backup(one.data_dir)
        assert last is not None
        assert ("", one.now - 60) == (last.why, last.at)
        restored = await asyncio.to_thread(restore_backup, Path(last.file), tmp_path / "again", "secret")
        assert "fleet.db" in restored


async def test_a_failed_backup_is_told_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the log, in the folder's status, in the check; an hour later it works, and nothing is said any more."""
    folder = tmp_path / "backups"
    async with rig(tmp_path / "data") as one:
        settings = settings_of(one, backup_dir=folder, backup_passphrase_file=passphrase_file(tmp_path))
        daily = DailyBackups(settings, lambda: one.now, lambda: "acme")
        await daily.look()
        assert "the daily backup failed: " in caplog.text
        assert "the daily backup failed" in backup_fault(one.data_dir, one.now)
        found = {each.what: each for each in await check(settings, lambda: one.now)}
        assert ("wrong", True) == (found["backup"].verdict, isinstance(found["backup"].error, NixfleetError))
        folder.mkdir()
        await daily.look()
        assert [] == list(folder.iterdir())
        one.now += 3_600
        await daily.look()
        assert "" == backup_fault(one.data_dir, one.now)
        assert "3 days old" in backup_fault(one.data_dir, one.now + 3 * EVERY_S)


@pytest.mark.parametrize(
    ("mode", "folder", "why"),
    [
        (0o644, "backups", "can be read by others"),
        (0o600, "nowhere", "is not there, or cannot be written"),
        (None, "backups", "cannot read the passphrase file"),
    ],
)
async def test_what_daily_backups_need_is_checked_at_the_start(
    tmp_path: Path, mode: int | None, folder: str, why: str
) -> None:
    """A passphrase that others can read, or a folder that is not there, stops the start with one sentence."""
    (tmp_path / "backups").mkdir()
    path = passphrase_file(tmp_path)
    if mode is None:
        path.unlink()
    else:
        path.chmod(mode)
    async with rig(tmp_path / "data") as one:
        await asyncio.to_thread(one.server.stop)
        settings = settings_of(one, backup_dir=tmp_path / folder, backup_passphrase_file=path)
        with pytest.raises(UserError, match=why):
            await asyncio.to_thread(Server(settings, wall=lambda: one.now).start)
        with pytest.raises(UserError, match="daily backups need both"):
            settings_of(one, backup_dir=tmp_path).check_backups()


async def test_a_check_finds_each_thing_that_is_wrong(tmp_path: Path) -> None:
    """Beside a coordinator that serves all is well; then keys, log and schema, one after the other, are not."""
    async with rig(tmp_path / "data", "web-01") as one:

        async def verdicts() -> dict[str, tuple[str, str]]:
            return {each.what: (each.verdict, each.text) for each in await check(settings_of(one), lambda: one.now)}

        found = await verdicts()
        assert {"keys": "ok", "schema": "ok", "log": "ok", "backup": "warning", "cache": "warning"} == {
            what: verdict for what, (verdict, _) in found.items()
        }
        assert "2 entries replay" in found["log"][1]
        await asyncio.to_thread(one.server.stop)
        key = one.data_dir / "log.key"
        whole = key.read_text()
        key.write_text("no key")
        assert "wrong" == (await verdicts())["keys"][0]
        key.unlink()
        assert "nobody else can sign this fleet's log: bring it back" in (await verdicts())["keys"][1]
        key.write_text(SecretKey.generate().to_openssh())
        assert "not the log key that the fleet's root names" in (await verdicts())["log"][1]
        key.write_text(whole)
        with closing(sqlite3.connect(one.data_dir / "fleet.db")) as database:
            database.execute("update alembic_version set version_num = '9999'")
            database.commit()
        assert "which this nixfleet does not know" in (await verdicts())["schema"][1]
        with closing(sqlite3.connect(one.data_dir / "fleet.db")) as database:
            database.execute("update alembic_version set version_num = '0001'")
            database.commit()
        verdict, text = (await verdicts())["schema"]
        assert ("warning", True) == (verdict, text.startswith("0001: the next start of the coordinator makes it"))
        (one.data_dir / "fleet.db").unlink()
        assert "bring fleet.db back" in (await verdicts())["keys"][1]


def test_two_fleets_that_share_a_folder_keep_their_own_backups(tmp_path: Path) -> None:
    """One fleet's new backup is no other's, also where one name begins with the other, and each keeps its newest."""
    for at in range(0, 20 * EVERY_S, EVERY_S):
        (tmp_path / name_at("acme", at)).touch()
    (tmp_path / name_at("acme-b", 30 * EVERY_S)).touch()
    (tmp_path / name_at("b/../c", 7)).touch()
    assert [19 * EVERY_S, 30 * EVERY_S, 7] == [newest_at(tmp_path, name) for name in ("acme", "acme-b", "b/../c")]
    assert newest_at(tmp_path, "b") is None
    prune(tmp_path, "acme-b")
    assert 22 == len(list(tmp_path.iterdir()))
    prune(tmp_path, "acme")
    assert 16 == len(list(tmp_path.iterdir()))


def test_names_sort_by_time_and_only_these_are_pruned(tmp_path: Path) -> None:
    """A file by another name, however old, is nobody's to remove."""
    for at in range(0, 20 * EVERY_S, EVERY_S):
        (tmp_path / name_at("acme", at)).touch()
    (tmp_path / "acme-old.nixfleet-backup").touch()
    prune(tmp_path, "acme")
    assert 15 == len(list(tmp_path.iterdir()))
    assert 19 * EVERY_S == newest_at(tmp_path, "acme")
