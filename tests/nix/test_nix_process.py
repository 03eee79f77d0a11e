"""Processes: bounded, timed, and gone with whoever asked for them. The commands are plain shells, not Nix."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.nix.harness import wait_until

from nixfleet.errors import UserError
from nixfleet.nix import FaultKind, NixError
from nixfleet.nix import process as nix_process
from nixfleet.nix.process import TAIL_LINES, run


def shell(script: str, *arguments: str) -> tuple[str, ...]:
    """Give the command that runs a script."""
    return ("sh", "-c", script, "sh", *arguments)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds, with a deadline, and let other tasks run."""
    await asyncio.to_thread(wait_until, condition)


def alive(process_id: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_output_errors_and_code_come_back() -> None:
    """Standard output whole, errors cleaned, the exit code as it is."""
    finished = await run(shell(r"echo out; printf '\033[31merr\033[0m\nlast' >&2; exit 3"))
    assert ("out\n", ("err", "last"), 3) == (finished.text(), finished.lines, finished.exit_code)
    with pytest.raises(NixError) as caught:
        finished.checked()
    assert (3, "last") == (caught.value.process_exit, caught.value.reason)


async def test_only_the_last_lines_are_kept() -> None:
    """A chatty command costs no memory, and its end is what is kept."""
    finished = await run(shell("seq 1 5000 >&2"))
    assert tuple(str(number) for number in range(5001 - TAIL_LINES, 5001)) == finished.lines


async def test_an_endless_line_is_cut() -> None:
    """A line without end is dropped beyond the bound, and the next one is read."""
    finished = await run(shell("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo after >&2"))
    assert "after" == finished.lines[-1]
    assert len(finished.lines[0]) <= nix_process.KEPT_CHARS


async def test_endless_output_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """More output than the bound ends the command."""
    monkeypatch.setattr(nix_process, "STDOUT_BYTES", 1 << 20)
    with pytest.raises(NixError, match="more than 1 MiB"):
        await run(shell("yes"))


async def test_the_deadline_ends_the_whole_group(tmp_path: Path) -> None:
    """Children that ignore the request to end are killed with their parent."""
    script = "trap '' TERM; (while :; do sleep 1; done) & echo $$ $! > $1; while :; do sleep 1; done"
    with pytest.raises(NixError, match="did not end within 0 s") as caught:
        await run(shell(script, str(tmp_path / "pids")), timeout_s=0.3)
    assert FaultKind.stalled == caught.value.kind
    leader, child = map(int, (tmp_path / "pids").read_text().split())
    await until(lambda: not alive(leader) and not alive(child))


async def test_cancelling_ends_the_command(tmp_path: Path) -> None:
    """A cancelled caller leaves nothing running."""
    task = asyncio.create_task(run(shell("echo $$ > $1.new; mv $1.new $1; sleep 600", str(tmp_path / "pid"))))
    await until((tmp_path / "pid").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_a_reader_that_raises_ends_the_command(tmp_path: Path) -> None:
    """What the reader of lines raises comes out, and the command is gone."""

    def refuse(line: str) -> str:
        raise ValueError(line)

    script = "echo $$ > $1; echo no >&2; sleep 600"
    with pytest.raises(ValueError, match="no"):
        await run(shell(script, str(tmp_path / "pid")), read_line=refuse)
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_a_command_killed_from_outside_is_interrupted() -> None:
    """Being killed is told from failing."""
    finished = await run(shell("kill -9 $$"))
    assert -signal.SIGKILL == finished.exit_code
    assert (FaultKind.interrupted, "sh was ended from outside: Killed") == (
        finished.error().kind,
        finished.error().reason,
    )


async def test_a_program_that_is_not_there_or_not_executable_is_the_users_to_mend(tmp_path: Path) -> None:
    """Both give one sentence that names the program."""
    (tmp_path / "nix-store").write_text("")
    for program in ("no-such-program", str(tmp_path / "nix-store")):
        with pytest.raises(UserError, match=r"no-such-program|nix-store"):
            await run((program,))
