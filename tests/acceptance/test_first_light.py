"""The first-light script on the real thing: installed command, ssh-agent, Nix, devices, one of them behind NAT."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.nix.harness import Admin, Device, Machine, NatLab, Systems, closing, need_networks

DEADLINE_S = 60


@dataclass
class Bench:
    """An admin's machine with an ssh-agent and the coordinator's address as devices reach it."""

    admin: Admin
    systems: Systems
    url: str
    listen: str
    lab: NatLab

    def nixfleet(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the installed command on the admin's machine."""
        return self.admin.run(["nixfleet", *argv], check=check)

    def json(self, *argv: str) -> Any:
        """Run a reading command and give what it wrote."""
        return json.loads(self.nixfleet(*argv, "--json").stdout)


def spawn(machine: Machine, *argv: str) -> "subprocess.Popen[bytes]":
    """Start a program of ours in a machine; what it says goes to a file beside the machine."""
    with (machine.folder / f"{argv[1]}.log").open("ab") as log:
        return machine.popen(argv, stdout=log, stderr=log)


def until(what: str, true: Callable[[], bool]) -> None:
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


@pytest.fixture
def ssh_agent(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Start a real ssh-agent that holds one ed25519 key; give its environment, the key's file under KEY."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("needs ssh-agent")
    key, sock = tmp_path / "id_ed25519", tmp_path / "agent.sock"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=10)
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(sock)], stdout=subprocess.DEVNULL)
    try:
        until("ssh-agent listens", sock.exists)
        env = {**os.environ, "SSH_AUTH_SOCK": str(sock)}
        subprocess.run(["ssh-add", "-q", str(key)], env=env, check=True, timeout=10)
        key.unlink()  # only the agent can sign now
        yield {"SSH_AUTH_SOCK": str(sock), "KEY": f"{key}.pub"}
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def bench(tmp_path: Path, systems: Systems, ssh_agent: dict[str, str]) -> Iterator[Bench]:
    """Give an admin's machine whose store holds A, B and BAD, and a network with a NATed side."""
    need_networks()
    for _ in (systems.a, systems.b, systems.bad):
        pass
    machine = Admin(tmp_path / "admin", systems)
    machine._env["SSH_AUTH_SOCK"] = ssh_agent["SSH_AUTH_SOCK"]
    (machine.home / ".ssh").mkdir()
    shutil.copy(ssh_agent["KEY"], machine.home / ".ssh" / "id_ed25519.pub")
    port = free_port()
    with NatLab(host=True) as lab, closing(machine):
        yield Bench(machine, systems, f"http://{lab.coordinator_address}:{port}", f"0.0.0.0:{port}", lab)


@pytest.fixture
def devices(bench: Bench, tmp_path: Path) -> Iterator[dict[str, Device]]:
    """Boot two devices from an older system; the second one sits behind address translation."""
    base = bench.systems.build(version=9)
    first, second = (
        Device(tmp_path / "web-01", "web-01").boot(bench.systems, base),
        Device(tmp_path / "web-02", "web-02", netns=bench.lab.device_netns).boot(bench.systems, base),
    )
    with closing(first), closing(second):
        yield {"web-01": first, "web-02": second}


def test_a_signed_update_reaches_real_devices_end_to_end(bench: Bench, devices: dict[str, Device]) -> None:
    """From `init` to `audit verify`: two devices join, update, one of them takes a bad system and goes back."""
    a, b, bad = bench.systems.a, bench.systems.b, bench.systems.bad
    key = str(bench.admin.home / ".ssh" / "id_ed25519.pub")
    bench.nixfleet("init", "acme", "--url", bench.url, "--key", key)
    coordinator = spawn(bench.admin, "nixfleet", "coordinator", "--listen", bench.listen)
    until("the coordinator answers", lambda: bench.nixfleet("device", "list", "--json", check=False).returncode == 0)

    token = bench.nixfleet("enroll", "token", "--tag", "env=prod", "--uses", "2", "--days", "1").stdout
    assert len(token.split()) == 1, "the token alone on standard output"
    for name, device in devices.items():
        device.write("/etc/nixfleet/token", token, 0o600)
        device.write("/etc/nixfleet/agent.toml", f'name = "{name}"\ntoken_file = "/etc/nixfleet/token"\n')
        spawn(device, "nixfleet", "agent")

    def both_online() -> bool:
        found = bench.json("device", "list")["devices"]
        return [d["name"] for d in found if d["online"] and d["facts"]] == ["web-01", "web-02"]

    until("both devices are online with facts", both_online)
    listed = bench.json("device", "list")["devices"]
    assert [{"env": "prod"}, {"env": "prod"}] == [d["tags"] for d in listed]

    pushed = bench.nixfleet("cache", "push", a)
    assert "MiB" in pushed.stderr
    bench.nixfleet("release", "create", "a", "--device", f"web-01={a}", "--device", f"web-02={a}")
    bench.nixfleet("rollout", "start", "a", "--all-at-once", "--watch")
    assert [a, a] == [devices[name].current_system for name in ("web-01", "web-02")]
    assert [a, a] == [d["system"] for d in bench.json("device", "list")["devices"]]

    bench.nixfleet("deploy", "--device", f"web-01={b}")
    assert b == devices["web-01"].current_system

    went_back = bench.nixfleet("deploy", "--device", f"web-02={bad}", check=False)
    assert went_back.returncode == 6, went_back.stderr
    assert a == devices["web-02"].current_system == devices["web-02"].profile
    web2 = bench.json("device", "show", "web-02")
    assert web2["outcome"] == "reverted"
    assert "activation" in web2["reason"]

    rollouts = bench.json("rollout", "list")["rollouts"]
    assert ["halted", "finished", "finished"] == [r["state"] for r in sorted(rollouts, key=lambda r: -r["index"])]
    entries = bench.json("audit", "list")["entries"]
    assert all(entry["verdict"] == "valid" for entry in entries)
    assert ["root", "grant", "device", "device"] == [entry["type"] for entry in entries[:4]]
    verified = bench.nixfleet("audit", "verify")
    assert f"{len(entries)} entries" in verified.stdout

    coordinator.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        coordinator.wait(15)
    assert coordinator.returncode == 0
