"""One run of ``switch-to-configuration`` that outlives the agent: a folder that its supervisor writes and we read.

The supervisor is a few lines of POSIX shell built-ins, so that it works while the system under it is replaced. It is
a file of the folder and never an argument: systemd makes ``$`` of ``$$`` and expands ``%`` in what it is told to run
(systemd.service(5), Command lines). It starts at most once for a folder, whoever asks, and writes the exit code last;
a folder without one, whose supervisor is gone, was interrupted; one that is forbidden runs nothing any more. This
module must never start a process (`agent.switching` does).
"""

import shutil
from contextlib import suppress
from pathlib import Path

from nixfleet.agent.host import Host
from nixfleet.config import sync_folder, write_atomic
from nixfleet.model.device import ATTEMPT_LINES, LINE_CHARS
from nixfleet.model.text import clean_lines

FORBIDDEN = "forbidden\n"
KEPT_JOBS = 8
TAIL_BYTES = 64 << 10

# `set -C` opens with O_EXCL: of two supervisors of one folder, only one runs the command.
SUPERVISOR = """\
cd "$1" || exit 1
shift
set -C
{ echo "$$" >started; } 2>/dev/null || exit 0
set +C
"$@" >output 2>&1 </dev/null
echo "$? end" >exit
"""


class Job:
    """A run of a switch, known by its folder."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.folder = folder
        self._host = host
        self._read_bytes = 0

    def prepare(self) -> bool:
        """Make the folder durable with the boot it belongs to; False when that was an earlier boot's, now dead."""
        mark = self.folder / "boot"
        if not mark.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.folder / "supervisor", SUPERVISOR.encode(), mode=0o700)
            # Last: a folder with this mark is whole.
            write_atomic(mark, self._host.boot_id().encode())
            sync_folder(self.folder.parent)
            _forget_old(self.folder)
        return mark.read_text() == self._host.boot_id()

    def command(self, switch: str, verb: str) -> tuple[str, ...]:
        """Give the arguments to ``/bin/sh`` that run a switch under this folder's supervisor."""
        return str(self.folder / "supervisor"), str(self.folder), switch, verb

    @property
    def started(self) -> bool:
        """Tell whether a supervisor has claimed the folder."""
        return (self.folder / "started").exists()

    def forbid(self) -> None:
        """Claim the folder, unless a supervisor has: then none ever runs the command, however late it comes."""
        with suppress(FileExistsError), (self.folder / "started").open("x") as file:
            file.write(FORBIDDEN)

    @property
    def forbidden(self) -> bool:
        """Tell whether the command never ran, and never will."""
        try:
            return (self.folder / "started").read_text() == FORBIDDEN
        except OSError:
            return False

    @property
    def exit_code(self) -> int | None:
        """Give the command's exit code, once the supervisor has written all of it."""
        try:
            code, _, end = (self.folder / "exit").read_text().partition(" ")
        except OSError:
            return None
        return int(code) if end == "end\n" else None

    @property
    def pid(self) -> int | None:
        """Give the supervisor's process id while it lives; known by its arguments, since numbers are used again."""
        try:
            number = int((self.folder / "started").read_text())
            arguments = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return number if str(self.folder).encode() in arguments else None

    def lines(self) -> tuple[str, ...]:
        """Give the last lines of the output, printable and bounded."""
        try:
            with (self.folder / "output").open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - TAIL_BYTES))
                return _split(file.read(TAIL_BYTES))[-ATTEMPT_LINES:]
        except OSError:
            return ()

    def new_lines(self) -> tuple[str, ...]:
        """Give the whole lines written since the last call; where they come too fast, the oldest are dropped."""
        try:
            with (self.folder / "output").open("rb") as file:
                size = file.seek(0, 2)
                self._read_bytes = max(self._read_bytes, size - TAIL_BYTES)
                file.seek(self._read_bytes)
                data = file.read(TAIL_BYTES)
        except OSError:
            return ()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        return _split(whole)[-ATTEMPT_LINES:]


def _split(data: bytes) -> tuple[str, ...]:
    lines = clean_lines(data.decode("utf-8", "replace"))
    return tuple(text for line in lines if (text := line.rstrip()[:LINE_CHARS]))


def _forget_old(newest: Path) -> None:
    """Keep the last few folders of finished switches for a person to read."""
    others = sorted((one for one in newest.parent.iterdir() if one != newest), key=lambda one: one.stat().st_mtime)
    for one in others[: max(0, len(others) - KEPT_JOBS + 1)]:
        shutil.rmtree(one, ignore_errors=True)
