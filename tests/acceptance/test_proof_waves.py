"""Proof of a whole rollout on real Nix: a canary that fails, the fix in three waves, each act on record for ever."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.bench import Bench, join, state_of, until
from tests.acceptance.front import Front
from tests.acceptance.transcript import Told, began_in, ended, transcript
from tests.nix.harness import Device, Systems, closing

from nixfleet.model.device import Outcome

pytestmark = pytest.mark.nix

NAMES = tuple(f"kiosk-{number}" for number in range(1, 6))
SOAK_S = 2
WAVES = ("--wave", "1", "--wave", "2", "--wave", "100%", "--soak", f"{SOAK_S}s")
CHECK = """[checks]
settle_s = 0
[[checks.command]]
argv = ["/run/current-system/sw/bin/app"]
retries = 0
"""


@pytest.fixture
def ailing(systems: Systems) -> str:
    """Build a system whose app does not run, before the admin's machine is made."""
    return systems.build(version=13, ailing=True)


@pytest.fixture
def kiosks(bench: Bench, front: Front, tmp_path: Path) -> Iterator[dict[str, Device]]:
    """Give five members of a fleet, all behind one router; each runs its app after an update, to see whether it can."""
    bench.open_fleet(front.url)
    token = bench.token("--uses", str(len(NAMES)))
    with ExitStack() as stack:
        devices = {}
        for name in NAMES:
            device = Device(tmp_path / name, name, netns=bench.lab.device_netns)
            stack.enter_context(closing(device.boot(bench.systems, bench.systems.build(version=9))))
            join(device, token, CHECK)
            devices[name] = device
        until("all are members", lambda: members(bench) == list(NAMES))
        yield devices


def members(bench: Bench) -> list[str]:
    """Name the members that are online and have reported."""
    return [one["name"] for one in bench.read("/v1/devices")["devices"] if one["online"] and one["reported_at"]]


def published(bench: Bench, who: str, name: str, system: str) -> None:
    """Let somebody push a system and publish it for all five."""
    lines = [word for one in NAMES for word in ("--device", f"{one}={system}")]
    bench.nixfleet("--key", who, "cache", "push", system)
    bench.nixfleet("--key", who, "release", "create", name, *lines)


def shown(bench: Bench, rollout: str) -> Any:
    """Read a rollout and its members."""
    return bench.read(f"/v1/rollouts/{rollout}")


def waves(bench: Bench, rollout: str) -> list[list[str]]:
    """Name the members of each wave."""
    found = shown(bench, rollout)["members"]
    return [[one["name"] for one in found if one["wave"] == number] for number in (1, 2, 3)]


def explained(bench: Bench, rollout: str) -> tuple[str, dict[str, str]]:
    """Give what `rollout explain` says of a rollout, and of each of its devices."""
    told = bench.json("rollout", "explain", rollout)
    return told["rollout"], told["devices"]


def acts(bench: Bench) -> list[tuple[str, str]]:
    """List who signed what, the devices' joining aside, as `audit list` has it: all of it is valid."""
    entries = bench.json("audit", "list")["entries"]
    assert {"valid"} == {one["verdict"] for one in entries}
    return [(one["principal"], one["what"].split(" rollout ")[0]) for one in entries if one["type"] != "device"]


def exported(bench: Bench, file: Path) -> dict[str, tuple[str, ...]]:
    """Export the audit and verify the file: by device what it runs, what came of which rollout, who signed that."""
    bench.nixfleet("audit", "export", "--out", str(file))
    found = bench.json("audit", "verify", str(file))["outcomes"]
    return {one["name"]: (one["system"], one["rollout"], one["outcome"], one["by"], *one["approved"]) for one in found}


def test_a_canary_fails_and_the_fix_goes_out_in_three_waves(
    ailing: str, bench: Bench, front: Front, kiosks: dict[str, Device], tmp_path: Path
) -> None:
    """Its check fails, it goes back, the rollout halts and is paused; a new release reaches all five, on record."""
    base, good = bench.systems.build(version=9), bench.systems.b
    ci, ops = bench.person("ci"), bench.person("ops")
    bench.nixfleet("access", "grant", "ci", "--to", ci, "--action", "release")
    bench.nixfleet("access", "grant", "ops", "--to", ops, "--action", "deploy", "--action", "control")

    published(bench, ci, "app-13", ailing)
    halted = bench.nixfleet("--key", ops, "rollout", "start", "app-13", *WAVES, "--watch", check=False)
    why = "/run/current-system/sw/bin/app ended with 1: app 13"
    [bad] = [one["id"] for one in bench.read("/v1/rollouts")["rollouts"]]
    [[canary], second, third] = waves(bench, bad)
    assert (6, 2, 2) == (halted.returncode, len(second), len(third)), halted.stderr
    assert f"{canary}: reverted: {why}" in halted.stderr.splitlines()
    of_rollout, of_devices = explained(bench, bad)
    assert "halted: 1 of 5 failed, it stops at 1" in of_rollout
    assert why in of_devices.pop(canary)
    assert all("halted: 1 of 5 failed, it stops at 1" in of_devices.pop(name) for name in (*second, *third))
    assert ("reverted", "health", why) == tuple(bench.device(canary)[name] for name in ("outcome", "cause", "reason"))
    switched = [("switch", ailing), ("switch", base)]
    for name, device in kiosks.items():
        assert ((base, base, base), switched if name == canary else []) == (state_of(device), device.switches())
    before = tmp_path / "before.jsonl"
    gone_back = {canary: (base, bad, "reverted", "ops")}
    assert {**dict.fromkeys(NAMES, (base, "", "", "")), **gone_back} == exported(bench, before)

    bench.nixfleet("--key", ops, "rollout", "pause", bad, "-m", "app-13 does not start")
    published(bench, ci, "app-14", good)
    for device in kiosks.values():
        device.steer("hold")
    fix = bench.nixfleet("--key", ops, "rollout", "start", "app-14", *WAVES).stdout.strip()
    [[first], second, third] = waves(bench, fix)
    until("the first one switches", lambda: ("switch", good) in kiosks[first].switches())
    bench.nixfleet("--key", ops, "rollout", "pause", fix)
    for device in kiosks.values():
        device.unsteer("hold")
    until("it confirms", lambda: ("confirmed", good) in bench.outcomes(first))
    of_rollout, of_devices = explained(bench, fix)
    assert "paused by a signed act" in of_rollout
    assert "confirmed" in of_devices.pop(first)
    assert all("paused by a signed act" in of_devices.pop(name) for name in (*second, *third))
    assert not [name for name in (*second, *third) if ("switch", good) in kiosks[name].switches()]
    bench.nixfleet("--key", ops, "rollout", "resume", fix)
    bench.watch(fix)
    for name, device in kiosks.items():
        went = [*(switched if name == canary else []), ("switch", good)]
        assert ((good, good, good), went) == (state_of(device), device.switches()), name
    listed = [
        (one["release_name"], one["state"], one["confirmed"]) for one in bench.json("rollout", "list")["rollouts"]
    ]
    assert [("app-14", "finished", 5), ("app-13", "superseded", 0)] == listed
    in_their_waves(transcript(bench, front, fix), [[first], second, third])

    signed = [("ci", "publish release app-13 for 5 devices"), ("ops", "roll out app-13 to its 5 devices in 3 waves")]
    signed += [("ops", "pause"), ("ci", "publish release app-14 for 5 devices")]
    signed += [("ops", "roll out app-14 to its 5 devices in 3 waves"), ("ops", "pause"), ("ops", "resume")]
    assert signed == acts(bench)[4:]
    assert "5 devices signed for this log" in bench.nixfleet("audit", "verify").stdout
    after = tmp_path / "after.jsonl"
    assert dict.fromkeys(NAMES, (good, fix, "confirmed", "ops")) == exported(bench, after)
    bench.kill()
    assert "it extends the " in bench.nixfleet("audit", "verify", str(after), "--against", str(before)).stdout


def in_their_waves(told: list[Told], waves: list[list[str]]) -> None:
    """Check by what devices signed that nobody was at work before the wave ahead had confirmed, and soaked."""
    for earlier, later in pairwise(waves):
        last = max((ended(told, name, Outcome.CONFIRMED) for name in earlier), key=lambda one: one.place)
        for name in later:
            began = began_in(told, name)
            assert last.place < began.place
            assert SOAK_S <= began.at - last.at
