"""What acceptance tests share: an admin's machine with the installed command, waiting with a deadline, free ports.

Its fixtures are in this folder's conftest.
"""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.nix.harness import Admin, Device, Machine, NatLab, Systems

DEADLINE_S = 60


@dataclass
class Bench:
    """An admin's machine with an ssh-agent and the coordinator's address as devices reach it."""

    admin: Admin
    systems: Systems
    url: str
    listen: str
    lab: NatLab
    coordinator: "subprocess.Popen[bytes] | None" = field(default=None)

    @property
    def key(self) -> str:
        """The public half of the key that the ssh-agent holds, as a file on the admin's machine."""
        return str(self.admin.home / ".ssh" / "id_ed25519.pub")

    def nixfleet(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the installed command on the admin's machine."""
        return self.admin.run(["nixfleet", *argv], check=check)

    def json(self, *argv: str) -> Any:
        """Run a reading command and give what it wrote."""
        return json.loads(self.nixfleet(*argv, "--json").stdout)

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the coordinator (again) and wait until it answers."""
        process = self.coordinator = spawn(self.admin, "nixfleet", "coordinator", "--listen", self.listen)
        until("the coordinator answers", lambda: self.nixfleet("device", "list", "--json", check=False).returncode == 0)
        return process

    def kill(self) -> None:
        """Kill the coordinator as a power cut does."""
        assert self.coordinator is not None
        self.coordinator.send_signal(signal.SIGKILL)
        self.coordinator.wait(10)

    def open_fleet(self, *urls: str) -> None:
        """Create the fleet `acme`, with these addresses for devices, and start its coordinator."""
        addresses = [word for url in urls or (self.url,) for word in ("--url", url)]
        self.nixfleet("init", "acme", *addresses, "--key", self.key)
        self.start()

    def token(self, *argv: str, tag: str = "env=prod") -> str:
        """Make a join token."""
        return self.nixfleet("enroll", "token", "--tag", tag, *argv).stdout.strip()

    def device(self, name: str) -> Any:
        """Give what the coordinator knows of a device."""
        return self.json("device", "show", name)


def join(device: Device, token: str, toml: str = "") -> "subprocess.Popen[bytes]":
    """Give a device a token and start its agent; `toml` is added to its agent.toml, top-level keys first."""
    device.write("/etc/nixfleet/token", token, 0o600)
    device.write("/etc/nixfleet/agent.toml", f'name = "{device.name}"\ntoken_file = "/etc/nixfleet/token"\n{toml}')
    return spawn(device, "nixfleet", "agent")


def said(machine: Machine, program: str = "agent") -> str:
    """Give what a program of ours said so far."""
    return machine.read(f"{program}.log")


def spawn(machine: Machine, *argv: str) -> "subprocess.Popen[bytes]":
    """Start a program of ours in a machine; what it says goes to a file beside the machine."""
    with (machine.folder / f"{argv[1]}.log").open("ab") as log:
        return machine.popen(argv, stdout=log, stderr=log)


def until(what: str, true: Callable[[], object]) -> None:
    """Wait for something that another process brings about, with a deadline."""
    end = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end, f"not in {DEADLINE_S} s: {what}"
        time.sleep(0.05)


def free_port() -> int:
    """Give a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
