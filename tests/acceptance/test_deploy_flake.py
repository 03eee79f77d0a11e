"""`nixfleet deploy` from a flake that needs no network, from its release file, and what it does with each option."""

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.nix.builder import SYSTEMS
from tests.nix.harness import Admin, Device, Machine, NatLab, Systems, closing, need_networks
from tests.sshagent import ssh_agent

pytestmark = pytest.mark.nix

DEADLINE_S = 60

# web-01 and web-02 are of the fleet, laptop is not; nothing but this folder is needed to build them.
FLAKE = """{
  outputs = { self }: {
    nixosConfigurations = builtins.mapAttrs
      (name: version: { config.system.build.toplevel = import ./systems.nix { bb = ./bb; inherit version; }; })
      { "web-01" = 31; "web-02" = 32; "laptop" = 33; };
  };
}
"""


@dataclass
class Bench:
    """An admin's machine with the flake in its home, and a device that the coordinator has online."""

    admin: Admin
    device: Device

    def nixfleet(self, *argv: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run the installed command in the admin's home and check its exit code."""
        done = self.admin.run(["nixfleet", *argv], check=False)
        assert code == done.returncode, f"{argv}: {done.stdout}{done.stderr}"
        return done

    def json(self, *argv: str) -> Any:
        """Run a reading command and give what it wrote."""
        return json.loads(self.nixfleet(*argv, "--json").stdout)

    def entries(self) -> int:
        """Count the log's entries."""
        return int(self.json("audit", "list")["size"])


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


def spawn(machine: Machine, *argv: str) -> "subprocess.Popen[bytes]":
    """Start a program of ours in a machine; what it says goes to a file beside the machine."""
    with (machine.folder / f"{argv[1]}.log").open("ab") as log:
        return machine.popen(argv, stdout=log, stderr=log)


@pytest.fixture
def bench(tmp_path: Path, systems: Systems) -> Iterator[Bench]:
    """Give an admin with a flake, a served fleet, web-01 online, and web-02 enrolled but never seen again."""
    need_networks()
    base = systems.build(version=9)
    with ssh_agent(tmp_path / "ssh") as agent, NatLab(host=True) as lab:
        admin = Admin(tmp_path / "admin", systems)
        admin._env["SSH_AUTH_SOCK"] = str(agent.sock)
        shutil.copytree(SYSTEMS, admin.home / "flake")
        shutil.copytree(systems.folder / "bb", admin.home / "flake" / "bb")
        (admin.home / "flake" / "flake.nix").write_text(FLAKE)
        device = Device(tmp_path / "web-01", "web-01", netns=lab.device_netns).boot(systems, base)
        away = Device(tmp_path / "web-02", "web-02", netns=lab.device_netns).boot(systems, base)
        with closing(admin), closing(device), closing(away):
            made = Bench(admin, device)
            url = f"http://{lab.coordinator_address}:{free_port()}"
            made.nixfleet("init", "acme", "--url", url, "--key", str(agent.public))
            coordinator = spawn(admin, "nixfleet", "coordinator")
            until(
                "the coordinator answers",
                lambda: admin.run(["nixfleet", "device", "list"], check=False).returncode == 0,
            )
            token = made.nixfleet("enroll", "token", "--tag", "env=prod", "--uses", "2").stdout
            for one in (device, away):
                one.write("/etc/nixfleet/token", token, 0o600)
                one.write("/etc/nixfleet/agent.toml", f'name = "{one.name}"\ntoken_file = "/etc/nixfleet/token"\n')
                spawn(one, "nixfleet", "agent")
            until(
                "both are online", lambda: [d["online"] for d in made.json("device", "list")["devices"]] == [True] * 2
            )
            away.close()
            until("web-02 is away", lambda: not made.json("device", "show", "web-02")["online"])
            yield made
            coordinator.send_signal(signal.SIGTERM)
            assert 0 == coordinator.wait(15)


def test_a_flake_reaches_a_device(bench: Bench) -> None:
    """`deploy .#web-01` builds that machine alone; --no-build, --dry-run, a file, --on and Nix's own words follow."""
    flake = "path:flake"
    before = bench.entries()

    refused = bench.nixfleet("deploy", f"{flake}#web-01", "--no-build", code=1)
    assert refused.stderr.splitlines()[-1].startswith("nixfleet: ")
    assert before == bench.entries(), "what is not built is not released"

    dry = bench.nixfleet("deploy", f"{flake}#web-01", "--dry-run")
    assert "nixos-system-unnamed-24.05.31" in dry.stdout
    assert ("web-01", "laptop" in dry.stdout) == (dry.stdout.splitlines()[1].split()[0], False)
    assert before == bench.entries(), "a dry run signs nothing"
    assert [] == bench.json("release", "list")["releases"]

    done = bench.nixfleet("deploy", f"{flake}#web-01", "--no-build", "--", "--no-write-lock-file")
    assert bench.device.current_system.endswith("-nixos-system-unnamed-24.05.31"), done.stderr
    assert bench.device.current_system == bench.json("device", "show", "web-01")["system"]

    # The file that a flake's `lib.release` makes; the absent device is listed and not waited for.
    built = {name: bench.json("deploy", f"{flake}#{name}", "--dry-run")["devices"][0] for name in ("web-01", "web-02")}
    release = {"agents": {name: one["intended"] for name, one in built.items()}}
    (bench.admin.home / "deploy.json").write_text(json.dumps(release))
    begun = time.monotonic()
    waited = bench.nixfleet("deploy", "-f", "deploy.json", "--on", "web-02", "--timeout", "30")
    assert "web-02: offline, not updated yet" in waited.stderr
    assert time.monotonic() - begun < 30

    # The whole flake: the machine that is not of the fleet is left out, and said.
    whole = bench.nixfleet("deploy", flake, "--on", "env=prod", "--all-at-once", "--json")
    assert "left out, for the fleet has no such device: laptop" in whole.stderr
    assert ["web-01", "web-02"] == sorted(member["name"] for member in json.loads(whole.stdout)["members"])


def test_what_cannot_be_deployed_is_one_line(bench: Bench) -> None:
    """A missing machine, an unknown device, a path that is no system or not there: nothing is pushed or signed."""
    before, here = bench.entries(), bench.device.current_system
    busybox = bench.json("deploy", "path:flake#web-01", "--dry-run")["devices"][0]["intended"]
    no_system = bench.admin.run(["nix-store", "--query", "--references", busybox]).stdout.split()[0]
    for argv, code, why in (
        (["path:flake#nas-01"], 2, "there is no device 'nas-01'"),
        (["path:flake#laptop"], 2, "there is no device 'laptop'"),
        (["path:flake", "--on", "nas-01"], 2, "no system for 'nas-01'"),
        (["path:flake", "--on", "env=dev"], 2, "nothing to deploy"),
        (["path:nowhere"], 1, "nowhere"),
        (["--device", f"nas-01={busybox}"], 2, "there is no device 'nas-01'"),
        (["--device", f"web-01={no_system}"], 2, "is no NixOS system"),
        (["--device", f"web-01={busybox[:43]}-gone"], 2, "not in this machine's Nix store"),
        (["--device", "web-01=./result"], 2, "no store path"),
        (["path:flake", "--device", f"web-01={busybox}"], 2, "not both"),
        (["path:flake#web-01", "--name", "Not A Name"], 2, "no release name"),
        (["-f", "missing.json"], 2, "No such file"),
    ):
        done = bench.nixfleet("deploy", *argv, code=code)
        assert why in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    assert (before, here) == (bench.entries(), bench.device.current_system)
