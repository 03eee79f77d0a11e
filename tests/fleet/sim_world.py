"""A small made-up fleet to which anything may happen: the acts of a person, of the machines, and of the clocks.

Each step is an act, a number that says on whom or how, and the seconds that pass after it.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Self, TypeVar

import msgspec
from tests.fleet.sim_shapes import ANY, CLOCKS_S, DEVICE_CLOCKS_S, PATIENT, RELEASES, RINGS, SCENARIO, SHAPES, THEIRS
from tests.fleet.sim_watch import Signed, Watch

from nixfleet.client import acts
from nixfleet.client.acts import Head
from nixfleet.client.admin import Act, Admin
from nixfleet.client.api import Client
from nixfleet.client.drafts import reaching
from nixfleet.client.grants import grant
from nixfleet.client.handing import GrantWishes
from nixfleet.errors import Conflict, Refused, Unreachable, UserError
from nixfleet.model.ids import Selector
from nixfleet.model.statements import SelectLine
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.sim.device import SimDevice
from nixfleet.sim.fleet import Fleet
from nixfleet.sim.machine import store_path
from nixfleet.sim.scenario import Scenario, checked
from nixfleet.sim.systems import System
from nixfleet.trust.replay import State
from nixfleet.trust.signers import MemorySigner
from nixfleet.trust.sshsig import SecretKey
from nixfleet.trust.statements import digest, encode

T = TypeVar("T")
Step = tuple[str, int, int]

SPEED = 300
TRIES = 5
LIMIT_S = 300.0
REVIVED_S = 15.0


class World:
    """The fleet, who watches it, and what is known to have been done to it; a context manager."""

    def __init__(self, seed: int = 1) -> None:
        """Prepare."""
        self.fleet = Fleet(checked(msgspec.convert(SCENARIO, Scenario), "test"), seed, speed=SPEED)
        self.watch = Watch(self.fleet.clock.passed_s)
        self.rollouts: list[str] = []
        self.ci = MemorySigner(SecretKey.generate())
        """The key of somebody who may deploy to one ring."""
        self.retired: set[str] = set()
        self._reviving: set[asyncio.Task[None]] = set()
        self.fleet.made = self._made

    def __enter__(self) -> Self:
        self.fleet.start()
        try:
            self.fleet.until(lambda: self.fleet.all_on, LIMIT_S)
            self._publish(ANY)
            self._publish(THEIRS)
            self._grant()
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

    def _publish(self, name: str) -> None:
        """Publish a release that has the same system for whoever joins."""
        system = System(path=store_path(name), version="25.11.5", kernel="6.12.41", mib=20)
        for device in self.fleet.devices.values():
            device.machine.catalog[system.path] = system
        line = SelectLine(select={}, closure=system.closure)
        self.fleet.act(lambda admin: admin.release(name, lines=[line]))

    def _grant(self) -> None:
        """Let somebody deploy to the main ring alone."""
        wishes = GrantWishes(
            name="ci",
            keys=(self.ci.key.text,),
            actions=("deploy",),
            select={"ring": (RINGS[0],)},
            not_after=self.fleet.clock.wall_s() + 90 * 86_400,
        )
        self.fleet.act(lambda admin: grant(admin, wishes))

    def _paths(self, release: str) -> dict[str, frozenset[str]]:
        if release in {ANY, THEIRS}:
            return dict.fromkeys(self.fleet.devices, frozenset({store_path(release)}))
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
        self.reach(lambda _: self.fleet.mirror.catch_up(self.fleet.client))
        try:
            self.fleet.act(work)
        except (Conflict, Refused, UserError, Unreachable):
            return False
        return True

    def reach(self, work: Callable[[Admin], Awaitable[T]]) -> T:
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
            self.reach(lambda _: self.fleet.mirror.catch_up(self.fleet.client))
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
        select: Selector | None = {"ring": ("main",)} if number // 20 == 2 else None
        wishes = dataclasses.replace(SHAPES[number // 5 % 4], select=select, activation=PATIENT)
        self.deploy(RELEASES[number % 5], wishes)

    def do_reach_too_far(self, number: int) -> None:
        """Let somebody who may deploy to one ring sign for all devices: only those of the ring may get it."""
        signed = Signed(
            digest=f"of {self.ci.key.fingerprint}",
            at_s=0,
            paths=self._paths(THEIRS),
            select={"ring": (RINGS[0],)},
        )
        self.watch.rollouts[signed.digest] = signed
        self._sign_without_a_look(self.ci, THEIRS, SHAPES[number % 2])

    def do_intrude(self, number: int) -> None:
        """Let a stranger sign a rollout: it must reach nobody."""
        self._sign_without_a_look(MemorySigner(SecretKey.generate()), RELEASES[number % 5], SHAPES[0])

    def _sign_without_a_look(self, signer: MemorySigner, release: str, wishes: RolloutWishes) -> None:
        """Sign and send what no honest program would: whether its signer may, is for others to find out."""
        who = Admin(self.fleet.client, self.fleet.mirror, signer, self.fleet.clock.wall_s)

        def build(head: Head, state: State) -> list[Act]:
            return [Act(acts.rollout_of(head, state, wishes, release=acts.find_release(state, release)))]

        self._act(lambda _: who.act(build))

    def do_rollback(self, number: int) -> None:
        """Take a rollout back."""
        if self.rollouts:
            wishes = dataclasses.replace(SHAPES[number % 2], activation=PATIENT)
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
        for request in self.ask(lambda client: client.enroll_requests()):
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

    def do_outage(self, number: int) -> None:
        """Stop the coordinator, and start it anew on what it had stored: at once, after a while, after long."""
        self.fleet.stop_coordinator()
        self.let_pass((0, 60, 300)[number % 3])
        self.fleet.start_coordinator()

    def do_clock(self, number: int) -> None:
        """Step the coordinator's clock."""
        self.fleet.coordinator_off_s += CLOCKS_S[number % len(CLOCKS_S)]

    def do_device_clock(self, number: int) -> None:
        """Set a device's clock wrong, or right."""
        self.device(number).clock_off_s = DEVICE_CLOCKS_S[number // 6 % len(DEVICE_CLOCKS_S)]

    def do_sleep(self, number: int) -> None:
        """Let everything sleep: a laptop that was closed."""
        self.fleet.clock.leap((50, 120, 3_600)[number % 3])

    # What there is to see

    def ask(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """Ask the coordinator something."""
        return self.reach(lambda _: work(self.fleet.client))
