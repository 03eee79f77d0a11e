"""Start processes other than Nix: the only part of the agent that does.

Nothing here decides what is run; a command never outlives its time, except one that is detached to outlive the agent.
"""

import os
import signal
import subprocess

from nixfleet.agent.health import Ran
from nixfleet.model.text import clean_lines

OUTPUT_BYTES = 256 << 10
# The first shell ends at once, so what it starts is nobody's child and never a zombie of ours.
DETACH = '"$@" >/dev/null 2>&1 </dev/null &'


def run_detached(argv: tuple[str, ...], timeout_s: float) -> Ran:
    """Start a command in a session of its own, where no signal to the agent reaches it.

    Without exit code 0 whether it was started is not known: who starts a switch so has to forbid it.
    """
    try:
        done = subprocess.run(
            ("/bin/sh", "-c", DETACH, "detached", *argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Ran(None, ())
    return Ran(done.returncode, ())


def run_tool(argv: tuple[str, ...], timeout_s: float) -> Ran:
    """Run a small command to its end; its output is bounded, and it never outlives its time."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Ran(None, ())
    lines = clean_lines(done.stdout[-OUTPUT_BYTES:].decode("utf-8", "replace"))
    return Ran(done.returncode, tuple(line.rstrip() for line in lines if line.strip()))


def end_group(pid: int) -> None:
    """Kill a supervisor with all it started in its group."""
    try:
        os.killpg(os.getpgid(pid), signal.SIGKILL)
    except ProcessLookupError:
        return
