"""An agent killed by SIGKILL at points all over an update ends in the same outcome, once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nixfleet.model.device import Phase

DRIVER = Path(__file__).with_name("kill_driver.py")


@pytest.mark.parametrize(
    ("code", "end", "after"),
    [
        (0, ("confirmed", ["new"], ["new", "new"], 1), {Phase.CONFIRMED}),
        (2, ("reverted", ["new", "old"], ["old", "old"], 0), {Phase.REVERTING, Phase.REVERTED}),
    ],
)
def test_killed_for_real_the_end_is_the_same_and_comes_once(
    tmp_path: Path, code: int, end: tuple[str, list[str], list[str], int], after: set[Phase]
) -> None:
    """Before and after writes, commands, guard and switch: one outcome, each switch once."""
    argv = (sys.executable, str(DRIVER), str(tmp_path), str(code))
    done = subprocess.run(argv, capture_output=True, timeout=280, check=False)
    tries = [json.loads(line) for line in done.stdout.splitlines()]
    assert (0, None) == (done.returncode, tries[-1]["point"]), done.stderr.decode()
    outcome, switches, runs, confirmed = end
    expected = {"outcomes": [outcome], "switches": switches, "runs": runs, "confirmed": confirmed}
    for one in tries:
        assert {**one, **expected} == one
    points = {one["point"].partition(" ")[2] for one in tries[:-1]}
    assert {"writing the journal", "realise", "set_profile", "starting the guard", "starting the switch"} <= points
    phases = {None if one["phase"] is None else Phase(one["phase"]) for one in tries[:-1]}
    assert {None, Phase.FETCHING, Phase.STAGED, Phase.ACTIVATING, *after} <= phases
