"""A made-up fleet in a process of its own ends with its parent, whatever ends that, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nixfleet.sim.home import LOCK, PREFIX, UNLOCKED_S, home, reap

HOLDER = Path(__file__).with_name("fleet_holder.py")
LIMIT_S = 150


def _reap(place: Path) -> None:
    reap(place, place.stat().st_mtime)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a program that holds a fleet, with temporary files in the test's folder."""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, str(HOLDER)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def told(process: subprocess.Popen[str]) -> tuple[Path, int]:
    """Read which folder the fleet has, and which process runs it."""
    assert process.stdout is not None
    folder, child = process.stdout.readline().split()
    return Path(folder), int(child)


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something of other processes holds."""
    ends = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < ends, f"it did not come about that {what}"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_nothing_is_left_when_the_holder_lets_go(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    """Closed, the fleet's process has ended and its folder is gone by the time that the holder ends."""
    folder, child = told(holder)
    assert folder.is_dir()
    assert holder.stdin is not None
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.wait(LIMIT_S) == 0
    assert is_gone(child)
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_when_the_holder_is_killed(
    holder: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    """However the holder is killed, the fleet notices, ends by itself, and takes its folder with it."""
    _, child = told(holder)
    holder.send_signal(number)
    holder.wait(LIMIT_S)
    until(lambda: is_gone(child), "the fleet's process ended")
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


def test_a_fleet_ends_by_sigterm(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    """Told to end itself, a fleet's process removes its folder though its holder goes on."""
    _, child = told(holder)
    os.kill(child, signal.SIGTERM)
    until(lambda: is_gone(child), "the fleet's process ended")
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


def test_what_a_killed_fleet_left_is_removed_by_the_next(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    """A fleet that is killed outright leaves its folder; the next one to begin there removes it."""
    folder, child = told(holder)
    _reap(tmp_path)
    assert folder.is_dir()
    os.kill(child, signal.SIGKILL)

    def reaped() -> bool:
        _reap(tmp_path)  # the kernel lets go of the lock with the last thread, a moment after the kill
        return not folder.exists()

    until(reaped, "the folder is removed")


def test_a_folder_whose_maker_was_killed_before_its_lock_is_removed(tmp_path: Path) -> None:
    """One without a lock is left alone for a minute, for it may only just be made, and removed after that."""
    left = tmp_path / f"{PREFIX}left"
    left.mkdir()
    made_s = left.stat().st_mtime
    reap(tmp_path, made_s + UNLOCKED_S)
    assert left.exists()
    reap(tmp_path, made_s + UNLOCKED_S + 1)
    assert not left.exists()


def test_a_folder_in_use_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What somebody still holds, what is no simulation's, and what a link names, is left alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / LOCK).touch()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "precious")
    with home() as first, home() as second:
        assert first.is_dir()
        assert second.is_dir()
        _reap(tmp_path)
        assert first.is_dir()
    assert not first.exists()
    assert (tmp_path / "precious" / LOCK).exists()


def test_a_folder_that_went_while_it_was_looked_at_is_no_fault(tmp_path: Path) -> None:
    """Two that begin at once both look at what a third just removed; neither ends by that."""

    class Listed(type(Path())):  # type: ignore[misc]  # its class is the system's own
        """A folder whose listing is older than what is in it."""

        def glob(self, pattern: str) -> Iterator[Path]:
            """List what is gone, then what is there."""
            yield tmp_path / f"{PREFIX}gone"
            yield from tmp_path.glob(pattern)

    left = tmp_path / f"{PREFIX}left"
    left.mkdir()
    (left / LOCK).touch()
    _reap(Listed(tmp_path))
    assert not left.exists()
