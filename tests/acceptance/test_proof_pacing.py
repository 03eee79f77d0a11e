"""Proof that a rollout goes no faster than was signed: waves in order, soaks, pauses, held devices, cancelling."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.bench import QUICK, Bench, join, state_of, until
from tests.nix.harness import Device, closing

pytestmark = pytest.mark.nix

NAMES = ("web-01", "web-02", "web-03")


@pytest.fixture
def three(bench: Bench, tmp_path: Path) -> Iterator[dict[str, Device]]:
    """Give three members, one behind address translation, and releases of A and B for all of them."""
    bench.open_fleet()
    token = bench.token("--uses", "3")
    with ExitStack() as stack:
        devices = {}
        for name in NAMES:
            device = Device(tmp_path / name, name, netns=bench.lab.device_netns if name == NAMES[0] else None)
            stack.enter_context(closing(device.boot(bench.systems, bench.systems.build(version=9))))
            join(device, token, QUICK)
            devices[name] = device
        bench.nixfleet("cache", "push", bench.systems.a, bench.systems.b)
        until("all are members", lambda: reported(bench) == list(NAMES))
        for name in ("a", "b"):
            system = getattr(bench.systems, name)
            bench.nixfleet("release", "create", name, *(w for one in NAMES for w in ("--device", f"{one}={system}")))
        yield devices


def reported(bench: Bench) -> list[str]:
    """Name the members that are online and have reported."""
    return [one["name"] for one in bench.read("/v1/devices")["devices"] if one["online"] and one["reported_at"]]


def explained(bench: Bench, rollout: str) -> str:
    """Give what `rollout explain` says, all of it."""
    return bench.nixfleet("rollout", "explain", rollout).stdout


def shown(bench: Bench, rollout: str) -> Any:
    """Read a rollout and its members."""
    return bench.read(f"/v1/rollouts/{rollout}")


def waits_of_wave(bench: Bench, rollout: str, wave: int) -> str:
    """Give the sentence of what a wave waits for."""
    return str(shown(bench, rollout)["rollout"]["waves"][wave - 1]["waits"])


def phase(bench: Bench, rollout: str, name: str) -> str:
    """Give a member's phase."""
    return str(next(one["phase"] for one in shown(bench, rollout)["members"] if one["name"] == name))


def begun(devices: dict[str, Device]) -> set[str]:
    """Name the devices whose switch has begun."""
    return {name for name, device in devices.items() if device.switches()}


def test_three_waves_open_one_after_the_other(bench: Bench, three: dict[str, Device]) -> None:
    """1, 1, 100% with a soak: each wave waits for the one before, in sentences; a pause holds the next one back."""
    for device in three.values():
        device.steer("hold")
    waves = ("--wave", "1", "--wave", "1", "--wave", "100%", "--soak", "3s", "--max-in-flight", "3")
    rollout = bench.rollout("a", *waves)
    members = shown(bench, rollout)["members"]
    first, second, third = (one["name"] for one in sorted(members, key=lambda one: one["wave"]))
    until("the first one switches", lambda: begun(three) == {first})
    told = explained(bench, rollout)
    assert "wave 2 of 3 waits: wave 1 is not done, 0 of 1 confirmed, 1 in flight" in told
    assert "wave 3 of 3 waits: wave 2 is not open yet" in told

    bench.nixfleet("rollout", "pause", rollout)
    three[first].unsteer("hold")
    until("it confirms", lambda: bench.outcomes(first))
    assert "the rollout waits: paused by a signed act" in explained(bench, rollout)
    assert {first} == begun(three)

    bench.nixfleet("rollout", "resume", rollout)
    until("it soaks", lambda: waits_of_wave(bench, rollout, 2).startswith("wave 2 of 3 waits: wave 1 soaks for "))
    assert {first} == begun(three)
    until("the second one switches", lambda: begun(three) == {first, second})
    assert "wave 3 of 3 waits: wave 2 is not done" in explained(bench, rollout)
    three[second].unsteer("hold")
    three[third].unsteer("hold")
    bench.watch(rollout)
    for device in three.values():
        assert [("switch", bench.systems.a)] == device.switches()
    opened = [wave["opened_at"] for wave in shown(bench, rollout)["rollout"]["waves"]]
    assert opened == sorted(opened)
    assert opened[1] - opened[0] >= 3
    assert opened[2] - opened[1] >= 3


def test_held_devices_places_in_flight_and_a_cancelled_rollout_are_kept(bench: Bench, three: dict[str, Device]) -> None:
    """A held device waits and says until when; one at a time is one at a time; cancelled, nobody else begins."""
    held = three["web-01"]
    until_day = datetime.now(UTC) + timedelta(days=2)
    bench.nixfleet("device", "hold", "web-01", "--until", f"{until_day:%Y-%m-%dT%H:%M}+00:00")
    for device in three.values():
        device.steer("hold")
    rollout = bench.rollout("a", "--wave", "100%", "--soak", "0s", "--max-in-flight", "1")
    until("one begins", lambda: len(begun(three)) == 1)
    [first] = begun(three)
    [other] = set(three) - {first, "web-01"}
    until("it tells its phase", lambda: phase(bench, rollout, first) == "activating")
    told = explained(bench, rollout)
    assert f"web-01 waits: held until {until_day:%Y-%m-%d %H:%M} UTC" in told
    assert f"{other}: wave 1 of 1 waits: no free place, 1 of 1 in flight" in told
    three[first].unsteer("hold")
    until("the other begins", lambda: begun(three) == {first, other})
    assert [("confirmed", bench.systems.a)] == bench.outcomes(first)
    three[other].unsteer("hold")
    until("it confirms", lambda: bench.outcomes(other))

    before = state_of(held)
    bench.nixfleet("rollout", "cancel", rollout, "--yes")
    assert "cancelled" == bench.json("rollout", "show", rollout)["rollout"]["state"]
    pair = [word for name in (first, other) for word in ("--device", f"{name}={bench.systems.b}")]
    bench.nixfleet("release", "create", "pair", *pair)
    later = bench.rollout("pair", "--wave", "1", "--wave", "100%", "--soak", "1h")
    until("the first wave is through", lambda: "soaks for" in waits_of_wave(bench, later, 2))
    bench.nixfleet("rollout", "cancel", later, "--yes")
    until("it is cancelled", lambda: shown(bench, later)["rollout"]["state"] == "cancelled")
    switched = sorted(device.switches().count(("switch", bench.systems.b)) for device in three.values())
    assert [0, 0, 1] == switched
    assert before == state_of(held)
