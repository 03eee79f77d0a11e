"""A whole fleet in one process: real agents, a real coordinator, and a person with the root key.

    with Fleet(scenario, seed=7, speed=60) as fleet:
        fleet.until(lambda: fleet.system("web-01") == fleet.path("web-01", "r1"))
        fleet.act(lambda admin: admin.hold([fleet.devices["web-01"].id], until))

The agents are `nixfleet.agent`'s, each with its own journal, copy of the log, replay and HTTP client; they live on one
event loop, the coordinator on another, each in a thread of its own. Only Nix, the clock, the lines and the people are
made up. The same scenario and seed give the same devices, keys, speeds and failures; who is served first is up to the
network. Methods may be called from any thread but those two. It must never outlive its `stop`.
"""

import asyncio
import logging
import shutil
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Self, TypeVar

from nixfleet.agent import memory
from nixfleet.client.admin import Admin
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Unreachable, UserError
from nixfleet.model.ids import Digest
from nixfleet.model.views import DeviceView, RolloutDetail
from nixfleet.server.cache import NARINFOS
from nixfleet.server.serve import Server
from nixfleet.server.settings import CACHE, ServerSettings
from nixfleet.sim import closures, founding
from nixfleet.sim.clock import SimClock, loop_thread
from nixfleet.sim.device import SimDevice
from nixfleet.sim.home import home
from nixfleet.sim.network import make_client
from nixfleet.sim.scenario import Scenario, kinds
from nixfleet.sim.systems import Catalog, released
from nixfleet.trust import sshsig
from nixfleet.trust.narinfo import CacheKey
from nixfleet.trust.signers import MemorySigner
from nixfleet.trust.sshsig import SecretKey

T = TypeVar("T")

CALL_S = 300.0
"""How long an act may take, in real seconds."""
STARTED_AT_ONCE = 40
REMEMBERED = 2_000
LOOK_REAL_S = 0.02
PORTS = 5
"""So many free ports are tried: between finding one and listening on it, another program may take it."""


class Fleet:
    """A made-up fleet; a context manager that starts and stops it."""

    def __init__(
        self, scenario: Scenario, seed: int = 1, *, speed: float = 1.0, begun_s: float = 1_764_000_000.0
    ) -> None:
        """Prepare; `speed` is how many seconds pass in one, `begun_s` the unix time at the beginning."""
        self.scenario, self.seed = scenario, seed
        self.clock = SimClock.begin(begun_s, speed)
        self.key = SecretKey.generate()
        """The root key: who has it may do everything in this fleet."""
        self.id = ""
        self.address = ""
        self.devices: dict[str, SimDevice] = {}
        self.all_on = False
        """Whether every device was switched on, and has reported once."""
        self.rollouts: list[Digest] = []
        """What the scenario has started so far, in its order."""
        self.made: Callable[[SimDevice], None] = lambda _: None
        """Told of each device once it is installed, before its agent is started."""
        self.coordinator_off_s = 0.0
        """How far the coordinator's own clock is ahead of the world's."""
        self._catalog: Catalog = {}
        self._open = ExitStack()
        self._tasks: list[Future[None]] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Life

    def start(self, served: Callable[[], None] = lambda: None) -> None:
        """Begin the fleet, its coordinator and its agents; what the scenario does later, it does by itself.

        `served` is called once the coordinator answers, before there is any device.
        """
        try:
            self._start(served)
        except BaseException:
            self.stop()
            raise

    def _start(self, served: Callable[[], None]) -> None:
        self.folder = self._open.enter_context(home())
        for logger in ("alembic", "uvicorn", "nixfleet.agent"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        # Shared between the agents of this process, and nothing else is: which signatures hold. Each replays by itself,
        # and none collects the garbage of all.
        memory.share()
        sshsig.remember(REMEMBERED + 4 * self.scenario.count)
        self._cache_key = CacheKey.generate(f"{self.scenario.name}-1")
        self._found()
        self._open.callback(self.stop_coordinator)
        served()
        self._loop = self._open.enter_context(loop_thread(self.clock, "nixfleet-devices"))
        self._call(self._prepare())
        self._open.callback(lambda: self._call(self._end()))
        self._tasks.append(asyncio.run_coroutine_threadsafe(self._live(), self._loop))

    def _found(self) -> None:
        """Begin the fleet and serve it at a free port; one that somebody else has taken meanwhile is left to them."""
        data, left = self.folder / "coordinator", PORTS
        while True:
            self.address = f"http://127.0.0.1:{_free_port()}"
            now, left = self.clock.wall_s(), left - 1
            self.id = founding.found(data, self.scenario.name, self.address, self.key, self._cache_key, now)
            self._server = self._new_server()
            try:
                self._server.start()
            except UserError:
                if not left:
                    raise
                shutil.rmtree(data)  # its root names the address
            else:
                return

    def stop(self) -> None:
        """Switch everything off, and remove its files. A repeat does nothing."""
        self._open.close()

    async def _prepare(self) -> None:
        self.client = make_client(self.clock)((self.address,), fleet=self.id, key=self.key, clock=self.clock.wall_s)
        await self.client.__aenter__()
        self.mirror = mirror = Mirror.open(self.folder / "mirror", self.id)
        self.admin = Admin(self.client, mirror, MemorySigner(self.key), self.clock.wall_s)
        await mirror.catch_up(self.client)
        pin = mirror.log_state
        for kind in kinds(self.scenario):
            device = SimDevice(self.folder / kind.name, kind, self._catalog, self.seed, self.clock)
            device.join(self.address, self.id, pin)
            self.devices[kind.name] = device
            self.made(device)
        devices = list(self.devices.values())
        founding.make_catalog(self.scenario, devices, self._catalog, self.seed)
        contents = [system.contents for system in self._catalog.values()]
        shelves = self.folder / "coordinator" / CACHE / NARINFOS
        stocked = asyncio.create_task(asyncio.to_thread(closures.stock, shelves, self._cache_key, contents))
        await founding.enrol(self.admin, devices, self.clock.wall_s())
        for release in self.scenario.release:
            await founding.publish(self.admin, release, devices, self.seed)
        await stocked

    async def _live(self) -> None:
        """Switch the devices on, a few at a time, and do what the scenario does."""
        devices = list(self.devices.values())
        rollouts = asyncio.create_task(self._begin_rollouts())
        # Who asks, then the first ones of each group: canaries are among them.
        devices.sort(key=lambda device: (not device.kind.asks, device.kind.number))
        waiting, starting = deque(devices), list[SimDevice]()
        while waiting or starting:
            for _ in range(min(len(waiting), STARTED_AT_ONCE - len(starting))):
                starting.append(device := waiting.popleft())
                device.start()
                await asyncio.sleep(0)  # each takes milliseconds: others have their turn in between
            await asyncio.sleep(LOOK_REAL_S * self.clock.origin.speed)
            for device in [one for one in starting if one.kind.asks or one.line.reported]:
                device.live()
                starting.remove(device)
        self.all_on = True
        await rollouts

    async def _begin_rollouts(self) -> None:
        for rollout in sorted(self.scenario.rollout, key=lambda one: one.at_s):
            await asyncio.sleep(max(0.0, rollout.at_s - self.clock.passed_s()))
            self.rollouts.append(await founding.begin(self.admin, rollout))

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(device.end() for device in self.devices.values()))
        await self.client.__aexit__(None, None, None)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the devices' event loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)

    # Acts

    def act(self, work: Callable[[Admin], Awaitable[T]]) -> T:
        """Do something as the person with the root key. Raises: as `nixfleet.client.admin.Admin`."""

        async def done() -> T:
            return await work(self.admin)

        return self._call(done())

    def disconnect(self, name: str) -> None:
        """Cut a device's line: what is under way over it breaks off."""
        self._loop.call_soon_threadsafe(self.devices[name].line.cut)

    def connect(self, name: str) -> None:
        """Mend a device's line; its agent finds out by itself."""
        self._loop.call_soon_threadsafe(self.devices[name].line.mend)

    def crash(self, name: str) -> None:
        """Kill a device's agent; a switch that runs goes on."""
        self._call(self.devices[name].crash())

    def restart(self, name: str) -> None:
        """Start a device's agent, after killing one that runs."""
        self._call(self.devices[name].restart())

    def reboot(self, name: str) -> None:
        """Reboot a device, and wait until its agent is started again."""
        self._call(self.devices[name].reboot())

    def stop_coordinator(self) -> None:
        """Stop the coordinator, and wait for its end; devices and the person are without one."""
        self._server.stop()
        # At a high speed its grace is an instant: what is cancelled then may keep the database for some real seconds.
        self._server.wait()

    def start_coordinator(self) -> None:
        """Start a coordinator anew on the same data, at the same address."""
        self._server = self._new_server()
        self._server.start()

    def _new_server(self) -> Server:
        settings = ServerSettings(data_dir=self.folder / "coordinator", listen=self.address.removeprefix("http://"))
        return Server(settings, wall=lambda: self.clock.wall() + self.coordinator_off_s, new_loop=self.clock.new_loop)

    # What there is to see

    def ask(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """Ask the coordinator something, as the person. Raises: as `nixfleet.client.api.Client`."""

        async def done() -> T:
            return await work(self.client)

        return self._call(done())

    def views(self) -> dict[str, DeviceView]:
        """Give every enrolled device as the coordinator shows it, by name."""
        return {one.name: one for one in self.ask(lambda client: client.devices())}

    def rollout(self, digest: str) -> RolloutDetail:
        """Give a rollout as the coordinator shows it."""
        return self.ask(lambda client: client.rollout(digest))

    def system(self, name: str) -> str:
        """Give the store path that a device runs, by its own files."""
        return self.devices[name].system

    def path(self, name: str, release: str) -> str:
        """Give the store path that a release of the scenario brings to a device."""
        found = next(one for one in self.scenario.release if one.name == release)
        return released(found, self.devices[name].kind, self.seed).path

    @property
    def faults(self) -> list[BaseException]:
        """What ended an agent though it must go on for ever: none, unless there is a bug."""
        return [fault for device in self.devices.values() for fault in device.faults]

    def look(self) -> None:
        """Wait until the devices' event loop has come round."""

        async def nothing() -> None:
            pass

        self._call(nothing())

    def until(self, holds: Callable[[], bool], limit_s: float = 60.0) -> None:
        """Wait until something holds; looks every few real milliseconds.

        Raises: Unreachable when it does not within `limit_s` real seconds.
        """
        ends = time.monotonic() + limit_s
        while not holds():
            if time.monotonic() > ends:
                raise Unreachable(f"it did not come about within {limit_s:.0f} s")
            time.sleep(LOOK_REAL_S)


def _free_port() -> int:
    """Find a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port
