"""``nixfleet agent join`` and ``rekey`` as commands, against a real coordinator over loopback."""

import asyncio
import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.factories import key
from tests.server.harness import Rig, rig

from nixfleet.model.device import JoinToken
from nixfleet.model.statements import Device
from nixfleet.model.wire import Submission
from nixfleet.trust import token as tokens
from nixfleet.trust.statements import encode, namespace_of


class Machine:
    """A folder with agent.toml and state, and the commands on it."""

    def __init__(self, folder: Path, name: str, toml: str = "") -> None:
        folder.mkdir()
        self.folder = folder
        self.state = folder / "state"
        self.config = folder / "agent.toml"
        self.config.write_text(f'name = "{name}"\nstate_dir = "{self.state}"\nvolatile_state = true\n{toml}')

    async def agent(self, *argv: str, given: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run the program to its end."""
        command = [sys.executable, "-m", "nixfleet", "agent", *argv, "--config", str(self.config)]
        return await asyncio.to_thread(
            subprocess.run, command, input=given, capture_output=True, text=True, timeout=120, check=False
        )

    async def status(self) -> dict[str, str]:
        """Ask where the device stands."""
        told: dict[str, str] = json.loads((await self.agent("status", "--json")).stdout)
        return told


async def _token(one: Rig, uses: int = 9) -> str:
    """Make a join token that the coordinator knows."""
    one.fleet.grant("joiner", "enroll", select={"env": ["prod"]}, max_uses=uses)
    async with one.client("admin") as admin:
        await one.send(admin)
    made = JoinToken(
        v=1, urls=(one.server.address,), fleet=one.fleet.fleet, log=one.fleet.log, seed=key("joiner").seed.hex()
    )
    return tokens.make(made)


async def test_a_token_is_read_from_a_file_standard_input_or_the_command_line(tmp_path: Path) -> None:
    """Each joins; the last is warned of, and no output has the secret in it; the agent then runs without a token."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        token = await _token(one)
        (tmp_path / "token").write_text(f"{token}\n")
        for name, word, given in (
            ("web-01", str(tmp_path / "token"), None),
            ("web-02", "-", token),
            ("web-03", token, None),
        ):
            device = Machine(tmp_path / name, name)
            done = await device.agent("join", word, given=given)
            assert (0, True) == (done.returncode, done.stdout.startswith(f"joined as {name}, device ")), done.stderr
            assert token[20:60] not in done.stdout + done.stderr
            assert ("others on this machine can read a command line" in done.stderr) is (word == token)
            assert (await device.status())["key"] in done.stdout
            assert 0 == (await device.agent("run", "--once")).returncode
        assert ["web-01", "web-02", "web-03"] == sorted(view.name for view in await admin.devices())


async def test_what_is_no_token_is_said_and_changes_nothing(tmp_path: Path) -> None:
    """A missing file, another text, none at all: exit 2, and no identity."""
    device = Machine(tmp_path / "web-01", "web-01")
    (tmp_path / "text").write_text("hello")
    for argv, why in (
        (["join", str(tmp_path / "none")], "No such file"),
        (["join", str(tmp_path / "text")], "not a join token"),
        (["join"], "no fleet is pinned: give a token"),
        (["join", "a", "b"], "unrecognized arguments"),
    ):
        done = await device.agent(*argv)
        assert (2, True) == (done.returncode, why in done.stderr), done.stderr
    assert not (device.state / "identity.json").exists()


async def test_both_ends_of_replace_move_a_name_to_the_same_machine_anew(tmp_path: Path) -> None:
    """The device joins anew, its own old name is in the way, an admin moves it: the old id is retired."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        token = await _token(one)
        (tmp_path / "token").write_text(token)
        device = Machine(tmp_path / "web-01", "web-01")
        assert 0 == (await device.agent("join", str(tmp_path / "token"))).returncode
        (before,) = await admin.devices()
        again = await device.agent("join", str(tmp_path / "token"))
        assert (2, True) == (again.returncode, "this device is web-01 in fleet" in again.stderr)
        anew = await device.agent("join", str(tmp_path / "token"), "--replace")
        assert (3, True) == (anew.returncode, "nixfleet enroll web-01 --replace" in anew.stderr), anew.stderr
        (asked,) = await admin.enroll_requests()
        assert asked.device != before.id
        await _replace(one, before.id, asked.device, asked.key)
        assert 0 == (await device.agent("run", "--once")).returncode
        (after,) = await admin.devices()
        assert (asked.device, "web-01") == (after.id, after.name)
        assert "retired" == (await admin.device(before.id)).state


async def _replace(one: Rig, old: str, new: str, public: str) -> None:
    """Do as `nixfleet enroll web-01 --replace` does."""
    async with one.client("admin") as admin:
        payload = await _own_payload(one, old)
        fields: dict[str, Any] = {"by": key("admin").public.fingerprint, "at": int(one.now), "note": None}
        entries = (await admin.entries(0)).entries
        for entry in entries[one.fleet.size :]:
            one.fleet.append_leaf(entry.leaf, entry.payload or b"")
        retired = {**payload, **fields, "base": one.fleet.log, "version": 2, "state": "retired"}
        entered = {**payload, **fields, "base": one.fleet.log, "version": 1, "device": new, "key": public}
        made = [Device(**retired), Device(**entered)]
        signed = [
            Submission(payload=encode(each), signature=key("admin").sign(namespace_of(each), encode(each)))
            for each in made
        ]
        await admin.append(signed)


async def _own_payload(one: Rig, device: str) -> dict[str, Any]:
    """Give the fields of a device's newest statement, as the coordinator replayed it."""
    async with one.client("admin") as admin:
        view = await admin.device(device)
    return {
        "v": 1,
        "fleet": one.fleet.fleet,
        "device": view.id,
        "name": view.name,
        "key": view.key,
        "tags": view.tags,
        "state": "active",
    }


async def test_a_key_is_changed_by_a_command(tmp_path: Path) -> None:
    """It says the new key, which status shows too; unreachable, it is left to the agent; beside an agent, refused."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        token = await _token(one)
        device = Machine(tmp_path / "web-01", "web-01")
        early = await device.agent("rekey")
        assert (2, True) == (early.returncode, "has not joined a fleet yet" in early.stderr)
        await device.agent("join", "-", given=token)
        old = (await device.status())["key"]
        with (device.state / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            beside = await device.agent("rekey")
        assert (2, True) == (beside.returncode, "systemctl stop nixfleet-agent" in beside.stderr)
        done = await device.agent("rekey")
        new = (await device.status())["key"]
        assert (0, f"this device is known by the key {new} now; the old one is worth nothing\n") == (
            done.returncode,
            done.stdout,
        ), done.stderr
        assert old != new
        (view,) = await admin.devices()
        assert 2 == view.version
    away = await device.agent("rekey")
    assert (5, True) == (away.returncode, "the agent changes to it once it is reached" in away.stderr)
    assert new == (await device.status())["key"]
