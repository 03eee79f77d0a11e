"""Proof that a rule of the root holds on the devices: what needs a second person begins only once that one signs."""

from pathlib import Path

import pytest
from tests.acceptance.bench import QUICK, Bench, join, state_of, until, waits_of
from tests.nix.harness import Device

pytestmark = pytest.mark.nix

RULE = "env=prod: deploy,rollback approvals=1"
MISSING = "1 more approval is needed"


def test_devices_under_a_rule_wait_for_a_second_person_and_say_so(
    bench: Bench, devices: dict[str, Device], tmp_path: Path
) -> None:
    """Signed by dora alone it waits on both devices, with the reason; only carol's signature lets them go."""
    a, base = bench.systems.a, bench.systems.build(version=9)
    bench.open_fleet()
    bob, carol, dora, eve = (bench.person(name) for name in ("bob", "carol", "dora", "eve"))
    bench.nixfleet("access", "grant", "carol", "--to", carol, "--action", "approve", "--on", "env=prod")
    bench.nixfleet("access", "grant", "eve", "--to", eve, "--action", "approve", "--on", "env=test")
    bench.nixfleet("access", "grant", "dora", "--to", dora, "--action", "release", "--action", "deploy")
    token = bench.token("--uses", "2")
    root = ("access", "root", "update", "--add-principal", f"bob={bob}", "--threshold", "2", "--rule", RULE, "--yes")
    bench.nixfleet(*root)
    bench.nixfleet("--key", bob, "access", "root", "sign", "--yes")
    for device in devices.values():
        join(device, token, QUICK)
    until("both have reported", lambda: [one["reported_at"] > 0 for one in members(bench)] == [True, True])

    bench.nixfleet("--key", dora, "cache", "push", a)
    lines = [word for name in devices for word in ("--device", f"{name}={a}")]
    bench.nixfleet("--key", dora, "release", "create", "a", *lines)
    rollout = bench.nixfleet("--key", dora, "rollout", "start", "a", "--all-at-once").stdout.strip()
    until("both note why", lambda: all(MISSING in waits_of(device) for device in devices.values()))
    until("both report why", lambda: all(MISSING in bench.device(name)["reason"] for name in devices))
    assert MISSING in bench.nixfleet("rollout", "explain", rollout).stdout
    for who, why in ((dora, "nobody approves what is their own"), (eve, "env=test")):
        done = bench.nixfleet("--key", who, "approve", rollout, "--yes", check=False)
        assert (3, True) == (done.returncode, why in done.stderr), done.stderr
    for device in devices.values():
        assert ((base, base, base), []) == (state_of(device), device.switches())

    bench.nixfleet("--key", carol, "approve", rollout, "--yes")
    bench.watch(rollout)
    for device in devices.values():
        assert ((a, a, a), [("switch", a)]) == (state_of(device), device.switches())
    bench.nixfleet("audit", "export", "--out", str(tmp_path / "audit.jsonl"))
    told = bench.json("audit", "verify", str(tmp_path / "audit.jsonl"))["outcomes"]
    assert [("confirmed", a, "dora", ["carol"])] * 2 == [
        (one["outcome"], one["system"], one["by"], one["approved"]) for one in told
    ]


def members(bench: Bench) -> list[dict[str, int]]:
    """List what the coordinator knows of the devices."""
    found: list[dict[str, int]] = bench.read("/v1/devices")["devices"]
    return found
