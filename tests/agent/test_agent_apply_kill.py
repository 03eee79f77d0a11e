"""`nixfleet agent apply` killed by SIGKILL: applied again, or left to the agent, it ends the same, once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from nixfleet.model.device import Phase

DRIVER = Path(__file__).with_name("apply_kill_driver.py")


def _tries(folder: Path, then: str) -> list[dict[str, Any]]:
    argv = (sys.executable, str(DRIVER), str(folder), then)
    done = subprocess.run(argv, capture_output=True, timeout=280, check=False)
    tries = [json.loads(line) for line in done.stdout.splitlines()]
    assert (0, None) == (done.returncode, tries[-1]["point"]), done.stderr.decode()
    return tries


def test_killed_and_applied_again_it_ends_the_same_once(tmp_path: Path) -> None:
    """At every point: one switch, one outcome in the receipt and still untold to a coordinator, nothing left over."""
    tries = _tries(tmp_path, "apply")
    expected = {"told": ["confirmed"], "untold": ["confirmed"], "switches": 1, "runs": True, "left": False}
    for one in tries:
        assert {**one, **expected} == one
    phases = {None if one["phase"] is None else Phase(one["phase"]) for one in tries[:-1]}
    assert {None, Phase.FETCHING, Phase.STAGED, Phase.ACTIVATING, Phase.CONFIRMED} <= phases
    assert {"unpacking", "the receipt", "realise"} <= {one["point"].partition(" ")[2] for one in tries[:-1]}


def test_killed_amid_confirming_the_ordinary_agent_confirms_without_a_coordinator(tmp_path: Path) -> None:
    """Root began it where none is reached: the agent that starts next judges by the device's own checks, too."""
    tries = _tries(tmp_path, "agent")
    for one in tries:
        assert (one["untold"], one["switches"], one["runs"], one["left"]) == (["confirmed"], 1, True, False)
    assert Phase.CONFIRMING in {one["phase"] for one in tries[:-1]}
