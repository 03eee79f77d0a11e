"""The console in a real tmux, with the coordinator inside it, while a real device joins and updates."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.bench import Bench, join, until
from tests.nix.harness import Admin, Device, closing


class Terminal:
    """A tmux of its own on the admin's machine, with one window of 120 by 40 cells."""

    def __init__(self, admin: Admin, socket: Path) -> None:
        self.admin = admin
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]

    def open(self, command: str) -> None:
        """Run a command in the window; what it ends with stays on the screen."""
        shell = f"{command}; echo ended with $?; exec cat"
        self.admin.run([*self._tmux, "new-session", "-d", "-x", "120", "-y", "40", shell])

    def close(self) -> None:
        """Take the window away."""
        self._call("kill-session")

    def _call(self, *argv: str) -> str:
        # From outside, where the socket is, too: a screen is read many times a second while something is waited for.
        return subprocess.run(
            [*self._tmux, *argv], env=self.admin.env(), capture_output=True, text=True, check=True, timeout=20
        ).stdout

    def keys(self, *keys: str) -> None:
        """Type keys, by tmux's names."""
        self._call("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type text as it is."""
        self._call("send-keys", "-l", text)

    @property
    def screen(self) -> str:
        """What the window shows."""
        return self._call("capture-pane", "-p")

    def shows(self, *words: str) -> None:
        """Wait until the window shows all of these."""
        try:
            until(f"the console shows {', '.join(words)}", lambda: all(word in self.screen for word in words))
        except AssertionError as error:
            raise AssertionError(f"{error}; it shows:\n{self.screen}") from None

    def process(self, argv: str) -> int:
        """Give the process that runs `argv` in the window."""
        for pid in self.admin.processes():
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if argv in line and "sh -c" not in line and "tmux" not in line:
                return pid
        raise AssertionError(f"no process runs {argv}")


@pytest.fixture
def terminal(bench: Bench, tmp_path: Path) -> Terminal:
    """Give a terminal on the admin's machine."""
    if shutil.which("tmux") is None:
        pytest.skip("needs tmux")
    return Terminal(bench.admin, tmp_path / "tmux.sock")


@pytest.fixture
def device(bench: Bench, tmp_path: Path) -> Iterator[Device]:
    """Boot a device behind address translation from an older system."""
    machine = Device(tmp_path / "web-01", "web-01", netns=bench.lab.device_netns)
    with closing(machine.boot(bench.systems, bench.systems.build(version=9))):
        yield machine


def test_a_person_begins_a_fleet_and_watches_a_device_update(bench: Bench, terminal: Terminal, device: Device) -> None:
    """Three answers make the fleet; then the console shows a device join, update and confirm, and the audit verify."""
    terminal.open("nixfleet console")
    terminal.shows("A new fleet", "Address that devices will reach")
    terminal.type("acme")
    terminal.keys("Enter")
    terminal.keys("C-u")
    terminal.type(bench.url)
    terminal.keys("Enter")
    terminal.keys("Enter")
    terminal.shows("acme", "No devices yet", "live")

    token = bench.nixfleet("enroll", "token", "--tag", "env=prod").stdout
    join(device, token)
    terminal.shows("web-01", "24.05.9")

    deployed = bench.nixfleet("deploy", "--device", f"web-01={bench.systems.b}")
    assert "web-01: confirmed" in deployed.stderr
    terminal.shows("web-01", "24.05.2")
    until("the older system is gone from the table", lambda: "24.05.9" not in terminal.screen)

    terminal.keys("Enter")
    terminal.shows("system", "24.05.2", "previous", "24.05.9", "activating the configuration...")
    terminal.keys("2")
    terminal.shows("finished", "1/1")
    terminal.keys("4")
    terminal.shows("verified", "valid", "found the fleet", "1 device agrees")
    terminal.keys("q")
    terminal.shows("ended with 0")
    assert bench.nixfleet("device", "list", check=False).returncode == 5, "the coordinator has stopped with the console"


def test_the_console_leaves_the_terminal_whole_when_it_is_ended(bench: Bench, terminal: Terminal) -> None:
    """SIGTERM brings the shell's screen back and stops the embedded coordinator."""
    bench.nixfleet("init", "acme", "--url", bench.url, "--key", bench.key)
    terminal.open("echo before; nixfleet console")
    terminal.shows("No devices yet", "live")
    bench.admin.run(["kill", f"-{signal.SIGTERM.value}", str(terminal.process("nixfleet console"))])
    terminal.shows("before", "ended with 143")
    assert "No devices yet" not in terminal.screen


def test_the_console_joins_a_coordinator_that_already_serves(bench: Bench, terminal: Terminal) -> None:
    """With a coordinator running on the fleet's folder, the console is its client, and leaving it stops nothing."""
    bench.open_fleet()
    terminal.open("nixfleet console")
    terminal.shows("No devices yet", "live")
    terminal.keys("q")
    terminal.shows("ended with 0")
    assert bench.json("device", "list") == {"devices": []}


def test_the_console_verifies_a_log_that_has_not_grown(bench: Bench, terminal: Terminal) -> None:
    """Opened a second time on a quiet fleet, where the log on disk is all there is, it says verified."""
    bench.open_fleet()
    for _ in range(2):
        terminal.open("nixfleet console")
        terminal.shows("No devices yet", "live", "verified")
        terminal.keys("q")
        terminal.shows("ended with 0")
        terminal.close()


def test_the_console_without_a_terminal_says_so_in_one_line(bench: Bench) -> None:
    """No terminal: one line, exit code 2, nothing made."""
    done = bench.nixfleet("console", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "nixfleet: the console needs a terminal; 'nixfleet device list' and the other commands do not"
    ]
    assert not list(bench.admin.home.rglob("fleet.db"))
