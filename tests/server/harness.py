"""A real coordinator on a free port and a made-up fleet whose statements are sent to it; the clock is the test's."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.factories import Fleet, device_id, key, proof_of

from nixfleet.client.api import Client
from nixfleet.model.device import Attempt, Facts, Outcome, Phase, Report
from nixfleet.model.statements import LogState
from nixfleet.model.wire import AppendResponse, Signed, Submission
from nixfleet.server.serve import Server
from nixfleet.server.settings import ServerSettings
from nixfleet.server.setup import create_fleet
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.narinfo import CacheKey
from nixfleet.trust.reports import sign_report

T = TypeVar("T")

DEADLINE_S = 20


class Rig:
    """A fleet, the coordinator that serves it, and the clock of both."""

    def __init__(self, data_dir: Path, fleet: Fleet, database_url: str | None = None) -> None:
        self.data_dir = data_dir
        self.fleet = fleet
        self.now = fleet.now
        self.database_url = database_url
        self.sent = 1
        self.seq: dict[str, int] = {}
        self.listen = "127.0.0.1:0"
        self.server = self.make_server()

    def create(self) -> str:
        """Begin the fleet in the data folder."""
        leaf, payload = self.fleet.entries[0]
        cache_key = CacheKey.generate("acme-1").text
        signature = Leaf.unpack(leaf).sshsig
        return create_fleet(
            self.data_dir, payload, signature, self.fleet.log_key, cache_key, self.database_url, now=self.now
        )

    def make_server(self) -> Server:
        """Make another server on the same data, on a port of its own."""
        settings = ServerSettings(data_dir=self.data_dir, listen=self.listen, database_url=self.database_url)
        return Server(settings, wall=lambda: self.now)

    def stay(self) -> None:
        """Let the servers to come listen where the present one does: agents know no other address."""
        self.listen = self.server.address.removeprefix("http://")

    def restart(self) -> None:
        """Stop the server and start a new one."""
        self.server.stop()
        self.server = self.make_server()
        self.server.start()

    def client(self, name: str | None, url: str = "") -> Client:
        """Make a client that signs with a named key."""
        signer = None if name is None else key(name)
        urls = [url or self.server.address]
        return Client(urls, fleet=self.fleet.fleet, key=signer, clock=lambda: self.now, timeout_s=DEADLINE_S)

    def submission(self, index: int, lines: tuple[str, ...] = ()) -> Submission:
        """Take a made entry as it is submitted."""
        leaf, payload = self.fleet.entries[index]
        return Submission(payload=payload, signature=Leaf.unpack(leaf).sshsig, lines=lines, proof=proof_of(payload))

    async def send(self, client: Client, lines: tuple[str, ...] = ()) -> AppendResponse | None:
        """Submit what the fleet has made since, each at its own time; `lines` belong to the one release among it."""
        answer = None
        while self.sent < self.fleet.size:
            leaf, payload = self.fleet.entries[self.sent]
            self.now = max(self.now, Leaf.unpack(leaf).log_time)
            its = lines if b'"type":"release"' in payload else ()
            answer = await client.append([self.submission(self.sent, its)], size=self.sent)
            self.sent += 1
        return answer

    def report(self, name: str, **fields: Any) -> Signed:
        """Sign the next report of a named device."""
        self.seq[name] = self.seq.get(name, 0) + 1
        made: dict[str, Any] = {
            "v": 1,
            "fleet": self.fleet.fleet,
            "device": device_id(name),
            "seq": self.seq[name],
            "at": self.now,
            "log": LogState(size=self.fleet.size, root=self.fleet.tree.root().hex()),
            "protocol": 1,
            "boot_id": "boot",
            "system": "/run/old",
            "booted": "/run/old",
            "healthy": True,
            "facts": Facts(hostname=name),
        }
        return sign_report(Report(**{**made, **fields}), key(name))

    def outcome(self, name: str, rollout: str, outcome: Outcome, *, run: int = 1, **fields: Any) -> Signed:
        """Sign a report of how a rollout ended on a named device."""
        attempt = Attempt(rollout=rollout, run=run, phase=Phase(outcome.value), outcome=outcome, **fields)
        return self.report(name, attempt=attempt)


@asynccontextmanager
async def rig(data_dir: Path, *devices: str, database_url: str | None = None, **root: Any) -> AsyncGenerator[Rig, None]:
    """Serve a new fleet in which these devices are enrolled."""
    fleet = Fleet(**root)
    one = Rig(data_dir, fleet, database_url)
    one.create()
    await asyncio.to_thread(one.server.start)
    try:
        for name in devices:
            fleet.device(name, tags={"env": "prod"})
        async with one.client("admin") as admin:
            await one.send(admin)
        yield one
    finally:
        await asyncio.to_thread(one.server.stop)


@asynccontextmanager
async def twin(one: Rig, data_dir: Path, wall: Callable[[], float] | None = None) -> AsyncGenerator[Server, None]:
    """Serve the same database by a second coordinator, by a clock of its own if there is one."""
    shutil.copytree(one.data_dir, data_dir, ignore=shutil.ignore_patterns("*.lock"))
    settings = ServerSettings(data_dir=data_dir, listen="127.0.0.1:0", database_url=one.database_url)
    server = Server(settings, wall=wall or (lambda: one.now))
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


async def until(ask: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """Ask until the answer is the one that is waited for; fails after the deadline with the last answer."""
    answer = await ask()
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not holds(answer):
                await asyncio.sleep(0.02)  # the coordinator's thread has no event for us; bounded by the deadline
                answer = await ask()
    except TimeoutError:
        raise AssertionError(f"still waiting at {answer}") from None
    return answer
