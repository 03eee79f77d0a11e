"""`nixfleet coordinator`: served, checked, backed up sealed and restored, by whoever runs the machine."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tests.cli.commandline import Commands, free_port

from nixfleet.cli.behind import Behind
from nixfleet.cli.options import Globals
from nixfleet.cli.signing import signer_of
from nixfleet.config import choose_context
from nixfleet.errors import UserError
from nixfleet.server.coordinator.backups import EVERY_S, BackupStatus
from nixfleet.trust import sealedstream

DEADLINE_S = 60


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive in milliseconds."""
    monkeypatch.setattr(sealedstream, "_OPS", 1)
    monkeypatch.setattr(sealedstream, "_MEMORY_BYTES", 8 << 20)


@pytest.fixture
def passphrase(tmp_path: Path) -> str:
    """Give a passphrase file."""
    path = tmp_path / "passphrase"
    path.write_text("correct horse\n")
    path.chmod(0o600)
    return str(path)


def test_a_fleet_is_backed_up_lost_and_restored(served: Commands, tmp_path: Path, passphrase: str) -> None:
    """Made while it is served, into a folder under a name of its own; put back on an empty folder, and checked."""
    served.enroll("web-01")
    (tmp_path / "backups").mkdir()
    told = served("coordinator", "backup", str(tmp_path / "backups"), "--passphrase-file", passphrase, "--json").json
    assert told["bytes"] == Path(told["file"]).stat().st_size
    assert told["file"].startswith(f"{tmp_path}/backups/acme-20")
    said = served("coordinator", "backup", str(tmp_path / "one"), "--passphrase-file", passphrase).out
    assert "sealed; database and keys" in said
    again = served("coordinator", "backup", str(tmp_path / "one"), "--passphrase-file", passphrase, code=2).complaint
    assert "is there already" in again
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nixfleet.cli.coordinator.now", lambda: 1_800_000_000)
        folder = ("coordinator", "backup", str(tmp_path / "backups"), "--passphrase-file", passphrase)
        served(*folder)
        twice = served(*folder, code=2).complaint
    assert "was written this very second: try again in a moment, or name a file" in twice
    argv = ["coordinator", "restore", str(tmp_path / "one"), "--passphrase-file", passphrase]
    assert "already holds log.key" in served(*argv, code=2).complaint
    elsewhere = served(*argv, "--data", str(tmp_path / "new"), "--json").json
    assert ["log.key", "cache.key", "fleet.db"] == elsewhere["files"]
    checked = served("coordinator", "check", "--json").json["checks"]
    assert {"keys": "ok", "schema": "ok", "log": "ok", "backup": "warning"} == {
        one["check"]: one["verdict"] for one in checked
    }


def test_without_a_passphrase_nothing_is_sealed(nixfleet: Commands, tmp_path: Path) -> None:
    """No terminal and no file: a sentence; a file that others may read is refused; a wrong one opens nothing."""
    nixfleet.init()
    target = str(tmp_path / "backup")
    assert "no terminal to ask for the passphrase" in nixfleet("coordinator", "backup", target, code=2).complaint
    (tmp_path / "open").write_text("secret\n")
    (tmp_path / "open").chmod(0o644)
    argv = ["coordinator", "backup", target, "--passphrase-file", str(tmp_path / "open")]
    assert "can be read by others" in nixfleet(*argv, code=2).complaint
    assert not Path(target).exists()
    (tmp_path / "open").chmod(0o600)
    nixfleet(*argv, "-q")
    shutil.rmtree(nixfleet.data)
    (tmp_path / "open").write_text("other\n")
    restored = ["coordinator", "restore", target]
    assert "--passphrase-file" in nixfleet(*restored, code=2).complaint
    argv = [*restored, "--passphrase-file", str(tmp_path / "open")]
    assert "does not open this file" in nixfleet(*argv, code=2).complaint
    assert not nixfleet.data.exists()
    (tmp_path / "open").write_text("secret\n")
    assert f"{nixfleet.data} has log.key, cache.key, fleet.db again" in nixfleet(*argv).err


def test_a_check_ends_as_what_is_wrong(nixfleet: Commands) -> None:
    """A line for each, the exit code of the first fault; doctor says of this machine's backups what the check does."""
    assert "no fleet is known here" in nixfleet("coordinator", "check", code=2).complaint
    nixfleet.init()
    said = nixfleet("coordinator", "check").out
    assert ["ok", "ok", "ok", "warning"] == [line.split()[0] for line in said.splitlines()]
    assert "1 entries replay" in said
    status = BackupStatus(at=0, why="the disk is full")
    (nixfleet.data / "backup.json").write_bytes(msgspec.json.encode(status))
    assert "the daily backup failed: the disk is full" in nixfleet("coordinator", "check", "-q", code=2).out
    assert "the daily backup failed: the disk is full" in nixfleet("doctor", "--timeout", "1", code=1).out
    (nixfleet.data / "log.key").unlink()
    assert "log: bring it back" in nixfleet("coordinator", "check", code=2).out
    shutil.rmtree(nixfleet.data)
    assert "is not served from this machine" in nixfleet("coordinator", "check", code=2).complaint


@pytest.mark.parametrize("words", [["coordinator"], ["coordinator", "run"]])
def test_it_serves_with_and_without_the_word_and_backs_up(
    nixfleet: Commands, tmp_path: Path, passphrase: str, words: list[str]
) -> None:
    """Options stand before or behind `run`; the environment names the daily backup as flags do; SIGTERM ends it."""
    nixfleet.init()
    (tmp_path / "daily").mkdir()
    env = {**os.environ, "NIXFLEET_BACKUP_DIR": str(tmp_path / "daily"), "NIXFLEET_BACKUP_PASSPHRASE_FILE": passphrase}
    command = [sys.executable, "-m", "nixfleet", words[0], "--listen", "127.0.0.1:0", *words[1:]]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = ""
        while "is written" not in seen or "serving acme at" not in seen:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(DEADLINE_S)
    (file,) = (tmp_path / "daily").iterdir()
    assert file.name.startswith("acme-")
    assert f"{file} is 0 hours old" in nixfleet("coordinator", "check").out
    assert EVERY_S == 86_400


def test_half_a_setting_for_backups_is_refused(nixfleet: Commands, tmp_path: Path) -> None:
    """A folder without a passphrase file does not start: a backup that is believed in and not made is worse."""
    nixfleet.init()
    argv = ["coordinator", "--listen", "127.0.0.1:0", "--backup-dir", str(tmp_path)]
    assert "daily backups need both" in nixfleet(*argv, code=2).complaint


def test_a_console_that_serves_backs_up_by_what_the_context_says(
    nixfleet: Commands, tmp_path: Path, passphrase: str
) -> None:
    """Who has no server has no flags to give: config.toml names folder and passphrase file, not half of it."""
    nixfleet.init()
    daily, given = tmp_path / "daily", Globals()
    daily.mkdir()
    config = nixfleet.home / "config" / "config.toml"
    config.write_text(f'{config.read_text()}backup_dir = "{daily}"\n')

    def console() -> Behind:
        name, context = choose_context(None)
        return Behind(given, name, context, signer_of(given, context.key), f"127.0.0.1:{free_port()}")

    async def served_until_backed_up(behind: Behind) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await behind.connect()
            while not list(daily.glob("acme-*")):  # noqa: ASYNC110 - what is waited for is a file
                await asyncio.sleep(0.05)
        await behind.close()

    with pytest.raises(UserError, match="daily backups need both"):
        console()
    config.write_text(f'{config.read_text()}backup_passphrase_file = "{passphrase}"\n')
    asyncio.run(served_until_backed_up(console()))
    assert str(daily) in nixfleet("coordinator", "check").out
