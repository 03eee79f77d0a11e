"""Looking at processes from outside: their memory, their processor time, and what they write on a terminal."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

DEADLINE_S = 60
MIB = 1 << 20
KIB = 1 << 10


def memory_mib(pid: int) -> tuple[float, float]:
    """Give resident and proportional memory of a process in MiB (proc_pid_smaps_rollup in proc(5))."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, kib, *_ = line.split()
        sizes[name] = int(kib) * KIB / MIB
    return sizes["Rss:"], sizes["Pss:"]


def peak_mib(pid: int) -> float:
    """Give the most resident memory that a process has had, in MiB (VmHWM in proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * KIB / MIB
    raise AssertionError("the kernel tells no peak")


def cpu_s(pid: int) -> float:
    """Give the processor seconds that a process has used, to a tick (10 ms; proc_pid_stat in proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Terminal:
    """A program on a pseudo terminal of 120 by 40, and all that it has written."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> None:
        self._main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.written = b""
        self._begun = time.perf_counter()
        self.process = subprocess.Popen(
            argv,
            env={**env, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            cwd=cwd,
        )
        os.close(other)

    def until(self, *texts: bytes) -> float:
        """Read until all texts have been written; gives the seconds since the start."""
        end = self._begun + DEADLINE_S
        while not all(text in self.written for text in texts):
            assert time.perf_counter() < end, f"not in {DEADLINE_S} s: {texts!r}; only {self.written[-2_000:]!r}"
            assert self._read(0.1) or self.process.poll() is None, f"it ended: {self.written[-2_000:]!r}"
        return time.perf_counter() - self._begun

    def close(self) -> None:
        """End the program, reading what it still writes, as a terminal does."""
        self.process.terminate()
        end = time.perf_counter() + DEADLINE_S
        while self.process.poll() is None and time.perf_counter() < end:
            self._read(0.05)
        self.process.kill()
        self.process.wait()
        os.close(self._main)

    def _read(self, wait_s: float) -> bool:
        if not select.select([self._main], [], [], wait_s)[0]:
            return False
        data = b""
        with suppress(OSError):  # EIO: nobody holds the other side any more
            data = os.read(self._main, 65_536)
        self.written += data
        return bool(data)
