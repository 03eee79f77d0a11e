"""The first-light script on the real thing: installed command, ssh-agent, Nix, devices, one of them behind NAT."""

import signal
import subprocess
from contextlib import suppress

from tests.acceptance.bench import Bench, join, spawn, until
from tests.nix.harness import Device


def test_a_signed_update_reaches_real_devices_end_to_end(bench: Bench, devices: dict[str, Device]) -> None:
    """From `init` to `audit verify`: two devices join, update, one of them takes a bad system and goes back."""
    a, b, bad = bench.systems.a, bench.systems.b, bench.systems.bad
    bench.nixfleet("init", "acme", "--url", bench.url, "--key", bench.key)
    # In the background, as a script does: what comes next waits until it answers.
    coordinator = spawn(bench.admin, "nixfleet", "coordinator", "--listen", bench.listen)

    token = bench.nixfleet("enroll", "token", "--tag", "env=prod", "--uses", "2", "--days", "1").stdout
    assert len(token.split()) == 1, "the token alone on standard output"
    for device in devices.values():
        join(device, token)

    def both_online() -> bool:
        found = bench.read("/v1/devices")["devices"]
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
