"""A laboratory for crashes: one device whose agent dies, or whose effects fail, at one chosen place of the table.

Real journal, runner, switches and guard; made up are Nix, the clock and the network. A kill is an exception that
nothing catches: what was on the disk is there for the next life of the agent, and all else is gone.
"""

import asyncio
import itertools
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec.structs import replace
from tests.agent.bootlab import BootLab, Loader
from tests.agent.made_up import Machine, MadeUpStore, Silent

from nixfleet.agent import machine, moves
from nixfleet.agent.guard import Guard
from nixfleet.agent.journal import Journal
from nixfleet.agent.runner import Runner, Store
from nixfleet.agent.service import Clock, Service
from nixfleet.agent.settings import Settings
from nixfleet.agent.switching import Switcher
from nixfleet.agent.units import Ran
from nixfleet.agent.update import (
    Contact,
    Contacted,
    Delivered,
    Effect,
    Event,
    Offer,
    Offered,
    Restarted,
    State,
    Tick,
    Trouble,
    Update,
)
from nixfleet.model.device import Cause, Phase

Row = tuple[Phase, str]
"""A row of the table: a state and the name of what it does."""
LIVES = 8
"""More lives than this and the update has no end."""


class Killed(BaseException):
    """The agent is gone, there and then."""


class Scenario(msgspec.Struct, frozen=True):
    """A course of events that visits some rows; `contact` says on which systems the coordinator is reached."""

    name: str
    outcome: str
    code: int = 0
    contact: tuple[str, ...] = ("old", "new")
    wrong_digests: int = 0
    agent: bool = True
    verb: str = "switch"
    loader: Loader = "none"
    reboot: str = "never"
    """Who reboots: the agent, or (never) somebody."""
    kernel: str = "6.1"
    """That of the new system; the old one's is 6.1."""
    boots: bool = True

    @property
    def stays(self) -> bool:
        """Whether the new system is there to stay in the end."""
        return self.outcome == "confirmed" and self.verb != "test"


TRIES = Scenario("tries", "confirmed", verb="test")
SCENARIOS = (
    Scenario("works", "confirmed"),
    Scenario("takes a reboot", "confirmed", verb="boot"),
    Scenario("cuts itself off", "reverted", contact=("old",)),
    Scenario("lies", "failed", wrong_digests=99),
    Scenario("would leave", "refused", agent=False),
    Scenario("reboots", "confirmed", loader="systemd-boot", reboot="now", kernel="6.2"),
    Scenario("is booted by somebody", "confirmed", loader="grub", kernel="6.2"),
    Scenario("does not boot", "reverted", loader="grub", reboot="now", kernel="6.2", boots=False),
    Scenario("reboots and fails", "reverted", loader="systemd-boot", reboot="now", kernel="6.2", contact=("old",)),
    TRIES,
)


class Fault(msgspec.Struct, frozen=True):
    """What goes wrong, once, and in which row; `point` counts the steps inside an effect."""

    kind: str
    row: Row
    point: int = 0


def rows() -> set[Row]:
    """List the rows of the machine's own table: every state, with every mark that changes what it does."""
    marks = [field.name for field in msgspec.structs.fields(Update) if field.type is bool]
    offer = Offer(rollout="ab" * 32, epoch=0, index=0, run=1, path="/nix/store/x")
    found = set()
    for phase, values in itertools.product(Phase, itertools.product((False, True), repeat=len(marks))):
        update = replace(
            Update(phase=phase, offer=offer, give_up_s=0, boot_id=""), **dict(zip(marks, values, strict=True))
        )
        found |= {(phase, _name(update, effect)) for effect in moves.work(update, State(update=update))}
    return found


def _name(update: Update, effect: Effect) -> str:
    """Name what a state does; the end of a trial is another row than the same effect before it."""
    name = type(effect).__name__
    return f"{name} of a trial" if update.tried and name in {"Check", "GoBack"} else name


def row_of(state: State) -> Row | None:
    """Say in which row of the table a state is; None before and between updates."""
    effects = moves.work(state.update, state) if state.update is not None else []
    return (state.update.phase, _name(state.update, effects[0])) if state.update is not None and effects else None


class LabStore:
    """The made-up Nix, with a step noted after each command that changes something."""

    def __init__(self, store: MadeUpStore, step: Callable[[], None]) -> None:
        self._store = store
        self._step = step

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Give a command."""
        act = getattr(self._store, name)

        async def call(*args: Any, **rest: Any) -> Any:
            answer = await act(*args, **rest)
            if name in {"realise", "repair", "add_root", "remove_root", "delete", "set_profile", "delete_generations"}:
                self._step()
            return answer

        return call


class LabJournal(Journal):
    """The real journal; the lab is asked before each write."""

    def __init__(self, folder: Path, before: Callable[[State, State], None]) -> None:
        super().__init__(folder)
        self._before = before

    def write(self, state: State) -> None:
        """Write, unless that is where the agent dies."""
        if state != self.state:
            self._before(self.state, state)
        super().write(state)


class Lab:
    """One device, one update, at most one fault."""

    def __init__(self, root: Path, scenario: Scenario, fault: Fault | None = None) -> None:
        self.machine = Machine(root)
        self.scenario = scenario
        self.fault = fault
        self.loader = BootLab(self.machine, scenario.loader)
        self.old = self.loader.system("old", "6.1")
        toml = None if scenario.agent else ""
        self.new = self.loader.system("new", scenario.kernel, at="cache", code=scenario.code, agent_toml=toml)
        if not scenario.agent:
            (root / "cache" / Path(self.new).name / "etc/systemd/system/nixfleet-agent.service").unlink()
        self.loader.install(self.old)
        self.store = MadeUpStore(self.machine, wrong_digests=scenario.wrong_digests)
        verb = cast("Any", scenario.verb)
        policy = cast("Any", scenario.reboot)
        self.offer = replace(
            self.machine.offer(self.new), verb=verb, reboot=policy, confirm_s=60, orphan_s=60, for_s=90
        )
        self.visited: dict[Row, int] = {}
        """Rows in order, each with the steps inside its effect."""
        self.outcomes: set[str] = set()
        self.now = 100
        self._boots = 1
        self._steps = 0
        self._inside: Row | None = None
        self.guarded = False
        """Whether a guard watched when the agent died for long."""
        self._parked = asyncio.Event()

    # What goes wrong

    def _hit(self, kind: str, row: Row | None) -> bool:
        """Tell whether the fault is due here; it comes once."""
        if self.fault is None or (self.fault.kind, self.fault.row) != (kind, row):
            return False
        self.fault = None
        return True

    def _step(self) -> None:
        """Note a step inside an effect; die after it, if it is the chosen one."""
        self._judge_default()
        if self._inside is None:
            return
        self._steps += 1
        self.visited[self._inside] = max(self._steps, self.visited.get(self._inside, 0))
        if self.fault is not None and self.fault.point == self._steps and self._hit("during", self._inside):
            raise Killed

    def _judge_default(self) -> None:
        """Where the boot loader falls back, no crash here may leave an unconfirmed system what is always booted."""
        update = Journal(self.machine.state_dir).state.update
        kept = update is not None and (update.defaulting or update.phase is Phase.CONFIRMED)
        needs = self.scenario.loader != "none" and self.scenario.kernel != "6.1"
        assert not needs or kept or self.loader.default() != self.new, f"{update} is booted for ever"

    def _before_write(self, before: State, after: State) -> None:
        self._judge_default()
        row = row_of(after)
        if row is None or row == row_of(before):
            return
        if self._hit("before the write", row):
            raise Killed
        if self._hit("power cut", row):
            data = msgspec.json.encode(after)
            (self.machine.state_dir / ".journal.json.torn").write_bytes(data[: len(data) // 2])
            self._cut_power()
            raise Killed

    def _cut_power(self) -> None:
        """End all that runs, and boot what the boot loader has."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(self.machine.root).encode() in words:
                os.kill(int(entry.name), signal.SIGKILL)
        self.reboot()

    def reboot(self) -> None:
        """Start another boot, whose clock begins anew."""
        self._boots += 1
        self.now = 5
        booted = self.loader.reboot(f"boot-{self._boots}")
        if booted == self.new and not self.scenario.boots:
            self.loader.reboot(f"boot-{self._boots}")  # it hangs, and somebody or a watchdog resets it

    async def _tool(self, argv: Sequence[str], timeout_s: float) -> Ran:
        """Run a small command; a reboot ends the agent, too."""
        if argv[0] != "reboot":
            ran = await self.loader.run(argv, timeout_s)
            self._step()
            return ran
        row = self._inside
        if not self._hit("after the effect", row):
            self._hit("after the effect, and stays away", row)
        self.reboot()
        raise Killed

    # The agent

    async def run(self) -> None:
        """Live, die and live again, until the update has ended and its outcome is delivered."""
        for _ in range(LIVES):
            fault = self.fault
            if await self._live():
                return
            if fault is not None and self.fault is None and fault.kind.endswith("and stays away"):
                await self._stay_away()
        raise AssertionError(f"no end after {LIVES} lives: {Journal(self.machine.state_dir).state.update}")

    async def _stay_away(self) -> None:
        """Come back only when the guard, if one watches, has acted."""
        guard = Guard(self.machine.state_dir / "guard", self.machine.host)
        self.guarded = (guard.folder / "armed").exists() and guard.watches()
        while guard.watches():  # noqa: ASYNC110 - another process ends
            await asyncio.sleep(0.01)

    async def _live(self) -> bool:
        """Run one agent; False when it died, or waits for a reboot, which comes."""
        host = self.machine.host
        self._parked = asyncio.Event()
        journal = LabJournal(self.machine.state_dir, self._before_write)
        runner = Runner(
            host=host,
            store=cast("Store", LabStore(self.store, self._step)),
            settings=Settings(state_dir=str(self.machine.state_dir), volatile_state=True),
            watcher=Silent(),
            cache_base=lambda: "http://coordinator.example",
            names=lambda: {"web-01"},
            run=self._tool,
        )
        switcher = cast("Switcher", runner._switcher)
        start = switcher._start

        def started(*told: Any) -> Any:
            answer = start(*told)
            self._step()
            return answer

        setattr(switcher, "_start", started)  # noqa: B010 - a step
        clock = Clock(wall=lambda: self.now, boot=lambda: self.now)
        service = Service(journal, lambda effect: self._perform(runner, service, effect), clock, self._changed_by)
        self._service = service
        update = service.state.update
        undone, lines = runner.undone(update) if update is not None else ("", ())
        try:
            current, booted = host.current_system(), host.booted_system()
            told = Restarted(boot_id=host.boot_id(), current=current, booted=booted, undone=undone, lines=lines)
            service.start(told)
            self._changed_by(service.state, service.state)
            service.feed(Offered(offer=self.offer, boot_id=host.boot_id()))
            return await self._until_over(service)
        except Killed:
            return False
        finally:
            await self._let_go(service)

    async def _until_over(self, service: Service) -> bool:
        """Let the agent work, and time pass when it waits for that."""
        while True:
            task = service._task
            if task is not None or machine.wake_at(service.state) is None:
                parked = asyncio.create_task(self._parked.wait())
                await asyncio.wait({parked, *([task] if task is not None else [])}, return_when=asyncio.FIRST_COMPLETED)
                parked.cancel()
            if task is not None and task.done():
                task.result()
            if task is not service._task:
                continue
            state = service.state
            update = state.update
            assert update is not None
            await asyncio.sleep(0)  # what was delivered is noted
            ended = update.phase in machine.ENDED and update.retry_s is None
            if ended and not service.state.outbox and (task is None or task.done()):
                return True
            waits = update.phase is Phase.REBOOT_PENDING and not update.rebooting
            if waits and task is not None and task.done():
                self.reboot()
                return False
            due = machine.wake_at(service.state)
            if due is None and self._parked.is_set():
                return False  # it hangs for ever: somebody ends it
            if due is not None:
                self._parked.clear()
                self.now = max(self.now, due)
                service.feed(Tick())

    async def _let_go(self, service: Service) -> None:
        service.halt()
        try:
            await service.close()
        except Killed:
            return

    def _changed_by(self, _: State, after: State) -> None:
        """Take each outcome, as a coordinator does, and acknowledge it."""
        for one in after.outbox:
            self.outcomes.add(f"{one.outcome} {one.rollout} {one.run}")
            loop = asyncio.get_running_loop()
            loop.call_soon(self._service.feed, Delivered(rollout=one.rollout, run=one.run))

    async def _perform(self, runner: Runner, service: Service, effect: Effect) -> Event | None:
        row = row_of(service.state)
        assert row is not None
        self.visited.setdefault(row, 0)
        if self._hit("after the write", row) or self._hit("after the write, and stays away", row):
            raise Killed
        if self._hit("fails", row):
            return Trouble(cause=Cause.INTERNAL, reason="it failed", later=True)
        if self._hit("hangs", row):
            return await self._park()
        self._inside, self._steps = row, 0
        try:
            answer = await self._contact() if isinstance(effect, Contact) else await runner.perform(effect)
        finally:
            self._inside = None
        if self._hit("after the effect", row) or self._hit("after the effect, and stays away", row):
            raise Killed
        return answer

    async def _contact(self) -> Event:
        name = self.machine.host.current_system().rpartition("-")[2]
        return Contacted(by="coordinator") if name in self.scenario.contact else await self._park()

    async def _park(self) -> Event:
        """Wait for ever."""
        self._parked.set()
        await asyncio.Event().wait()
        raise AssertionError("that was not for ever")

    # What came of it

    def end(self) -> dict[str, object]:
        """Say what the device came to, in the words of the invariants."""
        host = self.machine.host
        state = Journal(self.machine.state_dir).state
        names = {self.old: "old", self.new: "new"}
        calls = [one.split()[1] for one in self.machine.switches()]
        return {
            "outcomes": sorted(one.split()[0] for one in self.outcomes),
            "runs": (names[host.current_system()], names[host.profile_system()]),
            "at most once": calls.count(self.new) <= 1,
            "confirmed": len(state.confirmed),
            "guarded": (self.machine.state_dir / "guard").exists(),
            "incoming": host.gc_root("incoming").is_symlink(),
            "boots": (names[self.loader.default()], self.loader.told_once()),
        }
