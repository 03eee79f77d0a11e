"""What the console loads before its first paint: nothing of the client, the replay or the coordinator."""

import subprocess
import sys

LATE = ("nixfleet.client", "nixfleet.trust.replay", "nixfleet.server.app", "httpx", "litestar", "sqlalchemy", "uvicorn")
ASK = "import nixfleet.cli.console, nixfleet.tui.app, sys; print(sorted(set({late!r}) & set(sys.modules)))"


def test_what_stands_behind_the_console_is_loaded_after_its_first_paint() -> None:
    """Command and app together load none of what takes longer than painting."""
    asked = subprocess.run([sys.executable, "-c", ASK.format(late=LATE)], capture_output=True, text=True, check=True)
    assert "[]" == asked.stdout.strip()
