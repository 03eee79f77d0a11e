"""What the client brings into a process: httpx, but not httpx's own command line and what that needs."""

import subprocess
import sys

NEVER = ("rich", "click", "pygments")
ASK = f"import nixfleet.client, httpx, sys; print([name for name in {NEVER} if name in sys.modules])"


def test_httpx_comes_without_its_command_line() -> None:
    """An agent pays neither memory nor time for a command line that nobody calls."""
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=60, check=True)
    assert "[]\n" == done.stdout
