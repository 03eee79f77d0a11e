"""A thousand real agents in one process, with the coordinator: whether they keep up, and what that costs.

In a process of its own, which is given what it is to measure; it must keep up with the clock at speed 1.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec

from bench.rows import Row
from nixfleet.sim.fleet import Fleet
from nixfleet.sim.scenario import Scenario, checked

DEVICES = 1_000
WATCHED_S = 30.0
UP_S = 3_000.0
EVERY_S = 0.05
MS = 1_000


def measure() -> Iterator[Row]:
    """Measure a fleet that follows its log, and one that brings an update to fifty devices at a time."""
    argv = [sys.executable, "-m", "bench.sim", str(DEVICES)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    name = f"simulation of {DEVICES:,} agents"
    yield Row(what=f"{name}: processor time until all are connected, in all", unit="s", samples=[told["up_cpu_s"]])
    for phase, what in (("idle", "connected"), ("busy", "50 at a time updating")):
        lag_ms = [one * MS for one in told[phase]["lag_s"]]
        yield Row(
            what=f"{name}: how late their event loop wakes, {what}",
            unit="ms",
            samples=lag_ms,
            budget="p99 ≤ 250 ms",
            holds=sorted(lag_ms)[int(0.99 * len(lag_ms))] <= 250,
        )
        yield Row(
            what=f"{name}: processor time in a second, with the coordinator, {what}",
            unit="s",
            samples=[told[phase]["cpu_s"]],
            budget="≤ 1 s: one core",
            holds=told[phase]["cpu_s"] <= 1,
        )


def scenario(devices: int) -> Scenario:
    """Make a fleet of one kind, with a rollout to come."""
    tree = {
        "name": "bench",
        "group": [{"name": "dev-{n}", "count": devices, "mbyte_s": [5, 10]}],
        "release": [{"name": "r1", "version": "25.11.1", "mib": 50}],
    }
    return checked(msgspec.convert(tree, Scenario), "bench")


def watched(fleet: Fleet) -> dict[str, object]:
    """Watch the devices' loop for a while: how late it wakes, and what the whole process costs in a second."""
    cpu, begun, lag_s = time.process_time(), time.monotonic(), list[float]()
    while time.monotonic() - begun < WATCHED_S:
        asked = time.monotonic()
        fleet.look()
        lag_s.append(time.monotonic() - asked)
        time.sleep(EVERY_S)
    return {"lag_s": lag_s, "cpu_s": (time.process_time() - cpu) / (time.monotonic() - begun)}


def main(devices: int) -> None:
    """Run the fleet, and write what was measured."""
    from nixfleet.rollout.asking import RolloutWishes

    cpu = time.process_time()
    with Fleet(scenario(devices)) as fleet:
        fleet.until(lambda: fleet.all_on, UP_S)
        up_cpu_s = time.process_time() - cpu
        idle = watched(fleet)
        wishes = RolloutWishes(all_at_once=True, max_in_flight=50)
        fleet.act(lambda admin: admin.rollout("r1", wishes))
        busy = watched(fleet)
        assert fleet.faults == [], fleet.faults
    print(json.dumps({"up_cpu_s": up_cpu_s, "idle": idle, "busy": busy}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
