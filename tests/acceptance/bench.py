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
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.nix.harness import Admin, Device, Machine, NatLab, Systems
from tests.sshagent import add_key

from nixfleet.trust.httpsig import sign_request
from nixfleet.trust.signers import Signer, find_signer
from nixfleet.trust.sshsig import SecretKey

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

    def signer(self) -> Signer:
        """Give the admin's key, in the ssh-agent, for what no command would sign."""
        sock = self.admin.env()["SSH_AUTH_SOCK"]
        return find_signer(None, key_file=None, ssh_auth_sock=sock, passphrase=None)

    def person(self, name: str) -> str:
        """Give somebody else a key in the ssh-agent; its public half, as a file, says who acts (`--key`)."""
        return str(add_key(Path(self.admin.env()["SSH_AUTH_SOCK"]), self.admin.home / ".ssh" / name))

    def nixfleet(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the installed command on the admin's machine."""
        return self.admin.run(["nixfleet", *argv], check=check)

    def json(self, *argv: str) -> Any:
        """Run a reading command and give what it wrote."""
        return json.loads(self.nixfleet(*argv, "--json").stdout)

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the coordinator (again) and wait until it answers."""
        process = self.coordinator = spawn(self.admin, "nixfleet", "coordinator", "--listen", self.listen)
        until("the coordinator answers", self._healthy)
        return process

    def _healthy(self) -> bool:
        status, _ = self.get("/healthz")
        return status == HTTPStatus.OK

    def get(self, path: str) -> tuple[int, bytes]:
        """Ask the coordinator itself, unsigned; status 0 when it does not answer."""
        return self._ask("GET", path, b"", {})

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send the coordinator a body of JSON, unsigned."""
        return self._ask("POST", path, body, {"Content-Type": "application/json"})

    def read(self, path: str) -> Any:
        """Read a route as the admin's commands do, by their session: for waiting, which a command each would slow."""
        while not (files := list(self.admin.home.rglob("sessions/*/*"))):
            self.nixfleet("device", "list")
        first = min(files, key=lambda file: file.stat().st_ctime_ns)  # the founder's, who reads everything
        key = SecretKey.from_seed(bytes.fromhex(json.loads(first.read_text())["seed"]))
        fleet, now = first.parent.name, int(time.time())
        signed = sign_request(key, method="GET", path=path, query="", body=b"", created=now, fleet=fleet)
        status, body = self._ask("GET", path, b"", signed)
        assert status == HTTPStatus.OK, body
        return json.loads(body)

    def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    @property
    def port(self) -> int:
        """The coordinator's own port."""
        return int(self.listen.rpartition(":")[2])

    @property
    def data_dir(self) -> Path:
        """The folder with the coordinator's keys and database."""
        [found] = self.admin.home.rglob("log.key")
        return found.parent

    def kill(self) -> None:
        """Kill the coordinator as a power cut does."""
        assert self.coordinator is not None
        kill(self.coordinator)

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
        return self.read(f"/v1/devices/{name}")

    def outcomes(self, name: str) -> list[tuple[str, str]]:
        """List a device's outcomes, oldest first: what came of which system."""
        attempts = self.read(f"/v1/devices/{name}/history")["attempts"]
        ended = sorted((one for one in attempts if one.get("outcome")), key=lambda one: one["at"])
        return [(one["outcome"], one["path"]) for one in ended]

    def release(self, name: str, system: str, *devices: str) -> None:
        """Push a system and publish a release of it for these devices."""
        self.nixfleet("cache", "push", system)
        self.nixfleet("release", "create", name, *(word for one in devices for word in ("--device", f"{one}={system}")))

    def rollout(self, release: str, *argv: str) -> str:
        """Start a rollout, at once unless told otherwise; give its digest."""
        return self.nixfleet("rollout", "start", release, *(argv or ("--all-at-once",))).stdout.strip()

    def watch(self, rollout: str, *, code: int = 0) -> None:
        """Watch a rollout to its end, which must have this exit code."""
        done = self.nixfleet("rollout", "watch", rollout, "--timeout", str(DEADLINE_S), check=False)
        assert done.returncode == code, f"{done.stdout}{done.stderr}"


QUICK = "[checks]\nsettle_s = 0\n"
"""For agent.toml: failed units show at once in a stand-in, so nothing is gained by waiting."""


def join(device: Device, token: str, toml: str = "") -> "subprocess.Popen[bytes]":
    """Give a device a token and start its agent; `toml` is added to its agent.toml, top-level keys first."""
    device.write("/etc/nixfleet/token", token, 0o600)
    device.write("/etc/nixfleet/agent.toml", f'name = "{device.name}"\ntoken_file = "/etc/nixfleet/token"\n{toml}')
    return spawn(device, "nixfleet", "agent")


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End a process as the kernel does when memory runs out."""
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def kill_agent(device: Device) -> None:
    """Kill the agent alone; a switch lives in a session of its own."""
    [agent] = [one for one in device._started if one.poll() is None]
    kill(agent)


def state_of(device: Device) -> tuple[str, str, str]:
    """Give the running system, the profile's and the boot loader's."""
    return device.current_system, device.profile, device.boot_default


def update_of(device: Device) -> dict[str, Any]:
    """Give the update in the agent's journal, whatever the coordinator knows of it; empty before the first."""
    update: dict[str, Any] | None = (
        json.loads(device.read("/var/lib/nixfleet/journal.json") or "{}").get("state", {}).get("update")
    )
    return update or {}


def log_size(device: Device) -> int:
    """Give how many entries of the log the agent has verified and holds."""
    return int(json.loads(device.read("/var/lib/nixfleet/log/meta.json") or '{"size": 0}')["size"])


def waits_of(device: Device) -> str:
    """Give the agent's own note of why nothing begins."""
    return device.read("/var/lib/nixfleet/waits")


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
