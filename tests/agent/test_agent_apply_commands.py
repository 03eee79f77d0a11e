"""``nixfleet agent apply`` as a command, and who else wants the device meanwhile."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from tests.agent.test_agent_commands import Machine


def _pinned(folder: Path) -> Machine:
    """Make a machine with a key, pinned to a fleet that it never met."""
    machine = Machine(
        folder, "web-01", f'fleet = "{"f" * 64}"\ncheckpoint = "1:{"0" * 64}"\nkey_file = "{folder}/key"\n'
    )
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/key"], check=True)
    return machine


def _service(machine: Machine) -> "subprocess.Popen[str]":
    """Start an agent as systemd does."""
    argv = [sys.executable, "-m", "nixfleet", "agent", "run", "--once", "--config", str(machine.config)]
    env = {**os.environ, "INVOCATION_ID": "1" * 32}
    return subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True)


async def test_what_is_no_bundle_is_refused_in_one_line(tmp_path: Path) -> None:
    """Exit 2 for a file that is none or is not there; nothing is written beside it."""
    machine = _pinned(tmp_path / "web-01")
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "x.bundle").write_bytes(b"\x7fELF" * 1_000)
    for name, why in (("x.bundle", "is no bundle; 'nixfleet bundle export' makes one"), ("none", "No such file")):
        done = await machine.agent("apply", str(stick / name))
        [line] = [line for line in done.stderr.splitlines() if line.startswith("nixfleet agent:")]
        assert (2, True) == (done.returncode, why in line), done.stderr
    assert [one.name for one in stick.iterdir()] == ["x.bundle"]


async def test_one_that_root_started_is_not_disturbed(tmp_path: Path) -> None:
    """While another agent holds the device, `apply` says what to stop; a service waits for its turn instead."""
    machine = _pinned(tmp_path / "web-01")
    machine.state.mkdir(mode=0o700)
    with (machine.state / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = await machine.agent("apply", str(tmp_path / "x.bundle"))
        assert (2, True) == (done.returncode, "stop it first" in done.stderr)
        service = _service(machine)
        assert service.stderr is not None
        assert "this one waits until it has ended" in service.stderr.readline()
        assert service.poll() is None
        fcntl.flock(held, fcntl.LOCK_UN)
        said = service.stderr.read()
        service.stderr.close()
    assert (2, True) == (service.wait(60), "no coordinator is known" in said)
