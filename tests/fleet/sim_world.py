"""A small made-up fleet to which anything may happen: the acts of a person, of the machines, and of the clocks.

Each step is an act, a number that says on whom or how, and the seconds that pass after it.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Self, TypeVar

import msgspec
from tests.fleet.sim_watch import Signed, Watch

from nixfleet.agent.machine import ENDED
from nixfleet.client import acts
from nixfleet.client.acts import Head, RolloutWishes
from nixfleet.client.admin import Act, Admin
from nixfleet.client.api import Client
from nixfleet.client.drafts import reaching
from nixfleet.errors import Conflict, NixfleetError, Refused, Unreachable, UserError
from nixfleet.model.device import Phase, mends_itself
from nixfleet.model.ids import Selector
from nixfleet.model.statements import Activation, SelectLine, StopAt, Wave
from nixfleet.model.views import DeviceView
from nixfleet.sim.device import SimDevice
from nixfleet.sim.fleet import Fleet
from nixfleet.sim.machine import store_path
from nixfleet.sim.scenario import Scenario, checked
from nixfleet.sim.systems import System
from nixfleet.trust.replay import State
from nixfleet.trust.statements import digest, encode

T = TypeVar("T")
Step = tuple[str, int, int]

SPEED = 300
TRIES = 5
LIMIT_S = 120.0
REVIVED_S = 15.0
ANY = "any"
RINGS = ("main", "canary")
SCENARIO = {
    "name": "acme",
    "group": [
        {"name": "web-{n}", "count": 3, "tags": {"ring": ["canary", "main", "main"]}, "mbyte_s": [5, 20]},
        {"name": "kiosk-{n}", "count": 3, "tags": {"ring": ["main"], "screen": ["a"]}, "fails": 0.2, "asks": 1},
    ],
    "release": [
        {"name": "good", "version": "25.11.1", "mib": 20},
        {"name": "bad", "version": "25.11.2", "mib": 20, "bad": [{"on": {"screen": ["a"]}, "unit": "ui.service"}]},
        {"name": "kernel", "version": "25.11.3", "mib": 20, "reboot": True},
        {"name": "worse", "version": "25.11.4", "mib": 20, "bad": [{"unit": "net.service"}]},
    ],
}
_PATIENT = Activation(confirm_s=1_800)
"""Long enough for a machine that is slow at this speed."""
RELEASES = ("good", "bad", "kernel", "worse", ANY)
SHAPES = (
    RolloutWishes(
        waves=[Wave(members="100%")], max_in_flight=2, stop_at=StopAt(count=2), soak_s=0, activation=_PATIENT
    ),
    RolloutWishes(
        waves=[Wave(members=1), Wave(members="100%")],
        max_in_flight=1,
        stop_at=StopAt(count=1),
        soak_s=60,
    ),
    RolloutWishes(
        waves=[Wave(members=1), Wave(members="100%", gate="signed")],
        max_in_flight=3,
        stop_at=StopAt(count=2),
        soak_s=30,
    ),
    RolloutWishes(
        waves=[Wave(members={"ring": ("canary",)}), Wave(members="50%"), Wave(members="100%")],
        max_in_flight=2,
        stop_at=StopAt(count=2),
        soak_s=60,
        device_timeout_s=600,
    ),
)
CLOCKS_S = (-3_600, -90, -20, 20, 90, 3_600)
"""By how much a coordinator's clock is stepped."""
DEVICE_CLOCKS_S = (-1_764_000_000, 1_400_000_000, -3_600, 0)
"""How far a device's clock is off: it is 1970 there, 2070, an hour late, right."""


class World:
    """The fleet, who watches it, and what is known to have been done to it; a context manager."""

    def __init__(self, seed: int = 1) -> None:
        """Prepare."""
        self.fleet = Fleet(checked(msgspec.convert(SCENARIO, Scenario), "test"), seed, speed=SPEED)
        self.watch = Watch(self.fleet.clock.passed_s)
        self.rollouts: list[str] = []
        self.retired: set[str] = set()
        self.up = True
        self._reviving: set[asyncio.Task[None]] = set()
        self.fleet.made = self._made

    def __enter__(self) -> Self:
        self.fleet.start()
        try:
            self.fleet.until(lambda: self.fleet.all_on, LIMIT_S)
            self._publish_any()
        except BaseException:
            self.fleet.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.fleet.stop()

    def _made(self, device: SimDevice) -> None:
        self.watch.tags[device.kind.name] = [device.kind.tags]
        device.make_journal = self.watch.journal(device, self._killed)

    def _killed(self, name: str) -> None:
        """Clear away an agent that died, and start it anew a while later, as a service manager does."""
        task = asyncio.get_running_loop().create_task(self._revive(self.fleet.devices[name]))
        self._reviving.add(task)
        task.add_done_callback(self._reviving.discard)

    async def _revive(self, device: SimDevice) -> None:
        await device.crash()
        await asyncio.sleep(REVIVED_S)
        await device.restart()

    def _publish_any(self) -> None:
        """Publish a release that has the same system for whoever joins."""
        system = System(path=store_path("any-25.11.5"), version="25.11.5", kernel="6.12.41", mib=20)
        for device in self.fleet.devices.values():
            device.machine.catalog[system.path] = system
        line = SelectLine(select={}, closure=system.closure)
        self.fleet.act(lambda admin: admin.release(ANY, lines=[line]))

    def _paths(self, release: str) -> dict[str, frozenset[str]]:
        if release == ANY:
            return dict.fromkeys(self.fleet.devices, frozenset({store_path("any-25.11.5")}))
        members = (name for name, device in self.fleet.devices.items() if not device.kind.asks)
        return {name: frozenset({self.fleet.path(name, release)}) for name in members}

    # Steps

    def step(self, act: str, number: int = 0, then_s: int = 0) -> None:
        """Do something, and let time pass."""
        getattr(self, f"do_{act}")(number)
        self.let_pass(then_s)

    def let_pass(self, span_s: float) -> None:
        """Let so many seconds pass."""
        until_s = self.fleet.clock.passed_s() + span_s
        self.fleet.until(lambda: self.fleet.clock.passed_s() >= until_s, LIMIT_S)

    def do_nothing(self, _: int) -> None:
        """Only let time pass."""

    def device(self, number: int) -> SimDevice:
        """Pick a device."""
        devices = list(self.fleet.devices.values())
        return devices[number % len(devices)]

    # A person's acts: what is refused has not happened

    def _act(self, work: Callable[[Admin], Awaitable[object]]) -> bool:
        if not self.up:
            return False
        self._reach(lambda _: self.fleet.mirror.catch_up(self.fleet.client))
        try:
            self.fleet.act(work)
        except (Conflict, Refused, UserError, Unreachable):
            return False
        return True

    def _reach(self, work: Callable[[Admin], Awaitable[T]]) -> T:
        """Ask until an answer comes: a kept connection may break off, for a minute of theirs is an instant of ours."""
        for _ in range(TRIES):
            with suppress(Unreachable):
                return self.fleet.act(work)
        return self.fleet.act(work)

    def _roll(self, wishes: RolloutWishes, paths: Mapping[str, frozenset[str]], **what: str) -> None:
        """Sign a rollout; whoever watches knows of it before anybody else does."""
        built: list[Signed] = []

        def build(head: Head, state: State) -> list[Act]:
            found = {"release": acts.find_release(state, what["release"])} if "release" in what else what
            made = reaching(state, acts.rollout_of(head, state, wishes, **found))
            assert made.stop_at.count is not None
            signed = Signed(
                digest=digest(encode(made)),
                at_s=self.fleet.clock.passed_s(),
                paths=dict(paths),
                of=what.get("of", ""),
                select=made.select,
                max_in_flight=made.max_in_flight,
                stop_at=made.stop_at.count,
                soak_s=made.soak_s,
                timeout_s=made.device_timeout_s,
                signed_waves=frozenset(n for n, wave in enumerate(made.waves, start=1) if wave.gate == "signed"),
            )
            built.append(signed)
            self.watch.rollouts[signed.digest] = signed
            return [Act(made)]

        if self._act(lambda admin: admin.act(build)) or built:
            self._reach(lambda _: self.fleet.mirror.catch_up(self.fleet.client))
        for one in built:
            if one.digest in self.fleet.admin.state.rollouts:
                self.rollouts.append(one.digest)
            else:
                del self.watch.rollouts[one.digest]

    def deploy(self, release: str, wishes: RolloutWishes) -> None:
        """Bring a release to devices."""
        self._roll(wishes, self._paths(release), release=release)

    def do_deploy(self, number: int) -> None:
        """Bring a release to all, or to a ring."""
        ring: Selector = {"ring": ("main",)}
        select = ring if number // 20 % 3 == 2 else None
        wishes = dataclasses.replace(SHAPES[number // 5 % 4], select=select, activation=_PATIENT)
        self.deploy(RELEASES[number % 5], wishes)

    def do_rollback(self, number: int) -> None:
        """Take a rollout back."""
        if self.rollouts:
            wishes = dataclasses.replace(SHAPES[number % 2], activation=_PATIENT)
            self._roll(wishes, {}, of=self.rollouts[-1 - number % len(self.rollouts)])

    def _control(self, verb: str, number: int, **more: object) -> bool:
        if not self.rollouts:
            return False
        which = self.rollouts[-1 - (number // 4) % len(self.rollouts)]
        return self._act(lambda admin: admin.control(which, verb, **more))  # type: ignore[arg-type]  # drawn

    def do_pause(self, number: int) -> None:
        """Pause a rollout."""
        self._control("pause", number)

    def do_resume(self, number: int) -> None:
        """Resume a rollout: whatever it has stopped for may happen again."""
        self._lift()
        self._control("resume", number)

    def do_retry(self, number: int) -> None:
        """Let the failed devices of a rollout try again."""
        self._lift()
        self._control("retry", number, devices="failed")

    def do_cancel(self, number: int) -> None:
        """Cancel a rollout."""
        self._control("cancel", number)

    def do_advance(self, number: int) -> None:
        """Open a wave of the newest rollout that waits for a signature."""
        wave = 2 + number % 2
        for signed in list(self.watch.rollouts.values())[-1:]:
            signed.advanced.setdefault(wave, self.fleet.clock.passed_s())
            if not self._control("advance", 0, wave=wave):
                del signed.advanced[wave]

    def _lift(self) -> None:
        for signed in self.watch.rollouts.values():
            signed.lifted += 1

    def do_hold(self, number: int) -> None:
        """Hold a device for an hour."""
        self._excuse(number, lambda admin, one: admin.hold([one], self.fleet.clock.wall_s() + 3_600))

    def do_unhold(self, number: int) -> None:
        """Let a device go on."""
        self._excuse(number, lambda admin, one: admin.unhold([one]))

    def do_retire(self, number: int) -> None:
        """Retire a device, but leave most of them."""
        name = self.device(number).kind.name
        if len(self.retired | {name}) <= 2 and self._excuse(number, lambda admin, one: admin.retire([one])):
            self.retired.add(name)

    def do_retag(self, number: int) -> None:
        """Move a device to the other ring."""
        known = self.watch.tags[self.device(number).kind.name]
        ring = RINGS[known[-1]["ring"] == RINGS[0]]
        known.append({**known[-1], "ring": ring})
        if not self._excuse(number, lambda admin, one: admin.tag([one], {"ring": ring})):
            known.append(known[-2])

    def _excuse(self, number: int, work: Callable[[Admin, str], Awaitable[object]]) -> bool:
        device = self.device(number)
        self.watch.excused.add(device.kind.name)
        return self._act(lambda admin: work(admin, device.id))

    def do_join(self, _: int) -> None:
        """Let in who asks."""
        if not self.up:
            return
        for request in self._ask(lambda client: client.enroll_requests()):
            self._act(lambda admin, request=request: admin.enroll(request))  # type: ignore[misc]  # bound here

    # What befalls machines, lines and clocks

    def do_cut(self, number: int) -> None:
        """Cut a device's line."""
        self.fleet.disconnect(self.device(number).kind.name)

    def do_mend(self, number: int) -> None:
        """Mend a device's line."""
        self.fleet.connect(self.device(number).kind.name)

    def do_die(self, number: int) -> None:
        """Let an agent die at one of its next effects, before or after that is written down."""
        self.watch.deaths[self.device(number).kind.name] = (number // 6 % 8, number % 2 == 0)

    def do_reboot(self, number: int) -> None:
        """Take a machine down, and boot it."""
        self.fleet.reboot(self.device(number).kind.name)

    def do_down(self, _: int) -> None:
        """Stop the coordinator."""
        if self.up:
            self.fleet.stop_coordinator()
        self.up = False

    def do_up(self, _: int) -> None:
        """Start the coordinator on what it had stored."""
        if not self.up:
            self.fleet.start_coordinator()
        self.up = True

    def do_bounce(self, number: int) -> None:
        """Stop the coordinator, and start it anew."""
        self.do_down(number)
        self.do_up(number)

    def do_clock(self, number: int) -> None:
        """Step the coordinator's clock."""
        self.fleet.coordinator_off_s += CLOCKS_S[number % len(CLOCKS_S)]

    def do_device_clock(self, number: int) -> None:
        """Set a device's clock wrong, or right."""
        self.device(number).clock_off_s = DEVICE_CLOCKS_S[number // 6 % len(DEVICE_CLOCKS_S)]

    def do_sleep(self, number: int) -> None:
        """Let everything sleep: a laptop that was closed."""
        self.fleet.clock.leap((50, 120, 3_600)[number % 3])

    # Judging

    def _ask(self, work: Callable[[Client], Awaitable[T]]) -> T:
        return self._reach(lambda _: work(self.fleet.client))

    def breaches(self, *, at_end: bool = False) -> list[str]:
        """List what must not have come about; who began past a gate is told by the times, and so at the end."""
        found = [*self.watch.breaches, *self.watch.too_many_failures(), *self.watch.systems(self.fleet)]
        if at_end:
            for one in self.rollouts:
                detail = self._ask(lambda client, one=one: client.rollout(one))  # type: ignore[misc]  # bound here
                waves = {member.name: member.wave for member in detail.members}
                found += self.watch.past_gates(one, waves, stopped=bool(detail.rollout.stops))
        return [*found, *map(repr, self.fleet.faults)]

    def settle(self) -> None:
        """Put machines, lines and clocks right, and wait until nothing moves but by somebody's act.

        Raises: Unreachable when that does not come about.
        """
        self.do_up(0)
        self.fleet.coordinator_off_s = 0.0
        self.watch.deaths.clear()
        for name, device in self.fleet.devices.items():
            device.clock_off_s = 0
            self.fleet.connect(name)
        self.let_pass(240)
        left: list[str] = []

        def settled() -> bool:
            left[:] = self.unsettled()
            return not left

        try:
            self.fleet.until(settled, LIMIT_S)
        except NixfleetError as error:
            error.add_note("\n".join(left))
            raise
        size = self.fleet.mirror.size
        for name, device in self.fleet.devices.items():
            if device.agent is not None and name not in self.retired and name in self._views():
                self._reach(lambda _, agent=device.agent: agent.link.sync())  # type: ignore[misc]  # bound here
                assert device.agent.link.mirror.size >= size, f"{name} has an agent that does not sync"

    def _views(self) -> dict[str, DeviceView]:
        return {one.name: one for one in self._ask(lambda client: client.devices())}

    def unsettled(self) -> list[str]:
        """List devices and rollouts that have neither come to an end nor say why they wait."""
        found = []
        for name, view in self._views().items():
            agent = self.fleet.devices[name].agent
            if name in self.retired or agent is None:
                continue
            state = agent.service.state
            if not view.online:
                found.append(f"{name} is not online")
            if state.outbox:
                found.append(f"{name} has not told {len(state.outbox)} outcomes")
            update = state.update
            if update and update.phase not in {*ENDED, Phase.REBOOT_PENDING} and not update.held:
                found.append(f"{name} is {update.phase}: {update.reason}")
        for one in self.rollouts:
            found += self._unexplained(one)
        return found

    def _unexplained(self, digest: str) -> list[str]:
        detail = self._ask(lambda client: client.rollout(digest))
        rollout, found = detail.rollout, []
        if rollout.state in {"cancelled", "superseded", "expired"}:
            return []
        waves = {wave.number: wave.waits for wave in rollout.waves}
        for member in detail.members:
            why = rollout.waits or waves.get(member.wave) or member.waits
            if member.outcome is None and not why and member.phase is not Phase.REBOOT_PENDING and not member.overdue:
                found.append(f"{member.name} in {digest[:8]} ({rollout.state}) is {member.phase}, for no reason")
            told = [one for one in self.watch.tries if (one.device, one.rollout) == (member.name, digest)]
            was = told[-1] if told and not mends_itself(told[-1].outcome, told[-1].cause) else None
            if was is not None and member.outcome and was.outcome not in {None, member.outcome}:
                found.append(f"{member.name} is shown as {member.outcome}, and was {was.outcome}")
        return found


def play(steps: Sequence[Step], seed: int = 1) -> World:
    """Let all of that happen to a new fleet; whatever must hold is judged after each step, and at the end."""
    with World(seed) as world:
        for number, step in enumerate(steps):
            world.step(*step)
            assert world.breaches() == [], f"after step {number + 1}, {step}"
        world.settle()
        assert world.breaches(at_end=True) == [], "at the end"
    return world
