"""``nixfleet agent`` as a program: exit codes, one line of error, one instance, a clean end, a small footprint."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tests.factories import Fleet, key

from nixfleet.agent import identity as identities
from nixfleet.agent.host import Host
from nixfleet.agent.journal import Journal
from nixfleet.agent.settings import Settings
from nixfleet.agent.update import Offer, State, Update
from nixfleet.client.mirror import Mirror
from nixfleet.model.device import Attempt, Cause, JoinToken, Outcome, Phase
from nixfleet.model.wire import Entry
from nixfleet.trust import token as tokens

NEVER = ("textual", "litestar", "sqlalchemy", "aiosqlite", "click", "uvicorn", "alembic")


def agent(folder: Path, *argv: str, toml: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program to its end with an agent.toml of its own."""
    file = folder / "agent.toml"
    if toml is not None:
        file.write_text(toml)
    command = [sys.executable, "-m", "nixfleet", "agent", *argv, "--config", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_agent_alone_runs_and_says_what_it_is() -> None:
    """Where the other programs' libraries are not installed, the agent works and the rest is one line, exit code 2."""
    without = f"import sys; sys.modules.update(dict.fromkeys({NEVER!r})); from nixfleet.__main__ import main; "
    run = [sys.executable, "-c", f"{without}sys.exit(main())"]
    for argv in (["agent", "--help"], ["agent", "check", "--help"]):
        subprocess.run([*run, *argv], capture_output=True, timeout=60, check=True)
    for argv in ([], ["device", "list"]):
        done = subprocess.run([*run, *argv], capture_output=True, text=True, timeout=60, check=False)
        (line,) = done.stderr.splitlines()
        assert (2, "", True) == (done.returncode, done.stdout, line.startswith("nixfleet: this is the agent alone"))


def joined(folder: Path, url: str = "http://127.0.0.1:1") -> Settings:
    """Make a state folder that belongs to a fleet."""
    fleet = Fleet()
    settings = Settings(
        fleet=fleet.fleet,
        checkpoint=f"{fleet.size}:{fleet.log.root}",
        key_file=str(folder / "key"),
        state_dir=str(folder / "state"),
        urls=(url,),
    )
    (folder / "key").write_text(key("host").to_openssh())
    (folder / "state").mkdir(mode=0o700)
    identities.establish(Host(), settings)
    (folder / "agent.toml").write_text(
        f'name = "web-01"\nurls = ["{url}"]\nfleet = "{settings.fleet}"\n'
        f'checkpoint = "{settings.checkpoint}"\nkey_file = "{settings.key_file}"\nstate_dir = "{settings.state_dir}"\n'
        "volatile_state = true\n"
    )
    return settings


def test_a_wrong_key_is_one_line_and_exit_2(tmp_path: Path) -> None:
    """No traceback: the file, the key, and what is wrong."""
    done = agent(tmp_path, "check", toml="nmae = 'x'\n")
    assert (2, f"nixfleet agent: {tmp_path}/agent.toml: unknown key nmae\n") == (done.returncode, done.stderr)


def test_without_a_pinned_fleet_nothing_is_made(tmp_path: Path) -> None:
    """A device never trusts on first use, and the state folder stays empty but for the lock."""
    done = agent(tmp_path, "run", toml=f'state_dir = "{tmp_path}/state"\n')
    assert done.returncode == 2
    assert "no fleet is pinned: set token_file, or fleet and checkpoint (and urls), in agent.toml" in done.stderr
    assert [one.name for one in (tmp_path / "state").iterdir()] == ["lock"]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_a_state_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    """Its owner could put another memory in it at any time."""
    joined(tmp_path)
    program = (
        "import os, sys; os.geteuid = lambda: 4711; from nixfleet.agent.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "run", "--once", "--config", str(tmp_path / "agent.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"nixfleet agent: {tmp_path}/state belongs to user {os.getuid()}, ")


@pytest.mark.parametrize("damaged", ["leaves", "meta.json"])
def test_a_damaged_copy_of_the_log_is_put_aside_and_its_state_pinned(tmp_path: Path, damaged: str) -> None:
    """The agent starts all the same; what comes must extend what was verified, where the files still tell it."""
    settings = joined(tmp_path)
    state, fleet = tmp_path / "state", Fleet()
    fleet.device("web-01")
    before, _, _ = identities.establish(Host(), settings)
    mirror = Mirror.open(state / "log", fleet.fleet, pin=before.pin, device=before.device)
    mirror.extend(fleet.checkpoint, 0, [Entry(leaf=leaf, payload=payload) for leaf, payload in fleet.entries])
    place = state / "log" / damaged
    place.write_bytes(place.read_bytes()[:-9] + b"\0" * 9)
    done = agent(tmp_path, "run", "--once")
    assert done.returncode == 5
    assert "ERROR the copy of the log is put aside, and fetched anew: " in done.stderr
    assert (state / "log.damaged" / damaged).read_bytes().endswith(b"\0" * 9)
    after, _, _ = identities.establish(Host(), settings)
    assert after == msgspec.structs.replace(before, pin=before.pin if damaged == "meta.json" else fleet.log)
    assert Mirror.open(state / "log", fleet.fleet, pin=after.pin, device=after.device).size == 0


@pytest.mark.parametrize("damaged", [{"size": 3}, {"root": "0" * 64}])
def test_a_damaged_word_on_what_was_verified_is_not_pinned(tmp_path: Path, damaged: dict[str, object]) -> None:
    """A state that no log ever had would be a fork, or an old backup, until somebody travels to the device."""
    settings = joined(tmp_path)
    fleet, log = Fleet(), tmp_path / "state/log"
    fleet.device("web-01")
    before, _, _ = identities.establish(Host(), settings)
    mirror = Mirror.open(log, fleet.fleet, pin=before.pin, device=before.device)
    mirror.extend(fleet.checkpoint, 0, [Entry(leaf=leaf, payload=payload) for leaf, payload in fleet.entries])
    meta = json.loads((log / "meta.json").read_text())
    (log / "meta.json").write_text(json.dumps({**meta, **damaged}))
    done = agent(tmp_path, "run", "--once")
    assert "ERROR the copy of the log is put aside, and fetched anew: " in done.stderr
    after, _, _ = identities.establish(Host(), settings)
    assert before.pin == after.pin


def test_a_damaged_copy_of_the_log_that_cannot_be_put_aside_is_one_line(tmp_path: Path) -> None:
    """Something else stands where it would go: exit 2, and the copy stays where it is."""
    joined(tmp_path)
    place = tmp_path / "state/log"
    place.mkdir()
    (place / "meta.json").write_text("{")
    (tmp_path / "state/log.damaged").write_text("somebody's")
    done = agent(tmp_path, "run", "--once")
    expected = f"nixfleet agent: {place} cannot be put aside: Not a directory"
    assert (2, expected) == (done.returncode, done.stderr.splitlines()[-1])
    assert (place / "meta.json").read_text() == "{"


def test_a_second_agent_on_the_same_state_refuses(tmp_path: Path) -> None:
    """Two agents would fight over one device."""
    joined(tmp_path)
    with (tmp_path / "state/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = agent(tmp_path, "run", "--once")
    remedy = "stop it first ('systemctl stop nixfleet-agent')"
    expected = f"nixfleet agent: another agent is running on {tmp_path}/state; {remedy}\n"
    assert (2, expected) == (done.returncode, done.stderr)


def test_once_with_nobody_there_is_unreachable(tmp_path: Path) -> None:
    """Exit 5, and one line that names the address."""
    joined(tmp_path)
    done = agent(tmp_path, "run", "--once")
    assert done.returncode == 5
    assert "http://127.0.0.1:1" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_address_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    """It looks like an address, and no port is that high: exit 2, and which one it is."""
    joined(tmp_path, url="http://fleet.example:99999")
    done = agent(tmp_path, "run", "--once")
    expected = "nixfleet agent: 'http://fleet.example:99999' is no coordinator's address; write it like"
    assert (2, True) == (done.returncode, done.stderr.splitlines()[-1].startswith(expected))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """Exit 0, the lock let go, even with no coordinator in reach; a bare `nixfleet agent` runs."""
    joined(tmp_path)
    command = [sys.executable, "-m", "nixfleet", "agent"]
    env = {**os.environ, "NIXFLEET_AGENT_STATE_DIR": str(tmp_path / "state")}
    command += ["run", "--config", str(tmp_path / "agent.toml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("INFO device ")
        process.send_signal(number)
        _, rest = process.communicate(timeout=30)
        assert process.returncode == 0
    assert rest.endswith("INFO ends\n")
    with (tmp_path / "state/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_single_run_that_is_still_joining(tmp_path: Path, number: signal.Signals) -> None:
    """A coordinator that takes the request and never answers holds nobody who was told to end."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(30)
        joined(tmp_path, url=f"http://127.0.0.1:{mute.getsockname()[1]}")
        command = [sys.executable, "-m", "nixfleet", "agent", "run", "--once", "--config", str(tmp_path / "agent.toml")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            asking, _ = mute.accept()
            with asking:
                asking.settimeout(30)
                assert asking.recv(1)
                process.send_signal(number)
                _, rest = process.communicate(timeout=10)
        assert (0, False) == (process.returncode, "Traceback" in rest)


def test_the_key_and_the_token_appear_in_no_output(tmp_path: Path) -> None:
    """Secrets stay in their files."""
    fleet = Fleet()
    seed = key("joiner").seed.hex()
    token = tokens.make(JoinToken(v=1, urls=("http://127.0.0.1:1",), fleet=fleet.fleet, log=fleet.log, seed=seed))
    (tmp_path / "token").write_text(token)
    toml = f'token_file = "{tmp_path}/token"\nstate_dir = "{tmp_path}/state"\nvolatile_state = true\n'
    done = agent(tmp_path, "run", "--once", "--verbose", toml=toml)
    own = (tmp_path / "state/device_key").read_text().splitlines()[1]
    assert done.returncode == 5
    for secret in (token, token[20:60], seed, own):
        assert secret not in done.stdout + done.stderr
    (tmp_path / "token").write_text(token[:60])
    damaged = agent(tmp_path, "run", "--once")
    assert damaged.returncode == 2
    assert token[20:60] not in damaged.stderr


def test_status_tells_state_outcomes_and_what_is_waited_for_without_network(tmp_path: Path) -> None:
    """What a person on the device needs, from the state folder alone, as text and as JSON."""
    settings = joined(tmp_path)
    state = Path(settings.state_dir)
    offer = Offer(rollout="ab" * 32, epoch=0, index=5, run=1, path="/nix/store/x-new")
    update = Update(
        phase=Phase.REVERTED,
        offer=offer,
        boot_id="b",
        give_up_s=9,
        outcome=Outcome.REVERTED,
        cause=Cause.HEALTH,
        reason="app.service failed",
    )
    told = Attempt(rollout=offer.rollout, run=1, phase=Phase.REVERTED, outcome=Outcome.REVERTED, cause=Cause.HEALTH)
    Journal(state).write(State(update=update, outbox=(told,)))
    (state / "waits").write_text("the rollout is paused")
    done = agent(tmp_path, "status")
    assert done.returncode == 0
    assert "phase    reverted /nix/store/x-new (health): app.service failed\n" in done.stdout
    assert "waits    the rollout is paused\n" in done.stdout
    assert f"untold   reverted of rollout {'ab' * 6} run 1\n" in done.stdout
    assert f"key      {key('host').public.fingerprint}\n" in done.stdout, "what an admin compares"
    tree = json.loads(agent(tmp_path, "status", "--json").stdout)
    assert key("host").public.fingerprint == tree["key"]
    assert ("reverted", "the rollout is paused", "app.service failed") == (
        tree["phase"],
        tree["waits"],
        tree["update"]["reason"],
    )


def test_a_reader_that_goes_away_first_is_no_fault(tmp_path: Path) -> None:
    """What is piped into ``head``, and not read any more, ends without a complaint."""
    joined(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "nixfleet", "agent", "status", "--config", str(tmp_path / "agent.toml")]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert (1, "") == (done.returncode, done.stderr)


def test_status_before_joining_says_so(tmp_path: Path) -> None:
    """No state, one line."""
    done = agent(tmp_path, "status", toml=f'state_dir = "{tmp_path}/state"\n')
    assert (2, "") == (done.returncode, done.stdout)
    assert "this device has not joined a fleet yet" in done.stderr


def test_check_passes_on_a_sound_device_and_names_what_is_wrong(tmp_path: Path) -> None:
    """Settings, identity, log and Nix are looked at; a key that is gone is named, and nothing is changed."""
    joined(tmp_path)
    assert agent(tmp_path, "check").stdout.startswith("ok: settings, identity, log, Nix 2.")
    (tmp_path / "key").unlink()
    done = agent(tmp_path, "check")
    expected = f"nixfleet agent: {tmp_path}/key: No such file or directory; it is the key this device is known by\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_starting_imports_no_server_and_no_console(tmp_path: Path) -> None:
    """The agent's closure stays small."""
    code = "import sys, nixfleet.agent.main, nixfleet.client.transport; print(' '.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    heavy = sorted({one.split(".")[0] for one in found.stdout.split()} & set(NEVER))
    assert heavy == []


def test_help_is_short_and_unknown_words_are_usage_errors(tmp_path: Path) -> None:
    """Exit 2 for what it does not know, 0 for help."""
    helped = subprocess.run(
        [sys.executable, "-m", "nixfleet", "agent", "--help"], capture_output=True, text=True, check=False
    )
    assert (0, True) == (helped.returncode, "run|status|check" in helped.stdout)
    assert agent(tmp_path, "dance", toml="").returncode == 2
