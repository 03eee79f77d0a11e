"""A coordinator and a cache on the host, one booted machine with the agent as the module's unit, and an admin."""

import asyncio
import itertools
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.factories import Fleet, key
from tests.nix.builder import Arg, Systems
from tests.nix.cacheserver import CacheServer
from tests.vm import debian, units
from tests.vm.booted import Booted

from nixfleet.client.admin import Admin
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.model.answers import PastAttempt
from nixfleet.model.ids import Tags
from nixfleet.model.statements import Activation, CacheRef, Closure
from nixfleet.model.views import DeviceView
from nixfleet.nix import Nix
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.server.serve import Server
from nixfleet.server.settings import ServerSettings
from nixfleet.server.setup import create_fleet
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.narinfo import CacheKey
from nixfleet.trust.signers import MemorySigner

DEADLINE_S = 240
TAGS: Tags = {"env": "prod"}
SYSTEM = Path(__file__).parent / "systems" / "vm.nix"
_COUNT = itertools.count()


class Workshop:
    """Builds systems that boot, once for all tests: the Debian, the agent's library, the module's units."""

    def __init__(self, folder: Path, systems: Systems) -> None:
        folder.mkdir()
        self.debian = debian.debian()
        self.systems = systems
        self.cache_key = CacheKey.generate("fleet-1")
        self.cache_folder = folder / "cache"
        self._library = folder / "library"
        debian.agent_library(self.debian, self._library)
        self._units: dict[str, Path] = {}
        self._folder = folder

    def build(self, settings: str = "", **args: Arg) -> str:
        """Build a system whose agent has these settings (Nix syntax) beside its token, and push it to the cache."""
        if settings not in self._units:
            place = self._folder / f"units-{len(self._units)}"
            configured = units.evaluate(f'tokenFile = "/etc/nixfleet-token"; {settings}', self.systems.env)
            assert [] == configured["failed"]
            units.write(configured, place)
            self._units[settings] = place
        where = {"agentLib": str(self._library), "units": str(self._units[settings])}
        path = self.systems.build_file(SYSTEM, **where, **args)
        self.systems.push(path, self.cache_folder, self.cache_key)
        return path


class Site:
    """What one test has; see `site`."""

    def __init__(self, folder: Path, workshop: Workshop, machine: Booted, cache: CacheServer) -> None:
        self.folder = folder
        self.workshop = workshop
        self.machine = machine
        self.cache = cache
        self.listen = f"{machine.host_address}:{_free_port(machine.host_address)}"
        caches = (CacheRef(url=cache.url, key=workshop.cache_key.public),)
        self.fleet = Fleet(at=int(time.time()), urls=(f"http://{self.listen}",), caches=caches)
        leaf, payload = self.fleet.entries[0]
        secret = CacheKey.generate("built-in-1").text
        signature = Leaf.unpack(leaf).sshsig
        create_fleet(folder / "data", payload, signature, self.fleet.log_key, secret, now=self.fleet.now)
        self.server = Server(ServerSettings(data_dir=folder / "data", listen=self.listen))

    async def connect(self, stack: AsyncExitStack) -> None:
        """Start the coordinator, make the admin's client and give the machine its token."""
        self.server.start()
        client = Client([f"http://{self.listen}"], fleet=self.fleet.fleet, key=key("admin"), clock=_now)
        self.api = await stack.enter_async_context(client)
        self.admin = Admin(
            self.api, Mirror.open(self.folder / "mirror", self.fleet.fleet), MemorySigner(key("admin")), _now
        )
        self.machine.write("/etc/nixfleet-token", await self.admin.make_token(TAGS, 2, 1), 0o600)

    async def boot(self, **limits: float | None) -> None:
        """Boot the machine and wait until its agent has joined and reported."""
        memory = limits.get("memory_bytes")
        await asyncio.to_thread(
            self.machine.start, memory_bytes=None if memory is None else int(memory), cpu=limits.get("cpu")
        )
        await self.until(lambda view: view is not None and view.reported_at > 0)

    async def deploy(self, path: str, confirm_s: int = 60) -> str:
        """Sign a release of a system for the machine and start it at once; give the rollout's digest."""
        systems = self.workshop.systems
        nix = Nix(store=str(systems.store), env=systems.env)
        digest, nar_bytes = await nix.digest(path)
        closure = Closure(path=path, system="x86_64-linux", digest=digest, nar_size=nar_bytes)
        release = await self.admin.release("r", devices={"web-01": closure})
        wishes = RolloutWishes(all_at_once=True, activation=Activation(confirm_s=confirm_s))
        return (await self.admin.rollout(release.digest, wishes)).digest

    async def view(self) -> DeviceView | None:
        """Read what the coordinator knows of the machine."""
        return next((one for one in await self.api.devices() if one.name == "web-01"), None)

    async def until(self, holds: Callable[[DeviceView | None], object]) -> None:
        """Wait for what the coordinator knows of the machine, with a deadline."""
        view = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not holds(view := await self.view()):  # noqa: ASYNC110 - asked of another process
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pytest.fail(f"still {view}; the machine said:\n{self.machine.journal()[-6000:]}")

    async def outcome(self, rollout: str) -> PastAttempt:
        """Wait for the one outcome of a rollout."""
        ended: list[PastAttempt] = []
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not ended:
                    history = await self.api.device_history("web-01")
                    ended = [one for one in history if one.rollout == rollout and one.outcome]
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pytest.fail(f"no outcome; the machine said:\n{self.machine.journal()[-6000:]}")
        [attempt] = ended
        return attempt

    def tell(self, title: str) -> None:
        """Print what the machine's journal says of nixfleet: pytest's -s, or -rP, shows it."""
        lines = self.machine.journal("--unit=nixfleet-*", "--unit=app.service")
        print(f"--- {title}\n{lines}")


async def until(condition: Callable[[], object], site: Site, what: str) -> None:
    """Wait for something on the machine, with a deadline."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - another process brings it about
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"not so in {DEADLINE_S} s: {what}; the machine said:\n{site.machine.journal()[-6000:]}")


@asynccontextmanager
async def open_site(workshop: Workshop, first: str) -> AsyncIterator[Site]:
    """Make a site whose machine has a first system on its disk, and is not booted yet."""
    # The machine's disk must be one: the test run's own folder may be in memory.
    folder = Path(tempfile.mkdtemp(prefix="site-", dir=debian.cache_folder()))
    machine = Booted(folder / "machine", workshop.debian, next(_COUNT))
    try:
        machine.connect()
        machine.install(workshop.systems, first)
        async with AsyncExitStack() as stack:
            cache = CacheServer(workshop.cache_folder, machine.host_address)
            stack.callback(cache.close)
            site = Site(folder, workshop, machine, cache)
            stack.push_async_callback(asyncio.to_thread, site.server.stop)
            await site.connect(stack)
            yield site
    finally:
        machine.close()
        shutil.rmtree(folder, ignore_errors=True)


def need_machines() -> None:
    """Skip without root or the programs that make and run the machines."""
    for program in ("systemd-nspawn", "debootstrap", "nsenter"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: systemd-container, debootstrap, util-linux)")
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False, timeout=10
    )
    if tried.returncode:
        pytest.skip("booted machines need root and namespaces")


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _now() -> int:
    return int(time.time())
