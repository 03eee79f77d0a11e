"""Bad input and bad circumstances: one clear line, the right exit code, no traceback, nothing half-done."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.nix.harness import Admin, Systems, closing, need_namespaces
from tests.smalldisk import fill, small_disk
from tests.sshagent import SshAgent, make_key, ssh_agent

DEADLINE_S = 60
PROGRAM = [sys.executable, "-m", "nixfleet"]

# A clock that is off, for the program alone: what faketime does, without its library.
SKEWED = """
import sys, time
true, off = time.time, float(sys.argv.pop(1))
time.time = lambda: true() + off
from nixfleet.__main__ import main
sys.exit(main())
"""


def free_port() -> int:
    """Give a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Person:
    """Somebody at a shell, with a home and an ssh-agent of their own."""

    home: Path
    agent: SshAgent | None
    port: int = field(default_factory=free_port)

    @property
    def env(self) -> dict[str, str]:
        """The environment of what they run."""
        keep = {name: text for name, text in os.environ.items() if not name.startswith(("NIXFLEET_", "SSH_"))}
        sock = {"SSH_AUTH_SOCK": str(self.agent.sock)} if self.agent else {}
        return {**keep, **sock, "NIXFLEET_HOME": str(self.home), "HOME": str(self.home)}

    def run(self, *argv: str, code: int = 0, env: dict[str, str] | None = None, off_s: int = 0) -> str:
        """Run a command, check its exit code, and give what it wrote; a failure is one line on standard error."""
        program = [sys.executable, "-c", SKEWED, str(off_s)] if off_s else PROGRAM
        done = subprocess.run(
            [*program, *argv],
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert code == done.returncode, f"{argv}: {done.stdout}{done.stderr}"
        if not code:
            return done.stdout
        (line,) = [line for line in done.stderr.splitlines() if not line.startswith("INFO ")]
        assert line.startswith("nixfleet")
        return line

    def json(self, *argv: str, **options: Any) -> Any:
        """Run a reading command and give what it wrote."""
        return json.loads(self.run(*argv, "--json", **options))

    def entries(self) -> int:
        """Count the log's entries."""
        return int(self.json("audit", "list")["size"])

    @property
    def url(self) -> str:
        """The fleet's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """The coordinator's folder."""
        return self.home / "data" / "fleets" / "acme"

    @property
    def config(self) -> Path:
        """The settings."""
        return self.home / "config" / "config.toml"

    def init(self) -> None:
        """Begin the fleet."""
        assert self.agent is not None
        self.run("init", "acme", "--url", self.url, "--key", str(self.agent.public))

    @contextmanager
    def serving(self, **env: str) -> Iterator["subprocess.Popen[str]"]:
        """Serve the fleet with a program of its own; it ends with exit code 0 when told to."""
        process = subprocess.Popen(
            [*PROGRAM, "coordinator", "--listen", f"127.0.0.1:{self.port}"],
            env={**self.env, **env},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "serving" in line:
                    break
            yield process
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(20)
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshAgent]:
    """Run one ssh-agent for all tests of this process: none changes what it holds."""
    with ssh_agent(tmp_path_factory.mktemp("ssh")) as started:
        yield started


@pytest.fixture
def person(tmp_path: Path, agent: SshAgent) -> Person:
    """Give somebody who has done nothing yet."""
    return Person(tmp_path / "home", agent)


@pytest.fixture
def founder(person: Person) -> Person:
    """Give somebody who has begun a fleet that nobody serves yet."""
    person.init()
    return person


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("current = ", "not TOML"),
        ("colour = 'red'\n", "unknown key `colour`"),
        ("[contexts.acme]\nfleet = 'x'\nurls = ['http://a']\n", "contexts"),
        ("[contexts.acme]\nfleet = '" + "a" * 64 + "'\nurls = ['http://a']\ncolour = 1\n", "unknown key `colour`"),
        ("current = 7\n", "current"),
        ("\x00\xff", "not TOML"),
        ("#" * 1_048_577, "larger than"),
    ],
    ids=range(7),
)
def test_settings_that_cannot_be_read_name_file_and_key(person: Person, text: str, why: str) -> None:
    """Broken TOML and unknown or wrong keys are one line with the file, for every command; the file stays."""
    person.config.parent.mkdir(parents=True)
    person.config.write_text(text, encoding="latin-1")
    for argv in (["device", "list"], ["context", "list"], ["init", "acme", "--url", person.url]):
        line = person.run(*argv, code=2)
        assert str(person.config) in line
        assert why.replace("`", "") in line.replace("`", "")
    assert text == person.config.read_text(encoding="latin-1")
    assert not person.data.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file"),
        ("name = ", "not TOML"),
        ('name = "web-01"\ncolour = "red"\n', "unknown key `colour`"),
        ('name = "Web 01"\n', "name"),
        ('name = "web-01"\ntoken_file = "token"\n', "token_file"),
        ('name = "web-01"\n', "no fleet is pinned"),
        ('name = "web-01"\ntoken_file = "/nonexistent/token"\n', "token_file"),
        ('[checks]\nhttp = [{url = "http://a", timeout_s = 0}]\n', "timeout_s"),
    ],
)
def test_an_agent_with_wrong_settings_says_so_and_ends(
    person: Person, tmp_path: Path, text: str | None, why: str
) -> None:
    """agent.toml with a wrong or unknown key, or no way to join, is one line with exit code 2, and no state."""
    file, state = tmp_path / "agent.toml", tmp_path / "state"
    if text is not None:
        file.write_text(f'state_dir = "{state}"\nvolatile_state = true\n{text}')
    line = person.run("agent", "run", "--config", str(file), code=2)
    assert why.replace("`", "") in line.replace("`", "")
    assert [] == list(state.rglob("*.json"))


def test_a_coordinator_that_is_away_is_said(founder: Person) -> None:
    """Exit code 5, the address and what to look at; for what is read and for what would be signed."""
    for argv in (["device", "list"], ["audit", "verify"], ["enroll", "token"], ["device", "retire", "web-01", "--yes"]):
        line = founder.run(*argv, "--timeout", "5", code=5)
        assert founder.url in line
        assert "is the coordinator running" in line


def test_somebody_else_at_the_address_is_found_out(founder: Person) -> None:
    """A port that speaks something else, or falls silent, is unreachable, not a crash."""
    with socket.create_server(("127.0.0.1", founder.port)):
        line = founder.run("device", "list", "--timeout", "1", code=5)
    assert founder.url in line


def test_a_port_in_use_is_said(founder: Person) -> None:
    """Exit code 2 and the option that helps; the data is as it was, and a second coordinator is refused too."""
    with socket.create_server(("127.0.0.1", founder.port)):
        line = founder.run("coordinator", "--listen", f"127.0.0.1:{founder.port}", code=2)
    assert "address already in use" in line
    assert "--listen" in line
    with founder.serving():
        line = founder.run("coordinator", "--listen", f"127.0.0.1:{free_port()}", code=2)
        assert f"already serves {founder.data} at {founder.url}" in line
        assert 1 == founder.entries()


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--listen", "here"], "HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "HOST:PORT"),
        (["--listen", "203.0.113.1:7070"], "cannot listen on 203.0.113.1:7070"),
        (["--database", "mysql://db"], "postgresql://"),
        (["--context", "beta"], "no context 'beta'"),
        (["stop"], "No such command 'stop'"),
    ],
)
def test_a_coordinator_with_wrong_options_does_not_start(founder: Person, argv: list[str], why: str) -> None:
    """Each is one line with exit code 2."""
    assert why in founder.run("coordinator", *argv, code=2)


def test_a_coordinator_without_a_fleet_says_how_to_begin(person: Person, tmp_path: Path) -> None:
    """Neither a context nor a data folder: exit code 2; a data folder that cannot be used is one line, too."""
    assert "nixfleet init" in person.run("coordinator", code=2)
    taken = tmp_path / "taken"
    taken.write_text("")
    person.run("coordinator", "--listen", "127.0.0.1:0", code=2, env={"NIXFLEET_DATA_DIR": str(taken)})


@pytest.mark.parametrize(
    ("name", "code", "why"),
    [("log.key", 2, "log.key: not"), ("cache.key", 2, "cache.key: not"), ("fleet.db", 5, "not a database")],
)
def test_a_damaged_data_folder_is_said(founder: Person, name: str, code: int, why: str) -> None:
    """A key that is none, or is gone, is named; nothing is made in its place, and all is well once it is back."""
    file = founder.data / name
    whole = file.read_bytes()
    file.write_bytes(b"garbage\n" * 100)
    assert why in founder.run("coordinator", code=code)
    file.unlink()
    assert name in founder.run("coordinator", code=2)
    assert not file.exists()
    file.write_bytes(whole)
    with founder.serving():
        assert 1 == founder.entries()


@pytest.mark.parametrize("off_s", [-4 * 3_600, 3 * 3_600])
def test_a_clock_that_is_hours_off(founder: Person, off_s: int) -> None:
    """Reading works by the coordinator's time; an act works, or is refused in one line that names the clock."""
    with founder.serving():
        assert [] == founder.json("device", "list", off_s=off_s)["devices"]
        assert 1 == founder.json("audit", "verify", off_s=off_s)["size"]
        checks = {each["check"]: each for each in founder.json("doctor", off_s=off_s)["checks"]}
        assert "warning" == checks["clock"]["verdict"]
        before = founder.entries()
        if off_s > 0:
            assert "clock" in founder.run("enroll", "token", off_s=off_s, code=3)
            assert before == founder.entries()
        else:
            founder.run("enroll", "token", off_s=off_s)
            assert before + 1 == founder.entries()


def test_no_key_to_sign_with(founder: Person, tmp_path: Path) -> None:
    """No ssh-agent, a dead one, and one without the key each say what to do, with exit code 2."""
    assert founder.agent is not None
    lone = Person(founder.home, None, founder.port)
    with founder.serving():
        for env in ({}, {"SSH_AUTH_SOCK": str(tmp_path / "gone.sock")}):
            assert "ssh-add" in lone.run("enroll", "token", code=2, env=env)
            assert "ssh-add" in lone.run("enroll", "token", "--key", str(founder.agent.public), code=2, env=env)
        for file in (founder.config, founder.home / "none"):
            assert str(file) in lone.run("enroll", "token", "--key", str(file), code=2)
        assert 1 == founder.entries()


def test_a_key_without_rights(founder: Person, tmp_path: Path) -> None:
    """Who is nobody in the log is refused with exit code 3, and nothing is appended."""
    stranger = make_key(tmp_path / "stranger").with_suffix("")
    with founder.serving():
        for argv in (["enroll", "token"], ["device", "list"]):
            founder.run(*argv, "--key", str(stranger), code=3)
        assert 1 == founder.entries()


def test_names_that_nothing_has(founder: Person) -> None:
    """An unknown device, release, rollout or entry is one line with exit code 2."""
    with founder.serving():
        for argv, why in (
            (["device", "show", "nas-01"], "nas-01"),
            (["device", "tag", "nas-01", "a=b"], "nas-01"),
            (["device", "list", "status:"], ""),
            (["device", "list", "colour:red"], "colour"),
            (["release", "show", "none"], "none"),
            (["rollout", "start", "none"], "none"),
            (["rollout", "show", "abcdef12"], "abcdef12"),
            (["audit", "show", "99"], "the newest is number 0"),
            (["enroll", "nas-01"], "nas-01"),
        ):
            assert why in founder.run(*argv, code=2)
        assert 1 == founder.entries()


def test_a_log_with_a_changed_byte_is_found_out(founder: Person) -> None:
    """Whoever changes the database is found at the coordinator's next start: exit code 4, and the entry is named."""
    with founder.serving():
        for name in ("one", "two"):
            founder.run("enroll", "token", "-m", name)
        assert 3 == founder.entries()
    with closing_database(founder.data / "fleet.db") as database:
        ((payload,),) = database.execute('select payload from entries where "index" = 1').fetchall()
        assert b'"note":"one"' in payload
        forged = payload.replace(b'"note":"one"', b'"note":"0ne"')
        database.execute('update entries set payload = ? where "index" = 1', (forged,))
    line = founder.run("coordinator", "--listen", f"127.0.0.1:{founder.port}", code=4)
    assert "entry 1" in line


@contextmanager
def closing_database(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a database that nobody serves, and keep what is changed."""
    database = sqlite3.connect(file)
    try:
        with database:
            yield database
    finally:
        database.close()


def test_a_full_disk_stops_nothing_half_way(person: Person, tmp_path: Path) -> None:
    """A coordinator whose disk is full refuses acts in one line, keeps what it has, and goes on once there is room."""
    disk = tmp_path / "disk"
    with small_disk(disk, 24 << 20):
        (person.home / "data").mkdir(parents=True)
        (person.home / "data" / "fleets").symlink_to(disk)
        person.init()
        with person.serving():
            person.run("enroll", "token")
            before = person.entries()
            ballast = fill(disk)
            line = person.run("enroll", "token", code=5)
            assert "disk" in line, line
            assert before == person.json("audit", "verify")["size"]
            ballast.unlink()
            person.run("enroll", "token")
            assert before + 1 == person.entries()
            assert before + 1 == person.json("audit", "verify")["size"]


def test_a_fleet_that_does_not_fit_on_the_disk_is_not_begun(person: Person, tmp_path: Path) -> None:
    """`init` on a full disk is one line, and leaves neither folder nor context; with room it works."""
    disk = tmp_path / "disk"
    with small_disk(disk, 1 << 20):
        (person.home / "data").mkdir(parents=True)
        (person.home / "data" / "fleets").symlink_to(disk)
        ballast = fill(disk)
        assert person.agent is not None
        argv = ["init", "acme", "--url", person.url, "--key", str(person.agent.public)]
        person.run(*argv, code=2)
        assert ["ballast"] == [path.name for path in disk.iterdir()]
        assert not person.config.exists()
        ballast.unlink()
        person.run(*argv)


@pytest.mark.nix
def test_paths_that_are_no_systems(tmp_path: Path, systems: Systems, agent: SshAgent) -> None:
    """A path that is malformed, not in the store, or no system is refused before anything is pushed or signed."""
    need_namespaces()
    good = systems.a
    admin = Admin(tmp_path / "admin", systems)
    admin._env["SSH_AUTH_SOCK"] = str(agent.sock)
    port = free_port()

    def run(*argv: str, code: int = 2) -> str:
        done = admin.run(["nixfleet", *argv], check=False)
        assert code == done.returncode, f"{argv}: {done.stdout}{done.stderr}"
        return done.stderr.splitlines()[-1] if code else done.stdout

    with closing(admin):
        run("init", "acme", "--url", f"http://127.0.0.1:{port}", "--key", str(agent.public), code=0)
        no_system = admin.run(["nix-store", "--query", "--references", good]).stdout.split()[0]
        wrong = {
            "/nix/store/short-name": "no store path",
            f"{good}/bin": "no store path",
            "/etc/passwd": "no store path",
            f"{good[:43]}-gone": "not in this machine's Nix store",
        }
        # What this machine can tell by itself, it says without the coordinator.
        for path, why in {**wrong, no_system: "is no NixOS system"}.items():
            assert why in run("release", "create", "r", "--device", f"web-01={path}")
            assert why in run("deploy", "--device", f"web-01={path}")
        for path, why in wrong.items():
            assert why in run("cache", "push", path)
        assert "is the coordinator running" in run("cache", "push", good, code=5)
        with (tmp_path / "log").open("wb") as log:
            admin.popen(["nixfleet", "coordinator"], stdout=log, stderr=log)
        end = time.monotonic() + DEADLINE_S
        while admin.run(["nixfleet", "device", "list"], check=False).returncode:
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.05)
        assert "there is no device 'web-01'" in run("release", "create", "r", "--device", f"web-01={good}")
        assert "there is no device 'web-01'" in run("deploy", "--device", f"web-01={good}")
        assert 1 == json.loads(run("audit", "list", "--json", code=0))["size"]
