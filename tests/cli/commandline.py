"""The command line in this process, on a fleet of its own: a real coordinator in a thread and a real ssh-agent."""

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.factories import closure, device_id, key
from tests.sshagent import SshAgent

from nixfleet.cli.main import main
from nixfleet.client.admin import Admin
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.client.session import SessionKeeper
from nixfleet.config import choose_context, coordinator_dir
from nixfleet.model.device import Attempt, EnrollRequest, Facts, Outcome, Phase, Report
from nixfleet.model.statements import LogState
from nixfleet.server.serve import Server
from nixfleet.server.settings import ServerSettings
from nixfleet.trust import sshagent
from nixfleet.trust.reports import sign_enroll, sign_report
from nixfleet.trust.signers import AgentSigner

T = TypeVar("T")


def now() -> int:
    """Give the time as everybody here has it."""
    return int(time.time())


def free_port() -> int:
    """Give a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it wrote, as JSON."""
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The only line on standard error, and nothing on standard output."""
        assert "" == self.out
        (line,) = self.err.splitlines()
        assert line.startswith("nixfleet: ")
        return line


@dataclass
class Commands:
    """Runs commands with a home folder of their own; standard input is no terminal."""

    home: Path
    agent: SshAgent
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    port: int = field(default_factory=free_port)
    seq: int = 0

    def __post_init__(self) -> None:
        self.monkeypatch.setenv("NIXFLEET_HOME", str(self.home))
        self.monkeypatch.setenv("SSH_AUTH_SOCK", str(self.agent.sock))
        for name in ("NIXFLEET_CONTEXT", "NIXFLEET_DATA_DIR", "NIXFLEET_DEBUG"):
            self.monkeypatch.delenv(name, raising=False)

    def __call__(self, *argv: str, code: int = 0) -> Done:
        """Run a command and check its exit code."""
        self.capsys.readouterr()
        ended = main(argv)
        said = self.capsys.readouterr()
        assert code == ended, f"{argv} ended with {ended}: {said.out}{said.err}"
        return Done(ended, said.out, said.err)

    @property
    def url(self) -> str:
        """The fleet's address."""
        return f"http://127.0.0.1:{self.port}"

    def init(self) -> None:
        """Begin the fleet."""
        self("init", "acme", "--url", self.url, "--key", str(self.agent.public))

    @property
    def data(self) -> Path:
        """The coordinator's folder."""
        return coordinator_dir("acme", {"NIXFLEET_HOME": str(self.home)})

    def server(self) -> Server:
        """Make a coordinator for the fleet."""
        return Server(ServerSettings(data_dir=self.data, listen=f"127.0.0.1:{self.port}"))

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve the fleet while a block runs."""
        server = self.server()
        server.start()
        try:
            yield
        finally:
            server.stop()

    @property
    def fleet(self) -> str:
        """The fleet's id."""
        return choose_context(None, {"NIXFLEET_HOME": str(self.home)})[1].fleet

    def on_wire(self, act: Callable[[Client], Awaitable[T]]) -> T:
        """Speak to the coordinator without the command line."""

        async def run() -> T:
            async with Client((self.url,), fleet=self.fleet, key=None, clock=now) as client:
                return await act(client)

        return asyncio.run(run())

    def ask(self, name: str, **fields: Any) -> None:
        """Let a device ask to be enrolled."""
        made = EnrollRequest(
            v=1,
            fleet=self.fleet,
            device=device_id(name),
            name=name,
            key=key(name).public.text,
            at=now(),
            facts=Facts(hostname=name),
            **fields,
        )
        self.on_wire(lambda client: client.enroll_request(sign_enroll(made, key(name))))

    def enroll(self, *names: str, tag: str = "env=prod") -> None:
        """Enrol devices by fingerprint."""
        for name in names:
            self.ask(name)
            self("enroll", name, "--key", key(name).public.fingerprint, "--tag", tag)

    def enroll_as(self, private: str, *names: str) -> None:
        """Enrol devices by fingerprint, as whoever has a key file."""
        for name in names:
            self.ask(name)
            self("--key", private, "enroll", name, "--key", key(name).public.fingerprint, "--yes")

    def release(self, name: str, **systems: str) -> str:
        """Publish a release of made-up closures; give its digest. Device names have `_` for `-` here."""
        made = {device.replace("_", "-"): closure(system) for device, system in systems.items()}

        async def act(client: Client) -> str:
            (held,) = sshagent.keys(str(self.agent.sock))
            mirror = Mirror.open(self.home / "made", self.fleet)
            signer = AgentSigner(held, str(self.agent.sock))
            await SessionKeeper(signer, fleet=self.fleet, file=self.home / "made.session", clock=now).attach(client)
            return (await Admin(client, mirror, signer, now).release(name, devices=made)).digest

        return self.on_wire(act)

    def report(
        self,
        name: str,
        rollout: str,
        outcome: Outcome,
        *,
        protocol: int = 1,
        log: LogState | None = None,
        system: str = "/run/old",
        facts: Facts | None = None,
        **fields: Any,
    ) -> None:
        """Let a device report how an update ended, what it runs, its facts, its protocol, and which log it knows."""
        self.seq += 1
        made: dict[str, Any] = {
            "v": 1,
            "fleet": self.fleet,
            "device": device_id(name),
            "seq": self.seq,
            "at": now(),
            "log": log or LogState(size=0, root=EMPTY),
            "protocol": protocol,
            "boot_id": "boot",
            "system": system,
            "booted": system,
            "healthy": True,
            "facts": facts or Facts(hostname=name),
            "attempt": Attempt(rollout=rollout, run=1, phase=Phase(outcome.value), outcome=outcome, **fields),
        }
        signed = sign_report(Report(**made), key(name))
        self.on_wire(lambda client: client.report(signed))


def entries(nixfleet: Commands) -> int:
    """Count the log's entries."""
    return int(nixfleet("audit", "list", "--json").json["size"])


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The root of an empty log (RFC 6962, 2.1): SHA-256 of nothing."""
