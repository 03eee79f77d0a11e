"""One made-up device: its machine, its line, and the real agent that comes and goes on it."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from pathlib import Path

from nixfleet.agent import identity as identities
from nixfleet.agent.agent import Agent
from nixfleet.agent.identity import HOST_KEY, Identity
from nixfleet.agent.journal import Journal
from nixfleet.agent.member import Parts
from nixfleet.agent.service import Clock
from nixfleet.agent.settings import Settings
from nixfleet.client.mirror import Mirror
from nixfleet.model.device import Phase
from nixfleet.model.statements import LogState
from nixfleet.sim.clock import SimClock
from nixfleet.sim.network import Line, make_client
from nixfleet.sim.scenario import Kind
from nixfleet.sim.systems import Catalog, MakeSimSwitcher, SimGuarding, SimMachine, SimStore
from nixfleet.trust.sshsig import SecretKey

BOOT_S = (20.0, 45.0)
TICK_REAL_S = 0.5
"""A download tells how far it is about so often, in real seconds."""
_WATCH_S = 5.0


class SimDevice:
    """A device; its methods belong to the event loop of the devices."""

    def __init__(self, folder: Path, kind: Kind, catalog: Catalog, seed: int, clock: SimClock) -> None:
        """Install it; its id and key follow from the seed and its name."""
        self.kind, self.clock = kind, clock
        self._chance = random.Random(f"{seed}/{kind.name}/life")  # noqa: S311 - a made-up fate, repeatable
        self.id = self._chance.randbytes(16).hex()
        self.key = SecretKey.from_seed(self._chance.randbytes(32))
        folder.mkdir()
        self.machine = SimMachine(folder, kind, catalog, seed)
        self.line = Line()
        self.store = SimStore(self.machine, self.line, max(1.0, TICK_REAL_S * clock.origin.speed))
        self.agent: Agent | None = None
        self.make_journal: Callable[[Path], Journal] = Journal
        """What opens the journal of each agent that starts here: whoever watches a device can hand in their own."""
        self.clock_off_s = 0
        """How far the device's own clock is ahead of the world's."""
        self.faults: list[BaseException] = []
        """What ended an agent of its own accord: there should be none."""
        self._task: asyncio.Task[None] | None = None
        self._life: asyncio.Task[None] | None = None
        self._settings = Settings()

    @property
    def system(self) -> str:
        """The store path that runs."""
        return self.machine.host.current_system()

    @property
    def phase(self) -> Phase:
        """Where its update stands, by its own journal."""
        update = self.agent.service.state.update if self.agent is not None else None
        return update.phase if update is not None else Phase.IDLE

    def join(self, address: str, fleet: str, pin: LogState) -> None:
        """Write down whose it is, as an installer does."""
        folder = self.machine.state_dir
        self.machine.write(HOST_KEY, self.key.to_openssh())
        self._settings = Settings(
            name=self.kind.name,
            state_dir=str(folder),
            volatile_state=True,
            urls=(address,),
            fleet=fleet,
            tags=self.kind.tags,
        )
        found = Identity(
            device=self.id,
            fleet=fleet,
            pin=pin,
            key_file=HOST_KEY,
            machine_id=self.machine.host.machine_id(),
            key=self.key.public.fingerprint,
        )
        identities.write(folder, found)

    def _parts(self) -> Parts:
        """Put an agent's parts together, as its `main` does."""
        folder, host = self.machine.state_dir, self.machine.host
        found, own, token = identities.establish(host, self._settings)
        return Parts(
            settings=identities.effective(self._settings, found),
            host=host,
            store=self.store,
            clock=Clock(wall=self._wall_s, boot=lambda: int(self.clock.passed_s())),
            identity=found,
            key=own,
            token=token,
            mirror=Mirror.open(folder / "log", found.fleet, pin=found.pin, device=found.device),
            journal=self.make_journal(folder),
            make_client=make_client(self.clock, self.line),
            cache_answers=_silent,
            run=self.machine.run_tool,
            make_switcher=MakeSimSwitcher(self.machine),
            make_guarding=SimGuarding,
        )

    def _wall_s(self) -> int:
        return self.clock.wall_s() + self.clock_off_s

    # Life

    def start(self) -> None:
        """Start its agent."""
        assert self._task is None, f"{self.kind.name} has an agent already"
        self.agent = Agent(self._parts())
        self._task = asyncio.create_task(self._run(self.agent), name=self.kind.name)

    async def _run(self, agent: Agent) -> None:
        try:
            await agent.run()
        except Exception as error:
            self.faults.append(error)
            raise

    def live(self) -> None:
        """Let it go offline and reboot as its scenario says."""
        self._life = asyncio.create_task(self._live(), name=f"life of {self.kind.name}")

    async def crash(self) -> None:
        """Kill its agent: nothing that it had not written down is known to the next one; a switch goes on."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def restart(self) -> None:
        """Start its agent anew, as a service manager does."""
        await self.crash()
        self.start()

    async def reboot(self) -> None:
        """Take the machine down and boot it."""
        await self.crash()
        self.machine.reboot()
        await asyncio.sleep(self._chance.uniform(*BOOT_S))
        if self._task is None:
            self.start()

    async def end(self) -> None:
        """Switch it off."""
        if self._life is not None:
            self._life.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._life
        task, self._task = self._task, None
        if task is not None and self.agent is not None:
            self.agent.stop()
            await asyncio.wait([task])
        self.machine.end()

    async def _live(self) -> None:
        group = self.kind.group
        if self.kind.away:
            self.line.cut()
            await asyncio.sleep(self._chance.uniform(*group.away_s))
            self.line.mend()
        watches = [self._leaves(), self._reboots()]
        await asyncio.gather(*watches)

    async def _leaves(self) -> None:
        group = self.kind.group
        while group.leaves_every_s is not None:
            await asyncio.sleep(self._chance.uniform(*group.leaves_every_s))
            self.line.cut()
            await asyncio.sleep(self._chance.uniform(*group.away_s))
            self.line.mend()

    async def _reboots(self) -> None:
        group = self.kind.group
        while group.reboots_after_s is not None:
            await asyncio.sleep(_WATCH_S)
            if self.phase is Phase.REBOOT_PENDING:
                await asyncio.sleep(self._chance.uniform(*group.reboots_after_s))
                await self.reboot()


async def _silent(url: str, timeout_s: float) -> bool:  # noqa: ARG001 - as a real one is called
    """Answer for the caches of a made-up network: none is a way to tell that only the coordinator is away."""
    return False
