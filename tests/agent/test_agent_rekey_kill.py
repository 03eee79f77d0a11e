"""A change of keys that is killed at any point of it ends with one new key, in the log and on the device."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.factories import device_id
from tests.server.harness import Rig, rig

from nixfleet.agent import identity as identities
from nixfleet.agent.host import Host
from nixfleet.agent.identity import Identity
from nixfleet.agent.journal import load
from nixfleet.trust.sshsig import SecretKey

DRIVER = Path(__file__).with_name("rekey_kill_driver.py")
DEVICES = 24
"""More than there are points."""
WISH_IS_WRITTEN = 4
"""The point after the new key's path is recorded: after two writes, with a point before and after each."""


def _device(one: Rig, folder: Path) -> None:
    """Enrol a device that has a state folder, a key in it, and an agent.toml."""
    log, state = one.fleet.log, folder / "state"
    state.mkdir(parents=True, mode=0o700)
    secret = SecretKey.generate()
    made = Identity(
        device=device_id(folder.name),
        fleet=one.fleet.fleet,
        pin=log,
        key_file=str(state / "device_key"),
        machine_id=Host().machine_id(),
        key=secret.public.fingerprint,
    )
    (state / "device_key").write_text(secret.to_openssh())
    identities.write(state, made)
    (folder / "agent.toml").write_text(
        f'name = "{folder.name}"\nurls = ["{one.server.address}"]\nfleet = "{one.fleet.fleet}"\n'
        f'checkpoint = "{log.size}:{log.root}"\nstate_dir = "{state}"\nvolatile_state = true\n'
    )
    one.fleet.device(folder.name, key=secret.public.text)


def _identity(folder: Path) -> Identity:
    found = load(folder / "state/identity.json", Identity)
    assert found is not None
    return found


async def _run(*argv: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *argv]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.timeout(900)  # some thirty programs, one after the other
async def test_killed_at_every_point_one_new_key_is_in_force(tmp_path: Path) -> None:
    """Whatever was written or sent by then, the next plain start ends with the log and the device of one mind."""
    points = []
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        folders = [tmp_path / f"web-{number:02}" for number in range(1, DEVICES)]
        for folder in folders:
            _device(one, folder)
        await one.send(admin)
        for number, folder in enumerate(folders, start=1):
            before = _identity(folder)
            config = ("--config", str(folder / "agent.toml"))
            done = await _run(str(DRIVER), str(number), "rekey", *config)
            killed = done.returncode == -signal.SIGKILL
            assert killed or done.returncode == 0, done.stderr
            points.append(done.stdout if killed else "none")
            again = await _run("-m", "nixfleet", "agent", "run", "--once", *config)
            assert again.returncode == 0, f"{points[-1]}: {again.stderr}"
            after, view = _identity(folder), await admin.device(before.device)
            own = identities.read_key(Host(), after).public
            # Killed before the wish is written down it has the old key as before; from then on the new one, once.
            changed = number >= WISH_IS_WRITTEN
            assert (own.text, changed, "") == (view.key, own.fingerprint != before.key, after.next_key_file), points
            assert view.version == (2 if changed else 1), points
            if not killed:
                break
    assert "none" == points[-1]
    assert {"before the append", "after the append", "before the removal of the old key", "after a sync"} <= set(points)
