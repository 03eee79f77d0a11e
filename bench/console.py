"""The console's start on a real pseudo terminal: from the program's start to the first paint, and to live data."""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from tests.tui.console_fleet import device
from tests.tui.console_ports import FakeSource

from bench.processes import Terminal, cpu_s
from bench.rows import Row
from nixfleet.model.views import Snapshot

RUNS = 7
BIG_RUNS = 5
BIG = 50_000
FLEET = "acme"
HEADER, DEVICES, LIVE = b" acme", b"Devices", "● live".encode()
BARE = """
from textual.app import App, ComposeResult
from textual.widgets import Static
class Bare(App):
    def compose(self) -> ComposeResult:
        yield Static("painted")
Bare().run()
"""


def measure() -> Iterator[Row]:
    """Measure the console on a small fleet, then on a big one that is served from memory."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _small(Path(folder))
        yield _big(Path(folder))


def _small(folder: Path) -> Iterator[Row]:
    paints, worked, lives, bare = [], [], [], []
    with _ssh_agent(folder) as env:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        nixfleet = str(Path(sys.executable).with_name("nixfleet"))
        command = [nixfleet, "init", FLEET, "--url", url, "--key", env["KEY"]]
        subprocess.run(command, env=env, check=True, capture_output=True)
        for _ in range(RUNS + 1):
            bare.append(_painted([sys.executable, "-c", BARE], env, b"painted"))
            terminal = Terminal([nixfleet, "console"], env)
            paints.append(terminal.until(HEADER, DEVICES))
            worked.append(cpu_s(terminal.process.pid))
            lives.append(terminal.until(LIVE))
            terminal.close()
    for samples in (paints, worked, lives, bare):
        samples.pop(0)
    yield Row(
        what="console: start → first paint",
        unit="s",
        samples=paints,
        budget="≤ 0.6 s",
        holds=statistics.median(paints) <= 0.6,
        yardstick="bare Textual app, s",
        yard_samples=bare,
    )
    yield Row(what="console: processor time until first paint", unit="s", samples=worked)
    yield Row(
        what="console: start → live, its own coordinator started",
        unit="s",
        samples=lives,
        yardstick="bare Textual app, s",
        yard_samples=bare,
    )


def _big(folder: Path) -> Row:
    file = folder / "snapshot.json"
    records = [device(f"kiosk-{number:05d}", "kiosk", "oslo") for number in range(BIG)]
    source = FakeSource(records)
    snapshot = Snapshot(seq=0, fleet=source.fleet, devices=tuple(records), rollouts=(), releases=(), requests=())
    file.write_bytes(msgspec.json.encode(snapshot))
    env = {**os.environ, "HOME": str(folder)}
    command = [sys.executable, "-m", "bench.bigfleet", str(file)]
    shown, bare = [], []
    for _ in range(BIG_RUNS + 1):
        bare.append(_painted([sys.executable, "-c", BARE], env, b"painted"))
        shown.append(_painted(command, env, b"kiosk-00000"))
    for samples in (shown, bare):
        samples.pop(0)
    return Row(
        what=f"console: start → {BIG:,} devices read, decoded and painted",
        unit="s",
        samples=shown,
        budget="≤ 1.5 s",
        holds=statistics.median(shown) <= 1.5,
        yardstick="bare Textual app, s",
        yard_samples=bare,
    )


def _painted(argv: list[str], env: Mapping[str, str], text: bytes) -> float:
    terminal = Terminal(argv, env)
    try:
        return terminal.until(text)
    finally:
        terminal.close()


@contextmanager
def _ssh_agent(folder: Path) -> Iterator[dict[str, str]]:
    """Run an ssh-agent that holds a key; gives the environment of a person at an empty HOME, the key under KEY."""
    key, sock = folder / "id_ed25519", folder / "agent.sock"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=10)
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "NIXFLEET_"))}
    env = {**keep, "HOME": str(folder / "home"), "SSH_AUTH_SOCK": str(sock), "KEY": f"{key}.pub"}
    (folder / "home").mkdir()
    command = [shutil.which("ssh-agent") or "ssh-agent", "-D", "-a", str(sock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it says where it listens once it does
            subprocess.run(["ssh-add", "-q", str(key)], env=env, check=True, timeout=10)
            yield env
        finally:
            process.terminate()
