"""`nixfleet deploy` from a flake that needs no network, from its release file, and what it does with each option."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.acceptance.bench import Bench, join, spawn, until
from tests.nix.builder import SYSTEMS
from tests.nix.harness import Device

pytestmark = pytest.mark.nix

# web-01 and web-02 are of the fleet, laptop is not; nothing but this folder is needed to build them.
FLAKE = """{
  outputs = { self }: {
    nixosConfigurations = builtins.mapAttrs
      (name: version: { config.system.build.toplevel = import ./systems.nix { bb = ./bb; inherit version; }; })
      { "web-01" = 31; "web-02" = 32; "laptop" = 33; };
    release = import ./release.nix {
      # As nixpkgs does it, with nothing but the busybox of this folder.
      pkgs.writeText = name: text: derivation {
        inherit name text;
        passAsFile = [ "text" ];
        system = "x86_64-linux";
        builder = "${./bb}/bin/busybox";
        args = [ "sh" "-c" "${./bb}/bin/busybox cp $textPath $out" ];
      };
      nixosConfigurations = removeAttrs self.nixosConfigurations [ "laptop" ];
    };
  };
}
"""
RELEASE = Path(__file__).parents[2] / "nix" / "release.nix"


@pytest.fixture
def device(bench: Bench, devices: dict[str, Device]) -> Device:
    """Put the flake in the admin's home; give web-01, online, beside web-02, which was let in and never seen again."""
    shutil.copytree(SYSTEMS, bench.admin.home / "flake")
    shutil.copytree(bench.systems.folder / "bb", bench.admin.home / "flake" / "bb")
    (bench.admin.home / "flake" / "flake.nix").write_text(FLAKE)
    shutil.copy(RELEASE, bench.admin.home / "flake")
    bench.open_fleet()
    log = bench.json("audit", "verify")
    pins = f'fleet = "{log["fleet"]}"\ncheckpoint = "{log["size"]}:{log["root"]}"\n'
    devices["web-02"].write("/etc/nixfleet/agent.toml", f'name = "web-02"\nurls = ["{bench.url}"]\n{pins}')
    devices["web-02"].make_host_key()
    spawn(devices["web-02"], "nixfleet", "agent")
    until("web-02 asks", lambda: bench.read("/v1/enroll")["requests"])
    # Let in once it is gone: a member is online for a while after it was last heard.
    devices["web-02"].close()
    bench.nixfleet("enroll", "web-02", "--tag", "env=prod", "--yes")
    join(devices["web-01"], bench.token())
    until("web-01 is online", lambda: [one["online"] for one in bench.read("/v1/devices")["devices"]] == [True, False])
    return devices["web-01"]


def run(bench: Bench, *argv: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    """Run the installed command in the admin's home and check its exit code."""
    done = bench.nixfleet(*argv, check=False)
    assert code == done.returncode, f"{argv}: {done.stdout}{done.stderr}"
    return done


def entries(bench: Bench) -> int:
    """Count the log's entries."""
    return int(bench.json("audit", "list")["size"])


def test_a_flake_reaches_a_device(bench: Bench, device: Device) -> None:
    """`deploy .#web-01` builds that machine alone; --no-build, --dry-run, a file, --on and Nix's own words follow."""
    flake = "path:flake"
    before = entries(bench)

    refused = run(bench, "deploy", f"{flake}#web-01", "--no-build", code=1)
    assert refused.stderr.splitlines()[-1].startswith("nixfleet: ")
    assert before == entries(bench), "what is not built is not released"

    dry = run(bench, "deploy", f"{flake}#web-01", "--dry-run")
    assert "nixos-system-unnamed-24.05.31" in dry.stdout
    assert "web-01" == dry.stdout.splitlines()[1].split()[0]
    assert "laptop" not in dry.stdout
    assert before == entries(bench), "a dry run signs nothing"
    assert [] == bench.json("release", "list")["releases"]

    done = run(bench, "deploy", f"{flake}#web-01", "--no-build", "--", "--no-write-lock-file")
    assert device.current_system.endswith("-nixos-system-unnamed-24.05.31"), done.stderr
    assert device.current_system == bench.json("device", "show", "web-01")["system"]

    # The file that the flake's `lib.release` makes; the absent device is listed and not waited for.
    release = ["nix", "--extra-experimental-features", "nix-command flakes", "build", "--no-write-lock-file"]
    bench.admin.run([*release, f"{flake}#release", "--out-link", "deploy.json"])
    waited = run(bench, "deploy", "-f", "deploy.json", "--on", "web-02", "--timeout", "60")
    assert "web-02: offline, not updated yet" in waited.stderr

    # The whole flake: the machine that is not of the fleet is left out, and said.
    whole = run(bench, "deploy", flake, "--on", "env=prod", "--all-at-once", "--json")
    assert "left out, for the fleet has no such device: laptop" in whole.stderr
    assert ["web-01", "web-02"] == sorted(member["name"] for member in json.loads(whole.stdout)["members"])


def test_what_cannot_be_deployed_is_one_line(bench: Bench, device: Device) -> None:
    """A missing machine, an unknown device, a path that is no system or not there: nothing is pushed or signed."""
    before, here = entries(bench), device.current_system
    system = bench.json("deploy", "path:flake#web-01", "--dry-run")["devices"][0]["intended"]
    no_system = bench.admin.run(["nix-store", "--query", "--references", system]).stdout.split()[0]
    for argv, code, why in (
        (["path:flake#nas-01"], 2, "there is no device 'nas-01'"),
        (["path:flake#laptop"], 2, "there is no device 'laptop'"),
        (["path:flake", "--on", "nas-01"], 2, "no system for 'nas-01'"),
        (["path:flake", "--on", "env=dev"], 2, "nothing to deploy"),
        (["path:nowhere"], 1, "nowhere"),
        (["--device", f"nas-01={system}"], 2, "there is no device 'nas-01'"),
        (["--device", f"web-01={no_system}"], 2, "is no NixOS system"),
        (["--device", f"web-01={system[:43]}-gone"], 2, "not in this machine's Nix store"),
        (["--device", "web-01=./result"], 2, "no store path"),
        (["path:flake", "--device", f"web-01={system}"], 2, "not both"),
        (["path:flake#web-01", "--name", "Not A Name"], 2, "no release name"),
        (["-f", "missing.json"], 2, "No such file"),
    ):
        done = run(bench, "deploy", *argv, code=code)
        assert why in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    assert (before, here) == (entries(bench), device.current_system)
