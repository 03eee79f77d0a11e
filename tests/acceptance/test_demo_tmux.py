"""The demo in a real tmux: it paints, the canary halts the rollout, the person acts, and nothing is left behind."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nixfleet.sim.home import PREFIX

LIMIT_S = 120
SCENARIO = """\
name = "acme"
[[group]]
name = "web-{n}"
count = 3
tags = { env = ["prod"] }
mbyte_s = [20, 30]
asks = 1
[[release]]
name = "r1"
version = "25.11.1"
mib = 20
[[release.bad]]
unit = "nginx.service"
lines = ["nginx: [emerg] unknown directive"]
[[rollout]]
release = "r1"
at_s = 60
"""


class Window:
    """A tmux of its own with one window of 80 by 24 cells, in which the demo runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tmux = ["tmux", "-S", str(folder / "tmux.sock"), "-f", "/dev/null"]

    def call(self, *argv: str) -> str:
        """Run a command of tmux."""
        env = {**os.environ, "TMPDIR": str(self.folder), "HOME": str(self.folder), "TERM": "xterm-256color"}
        return subprocess.run([*self._tmux, *argv], env=env, capture_output=True, text=True, check=True).stdout

    @property
    def screen(self) -> str:
        """What the window shows."""
        return self.call("capture-pane", "-p")

    def shows(self, *words: str) -> None:
        """Wait until the window shows all of these."""
        until(lambda: all(word in self.screen for word in words), lambda: f"shows {words}:\n{self.screen}")

    def keys(self, *keys: str) -> None:
        """Type keys, by tmux's names."""
        self.call("send-keys", *keys)

    def left(self) -> list[Path]:
        """List what simulations have left."""
        return list(self.folder.glob(f"{PREFIX}*"))


def until(holds: Callable[[], bool], what: Callable[[], str]) -> None:
    """Wait until something on the screen or the disk holds."""
    ends = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < ends, what()
        time.sleep(0.05)


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Window]:
    """Open the demo of a small fleet."""
    if shutil.which("tmux") is None:
        pytest.skip("needs tmux")
    (tmp_path / "fleet.toml").write_text(SCENARIO)
    made = Window(tmp_path)
    demo = f"{sys.executable} -m nixfleet demo --scenario {tmp_path}/fleet.toml --speed 60"
    made.call("new-session", "-d", "-x", "80", "-y", "24", f"{demo}; echo ended with $?; exec cat")
    yield made
    made.call("kill-server")


def test_the_demo_in_a_terminal(window: Window) -> None:
    """It says that it is a demo, shows the failure, lets the waiting device in, and leaves nothing when it is left."""
    window.shows("acme", "DEMO", "3 made-up devices", "nothing is left behind", "live")
    window.keys("BSpace")
    window.shows("reverted", "nginx.service failed")
    window.keys("2")
    window.shows("halted", "r1")
    window.keys("3")
    window.shows("web-03", "SHA256")
    window.keys("A")
    window.shows("The device must show exactly this")
    window.keys("y")
    window.keys("1")
    window.shows("Devices 3")
    assert window.left()
    window.keys("q")
    window.shows("ended with 0")
    until(lambda: not window.left(), lambda: f"left behind: {window.left()}")


def test_the_demo_needs_a_terminal(tmp_path: Path) -> None:
    """Without one it says so in a line, and what works instead."""
    argv = [sys.executable, "-m", "nixfleet", "demo"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--headless" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_slip_in_a_scenario_is_one_line(tmp_path: Path) -> None:
    """An unknown key is an error that names file and key, before any screen is taken."""
    path = tmp_path / "fleet.toml"
    path.write_text(SCENARIO.replace("count = 3", "count = 3\ncolour = 'red'"))
    argv = [sys.executable, "-m", "nixfleet", "demo", "--headless", "--scenario", str(path)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert "colour" in done.stderr


def test_other_commands_work_on_a_demo_without_a_console(tmp_path: Path) -> None:
    """Headless, it prints what leads other commands to it, serves them, and ends by a signal without a trace."""
    (tmp_path / "fleet.toml").write_text(SCENARIO)
    argv = [sys.executable, "-m", "nixfleet", "demo", "--headless", "--scenario", str(tmp_path / "fleet.toml")]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        line = demo.stdout.readline()
        assert line.startswith("export NIXFLEET_HOME=")
        there = {**env, "NIXFLEET_HOME": line.strip().partition("=")[2]}
        fleet = subprocess.run(
            [sys.executable, "-m", "nixfleet", "context", "list"], env=there, capture_output=True, text=True, check=True
        )
        assert "demo" in fleet.stdout
        listed = [sys.executable, "-m", "nixfleet", "device", "list", "--json"]

        def shows() -> bool:
            done = subprocess.run(listed, env=there, capture_output=True, text=True, check=False)
            return "web-02" in done.stdout

        until(shows, lambda: "the devices are not listed")
        demo.terminate()
        assert demo.wait(LIMIT_S) == 0
    assert list(tmp_path.glob(f"{PREFIX}*")) == []
