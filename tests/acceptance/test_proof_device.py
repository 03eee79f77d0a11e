"""Proof that a device in bad circumstances says so and ends right, once: a clock that starts in 1970, a full disk."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.bench import QUICK, Bench, said, state_of, until, update_of
from tests.nix.harness import Device, closing
from tests.smalldisk import fill, small_disk

pytestmark = pytest.mark.nix

STORE_BYTES = 192 << 20
DAY_S = 86_400

# A clock that is off, for the agent alone: what faketime does, without its library.
AGENT_IN_1970 = f"""
import sys, time
true, off = time.time, {DAY_S} - time.time()
time.time = lambda: true() + off
from nixfleet.__main__ import main
sys.exit(main())
"""


@pytest.fixture
def small(bench: Bench, tmp_path: Path) -> Iterator[Device]:
    """Boot a device with a small disk for /nix, and start its agent on the second of January 1970."""
    device = Device(tmp_path / "web-01", "web-01", netns=bench.lab.device_netns)
    with small_disk(device.path("/nix"), STORE_BYTES), closing(device):
        device.boot(bench.systems, bench.systems.build(version=9))
        bench.open_fleet()
        device.write("/etc/nixfleet/token", bench.token(), 0o600)
        # Its small disk is one in memory.
        settings = f'name = "web-01"\ntoken_file = "/etc/nixfleet/token"\nvolatile_state = true\n{QUICK}'
        device.write("/etc/nixfleet/agent.toml", settings)
        with (device.folder / "agent.log").open("ab") as log:
            device.popen([sys.executable, "-c", AGENT_IN_1970, "agent"], stdout=log, stderr=log)
        until("web-01 has reported", lambda: reported(bench))
        yield device


def reported(bench: Bench) -> bool:
    """Tell whether the one device is a member that has reported."""
    return any(one["reported_at"] for one in bench.read("/v1/devices")["devices"])


def test_a_device_in_1970_with_a_full_disk_waits_for_room_and_updates_once(bench: Bench, small: Device) -> None:
    """It joins and reports although its clock is decades off; its store full, it says so and waits for room."""
    a, before = bench.systems.a, state_of(small)
    ballast = fill(small.path("/nix"))
    bench.release("a", a, "web-01")
    rollout = bench.rollout("a")
    until("it is short of space", lambda: update_of(small).get("cause") == "space")
    until("it reports that", lambda: "/nix/store is full" in bench.device("web-01")["reason"])
    assert (before, []) == (state_of(small), small.switches())
    assert [] == bench.outcomes("web-01")
    ballast.unlink()
    bench.watch(rollout)
    assert (a, a, a) == state_of(small)
    assert [("switch", a)] == small.switches()
    assert [("confirmed", a)] == bench.outcomes("web-01")
    assert "Traceback" not in said(small)
    assert abs(time.time() - bench.device("web-01")["reported_at"]) < DAY_S
