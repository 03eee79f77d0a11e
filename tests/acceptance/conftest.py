"""Fixtures of the acceptance tests: a real ssh-agent, an admin's machine, booted devices; helpers are in `bench`."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.bench import Bench, free_port, until
from tests.acceptance.front import Front
from tests.nix.harness import Admin, Device, NatLab, Systems, closing, need_networks


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
    for _ in (systems.a, systems.b, systems.bad, *(systems.build(version=version) for version in (4, 5, 9))):
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


@pytest.fixture
def front(bench: Bench) -> Iterator[Front]:
    """Put a proxy in front of the coordinator, for fleets that are opened at its address."""
    with Front(bench.lab.coordinator_address, bench.port) as made:
        yield made


@pytest.fixture
def web(bench: Bench, tmp_path: Path) -> Iterator[Device]:
    """Boot one device, behind address translation, from an older system."""
    device = Device(tmp_path / "web-01", "web-01", netns=bench.lab.device_netns)
    device.boot(bench.systems, bench.systems.build(version=9))
    with closing(device):
        yield device
