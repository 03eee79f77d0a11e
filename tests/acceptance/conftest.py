"""Fixtures of the acceptance tests: an admin's machine, booted devices, a proxy; helpers are in `bench`."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.bench import Bench, free_port
from tests.acceptance.front import Front
from tests.nix.harness import Admin, Device, NatLab, Systems, closing, need_networks
from tests.sshagent import ssh_agent


@pytest.fixture
def bench(tmp_path: Path, systems: Systems) -> Iterator[Bench]:
    """Give an admin's machine with an ssh-agent, whose store holds A, B, BAD and 9, and a network with a NATed side."""
    need_networks()
    for system in (systems.a, systems.b, systems.bad, systems.build(version=9)):
        assert system
    with ssh_agent(tmp_path / "ssh") as agent, NatLab(host=True) as lab:
        machine = Admin(tmp_path / "admin", systems)
        machine._env["SSH_AUTH_SOCK"] = str(agent.sock)
        (machine.home / ".ssh").mkdir()
        shutil.copy(agent.public, machine.home / ".ssh" / "id_ed25519.pub")
        port = free_port()
        with closing(machine):
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
