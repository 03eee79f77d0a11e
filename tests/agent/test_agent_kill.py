"""An agent killed by SIGKILL at any write of its journal ends in the same outcome, once."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent.made_up import Machine

DRIVER = Path(__file__).with_name("kill_driver.py")
MOST_WRITES = 40


def run(root: Path, path: str, number: int, when: str) -> int:
    """Run the driver once; give its exit code."""
    argv = (sys.executable, str(DRIVER), str(root), path, str(number), when)
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr.decode()
    return done.returncode


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("code", "outcome"), [(0, "confirmed"), (2, "reverted")])
def test_killed_at_every_write_the_end_is_the_same_and_comes_once(
    tmp_path: Path, when: str, code: int, outcome: str
) -> None:
    """For each write of the journal: die there, start again, and find one outcome and one activation."""
    number = 0
    while True:
        number += 1
        machine = Machine(tmp_path / str(number))
        old, new = machine.system("old"), machine.system("new", at="cache", code=code, before="sleep 0.05")
        machine.boot(old)
        first = run(machine.root, new, number, when)
        if first == -signal.SIGKILL:
            assert run(machine.root, new, 0, when) == 0
        outcomes = {tuple(json.loads(line)) for line in (machine.root / "outcomes").read_text().splitlines()}
        assert {(machine.offer(new).rollout, 1, outcome)} == outcomes
        switches = machine.switches()
        assert switches.count(f"switch {new}") == 1
        assert machine.host.current_system() == (new if code == 0 else old)
        assert machine.host.profile_system() == machine.host.current_system()
        if first == 0:
            break
        assert number < MOST_WRITES
    assert number > 8
