"""Hold a made-up fleet that another process runs, until this one is ended (for test_sim_process).

Usage: fleet_holder.py. Prints the fleet's folder and the number of its process; with a line on standard input it ends.
"""

import multiprocessing
import sys

import msgspec

from nixfleet.sim.process import Plan, Served
from nixfleet.sim.scenario import Scenario


def main() -> None:
    """Hold one device's fleet."""
    scenario = msgspec.convert({"name": "acme", "group": [{"name": "web-{n}", "count": 1}]}, Scenario)
    served = Served(Plan(scenario=scenario, seed=1, speed=10, begun_s=1_764_000_000))
    try:
        served.wait()
        (child,) = multiprocessing.active_children()
        print(served.told.folder, child.pid, flush=True)
        sys.stdin.readline()
    finally:
        served.close()


if __name__ == "__main__":
    main()
