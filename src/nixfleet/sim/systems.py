"""The systems of a made-up fleet, and how they come onto a machine: the made-up caches, downloads and switches."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from nixfleet.agent.guarding import Guarding
from nixfleet.agent.host import Host
from nixfleet.agent.jobs import Job
from nixfleet.agent.units import Ran
from nixfleet.agent.update import Armed, Disarmed, Event, Offer, Result, Switched
from nixfleet.model.statements import Closure
from nixfleet.nix import Cache, Fault, FaultKind, FetchLimits, MissingBytes, NixError, Progress
from nixfleet.sim.closures import Contents
from nixfleet.sim.machine import Machine, digest_of, set_profile, store_path
from nixfleet.sim.network import Line
from nixfleet.sim.scenario import Kind, Release
from nixfleet.sim.store import MadeUpStore

PLATFORM = "x86_64-linux"
SWITCH_S = (4.0, 12.0)
FIRST_MIB = 240
"""What the build that devices begin with would have weighed."""
FIRST_KERNEL = "6.12.38"
"""What they have booted, and what every release has that takes no reboot."""
_LOOK_S = 0.5


class System(msgspec.Struct, frozen=True, kw_only=True):
    """A system of a device, and what becomes of who switches to it."""

    path: str
    version: str
    kernel: str
    mib: int = 0
    reboot: bool = False
    breaks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Units that fail, each with the last lines of its journal."""
    packages: tuple[tuple[str, str], ...] = ()
    """Names and versions of what is in it."""

    @property
    def contents(self) -> Contents:
        """What it consists of, for the cache."""
        return Contents(
            path=self.path,
            build=self.version,
            kernel=self.kernel,
            packages=dict(self.packages),
            mib=self.mib or FIRST_MIB,
            boots_anew=self.reboot,
        )

    @property
    def closure(self) -> Closure:
        """What a release says of it."""
        return Closure(path=self.path, system=PLATFORM, digest=digest_of(self.path), nar_size=self.mib << 20)


Catalog = dict[str, System]
"""What the caches have, by store path."""


def first_system(kind: Kind) -> System:
    """Give the system that a device runs at the beginning."""
    version = kind.group.runs
    packages = tuple(kind.group.packages.items())
    return System(path=store_path(f"{kind.name}-{version}"), version=version, kernel=FIRST_KERNEL, packages=packages)


def released(release: Release, kind: Kind, seed: int) -> System:
    """Give a device's system of a release."""
    chance = random.Random(f"{seed}/{kind.name}/{release.name}").random()  # noqa: S311 - a made-up fate, repeatable
    breaks = tuple(
        (bad.unit, bad.lines)
        for bad in release.bad
        if all(kind.tags.get(tag) in values for tag, values in bad.on.items()) and chance < bad.share
    )
    packages = {**kind.group.packages, **release.packages}
    return System(
        path=store_path(f"{kind.name}-{release.version}"),
        version=release.version,
        kernel=release.kernel if release.reboot else FIRST_KERNEL,
        mib=release.mib,
        reboot=release.reboot,
        breaks=breaks,
        packages=tuple((name, version) for name, version in packages.items() if version),
    )


@dataclass
class _Run:
    """A switch under way: it belongs to the machine, and outlives the agent that began it."""

    boot: int
    lines: list[str] = field(default_factory=list)
    task: "asyncio.Task[Switched] | None" = None


class SimMachine(Machine):
    """A machine whose systems come from a catalog, and whose switches are a timetable."""

    def __init__(self, root: Path, kind: Kind, catalog: Catalog, seed: int) -> None:
        """Install it, with the first system running."""
        super().__init__(root)
        self.kind, self.catalog = kind, catalog
        self.chance = random.Random(f"{seed}/{kind.name}")  # noqa: S311 - a made-up fate, repeatable
        self.failed: dict[str, tuple[str, ...]] = {}
        """Failed units, with the last lines of their journals."""
        self.boots = 1
        self.switched: list[str] = []
        """The store paths that it was switched to, or is being, in this order."""
        self.fetched_bytes: dict[str, float] = {}
        self._runs: dict[str, _Run] = {}
        self._write_facts()
        self.bring(first_system(kind))
        self.boot(first_system(kind).path)

    def _write_facts(self) -> None:
        chance = random.Random(self.kind.name)  # noqa: S311 - made-up facts, repeatable
        host, memory_kib = self.kind.name, chance.choice((4, 8, 8, 16)) << 20
        address = f"10.{chance.randrange(1, 250)}.{chance.randrange(250)}.{chance.randrange(2, 250)}"
        (self.root / "run/systemd/system").mkdir(parents=True)
        self.write("/proc/sys/kernel/hostname", f"{host}\n")
        self.write("/proc/sys/kernel/osrelease", f"{FIRST_KERNEL}\n")
        self.write("/etc/machine-id", f"{chance.getrandbits(128):032x}\n")
        self.write("/proc/meminfo", f"MemTotal: {memory_kib} kB\n")
        self.write("/proc/net/fib_trie", f"  |-- {address}\n     /32 host LOCAL\n")
        vendor, _, product = self.kind.model.partition(" ")
        self.write("/sys/class/dmi/id/sys_vendor", f"{vendor}\n")
        self.write("/sys/class/dmi/id/product_name", f"{product}\n")
        (self.root / "etc/localtime").symlink_to("/etc/zoneinfo/Europe/Berlin")

    def bring(self, system: System) -> None:
        """Put a system into the store."""
        if not self.host.at(system.path).exists():
            self.system(system.path.partition("-nixos-system-")[2])
            self.write(f"{system.path}/nixos-version", f"{system.version}\n")

    def reboot(self) -> None:
        """Boot what the profile says; a switch that ran ends nowhere."""
        for run in self._runs.values():
            if run.task is not None:
                run.task.cancel()
        self.boots += 1
        path = self.host.profile_system()
        self.write("/proc/sys/kernel/random/boot_id", f"boot-{self.boots}\n")
        self.write("/proc/sys/kernel/osrelease", f"{self._known(path).kernel}\n")
        self.boot(path)
        self.failed = dict(self._known(path).breaks)

    def run_of(self, key: str, path: str, verb: str) -> _Run:
        """Find the switch that was begun under a key, or begin it."""
        if key not in self._runs:
            run = self._runs[key] = _Run(self.boots)
            self.switched.append(path)
            run.task = asyncio.create_task(self._switch(run, path, verb), name=f"switch of {self.kind.name}")
        return self._runs[key]

    def end(self) -> None:
        """Switch it off."""
        for run in self._runs.values():
            if run.task is not None:
                run.task.cancel()

    def _known(self, path: str) -> System:
        return self.catalog.get(path) or first_system(self.kind)

    async def _switch(self, run: _Run, path: str, verb: str) -> Switched:
        system, span_s = self._known(path), self.chance.uniform(*SWITCH_S)
        back = path == first_system(self.kind).path
        fails = not back and self.chance.random() < self.kind.group.fails
        for line in (
            "stopping the following units: nscd.service",
            "activating the configuration...",
            "setting up /etc...",
        ):
            run.lines.append(line)
            await asyncio.sleep(span_s / 4)
        if fails:
            run.lines.append("Activation script snippet 'etc' failed (1)")
            return Switched(result=Result.ERROR, exit_code=1, reason="the switch ended with exit code 1")
        if verb == "boot" or system.reboot:
            run.lines.append("the new kernel and its modules need a reboot")
            return Switched(result=Result.REBOOT, exit_code=100)
        run.lines.append("starting the following units: nscd.service")
        await asyncio.sleep(span_s / 4)
        self._runs_now(path, verb)
        self.failed = dict(system.breaks)
        if system.breaks:
            run.lines.append(f"warning: the following units failed: {', '.join(self.failed)}")
            run.lines += [line for lines in self.failed.values() for line in lines]
            return Switched(result=Result.UNITS, exit_code=4)
        return Switched(result=Result.DONE, exit_code=0)

    def _runs_now(self, path: str, verb: str) -> None:
        place = self.root / "run" / "current-system"
        fresh = place.with_name("current-system.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(path)
        fresh.rename(place)
        if verb != "test":
            set_profile(self.host, path)

    async def run_tool(self, argv: Sequence[str], timeout_s: float) -> Ran:  # noqa: ARG002 - as a real one is called
        """Answer what an agent asks systemd: which units have failed, and what they said."""
        match argv[0], argv[1]:
            case "systemctl", "list-units" if "--state=active" in argv:
                return Ran(0, ())
            case "systemctl", "list-units":
                return Ran(0, tuple(f"{unit} loaded failed failed" for unit in self.failed))
            case "journalctl", "--unit":
                return Ran(0, self.failed.get(argv[2], ()))
            case _:
                return Ran(None, ())


class SimSwitcher:
    """Runs the switches of a made-up machine."""

    def __init__(
        self,
        machine: SimMachine,
        on_lines: Callable[[Offer, tuple[str, ...]], None],
        told: Callable[[tuple[str, ...]], tuple[str, ...]],
    ) -> None:
        """Prepare; see `nixfleet.agent.switching.Switcher`."""
        self._machine, self._on_lines, self._told = machine, on_lines, told

    async def run(self, job: Job, offer: Offer, path: str, verb: str) -> Switched:
        """Begin a switch, or find the one that was begun, and wait for its end."""
        run = self._machine.run_of(job.folder.name, path, verb)
        if run.boot != self._machine.boots:
            return Switched(result=Result.INTERRUPTED, reason="the machine went down during the switch")
        assert run.task is not None, "a switch is begun when it is made"
        seen = 0
        while not run.task.done():
            await asyncio.wait([run.task], timeout=_LOOK_S)
            if run.lines[seen:]:
                self._on_lines(offer, tuple(run.lines[seen:]))
                seen = len(run.lines)
        if run.task.cancelled():
            return Switched(result=Result.INTERRUPTED, reason="the switch was interrupted")
        return msgspec.structs.replace(run.task.result(), lines=self._told(tuple(run.lines)))


class MakeSimSwitcher:
    """Makes the switcher of one machine."""

    def __init__(self, machine: SimMachine) -> None:
        self._machine = machine

    def __call__(
        self,
        host: Host,
        on_lines: Callable[[Offer, tuple[str, ...]], None],
        told: Callable[[tuple[str, ...]], tuple[str, ...]],
        /,
    ) -> SimSwitcher:
        """Make it."""
        assert host is self._machine.host, "a switcher is its machine's own"
        return SimSwitcher(self._machine, on_lines, told)


class SimGuarding(Guarding):
    """A guard in name alone: an agent of the simulation is never dead for good."""

    async def arm(self, job: Job, offer: Offer, previous: str) -> Event:  # noqa: ARG002 - as the real one
        """Say that it watches."""
        return Armed()

    async def disarm(self, job: Job) -> Event:  # noqa: ARG002 - as the real one
        """Say that it is off."""
        return Disarmed()


class SimStore(MadeUpStore):
    """Nix whose downloads take their time, and go on where they broke off."""

    def __init__(self, machine: SimMachine, line: Line, tick_s: float) -> None:
        """Prepare; `tick_s` is how often a download tells how far it is."""
        super().__init__(machine)
        self._sim, self._line, self._tick_s = machine, line, tick_s
        self._bytes_s = machine.chance.uniform(*machine.kind.group.mbyte_s) * 1e6

    async def missing_bytes(self, path: str, caches: Sequence[Cache]) -> MissingBytes:  # noqa: ARG002 - as the real one
        """Tell what a system weighs, unless it is here."""
        size = 0 if await self.is_valid(path) or path not in self._sim.catalog else self._sim.catalog[path].mib << 20
        return MissingBytes(size, 2 * size)

    async def realise(
        self,
        path: str,
        *,
        caches: Sequence[Cache],  # noqa: ARG002 - as the real one
        root: Path,
        on_progress: Callable[[Progress], None],
        limits: FetchLimits | None = None,  # noqa: ARG002 - as the real one
    ) -> None:
        """Download a system from the catalog, as fast as the line of this device is."""
        system = self._sim.catalog.get(path)
        if system is None:
            raise _fault(FaultKind.missing, "no cache has it")
        whole = float(system.mib << 20) if not await self.is_valid(path) else 0.0
        done = min(self._sim.fetched_bytes.get(path, 0.0), whole)
        while done < whole:
            await asyncio.sleep(min(self._tick_s, (whole - done) / self._bytes_s))
            if not self._line.up:
                raise _fault(FaultKind.unreachable, "the cache cannot be reached")
            done = min(done + self._bytes_s * self._tick_s, whole)
            self._sim.fetched_bytes[path] = done
            on_progress(Progress(int(done), int(whole), int(300 * done / whole), 300, int(self._bytes_s)))
        self._sim.bring(system)
        await self.add_root(path, root)


def _fault(kind: FaultKind, reason: str) -> NixError:
    return NixError(("nix-store", "--realise"), 1, (), Fault(kind, reason))
