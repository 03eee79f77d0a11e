"""``nixfleet agent check`` as a command: what an update would have to pass, run now, with a coordinator or without."""

import json
import sys
from pathlib import Path

from tests.agent.test_agent_commands import Machine, _token
from tests.server.harness import rig

CHECKS = """
[[checks.command]]
argv = ["{python}", "-c", "raise SystemExit({code})"]
retries = 0
[[checks.tcp]]
host = "127.0.0.1"
port = {port}
retries = 0
"""


async def test_check_runs_the_devices_own_checks_and_asks_the_coordinator(tmp_path: Path) -> None:
    """All well: exit 0, a line for each; a failed check: 1, and what failed; nobody there: 5; the same with --json."""
    async with rig(tmp_path / "data") as one:
        token = await _token(one)
        port = int(one.server.address.rpartition(":")[2])
        toml = CHECKS.format(python=sys.executable, code=0, port=port)
        device = Machine(tmp_path / "web-01", "web-01", toml)
        assert 0 == (await device.agent("join", "-", given=token)).returncode
        well = await device.agent("check")
        assert 0 == well.returncode, well.stdout + well.stderr
        first, tcp, command, contact = well.stdout.splitlines()
        assert first.startswith("ok: settings, identity, log, Nix 2.")
        assert command.startswith(f"ok: command {sys.executable} -c raise SystemExit(0)")
        assert (f"ok: tcp 127.0.0.1:{port}", f"ok: contact, {one.server.address}") == (tcp, contact)
        text = device.config.read_text()
        device.config.write_text(text.replace("SystemExit(0)", "SystemExit(7)"))
        ill = await device.agent("check", "--json")
        told = {each["check"].split()[0]: each for each in json.loads(ill.stdout)["checks"]}
        assert (1, "wrong", f"{sys.executable} ended with 7") == (
            ill.returncode,
            told["command"]["verdict"],
            told["command"]["text"],
        )
        assert ("ok", "ok") == (told["tcp"]["verdict"], told["contact"]["verdict"])
        device.config.write_text(text)
        other = await device.agent("check", "--unknown")
        assert (2, "") == (other.returncode, other.stdout)
    device.config.write_text(text.partition("[[checks")[0])
    alone = await device.agent("check")
    assert (5, True) == (alone.returncode, alone.stdout.splitlines()[-1].startswith("wrong: contact, ")), alone.stdout


async def test_check_wants_the_passwords_of_caches_to_be_a_secret(tmp_path: Path) -> None:
    """A file that others may read, or that is not there, is one line that says what to do."""
    file = tmp_path / "netrc"
    device = Machine(tmp_path / "web-01", "web-01", f'fleet = "{"ab" * 32}"\ncheckpoint = "1:{"cd" * 32}"\n')
    device.config.write_text(f'{device.config.read_text()}[fetch]\nnetrc_file = "{file}"\n')
    gone = await device.agent("check")
    assert (2, True) == (gone.returncode, f"{file}: No such file or directory" in gone.stderr)
    file.write_text("machine a login b password c\n")
    file.chmod(0o644)
    loose = await device.agent("check")
    assert (2, True) == (loose.returncode, f"run 'chmod 600 {file}'" in loose.stderr)
    file.chmod(0o600)
    assert 0 == (await device.agent("check")).returncode
