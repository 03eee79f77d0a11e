"""Watch what the devices of a made-up fleet do, by their own journals and switches, and judge it from outside.

What a coordinator plans, stores or says is not asked here: a fault of the planner must not hide itself. Journals are
watched as they are written, which is also where an agent can be made to die: between an effect and its journal.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nixfleet.agent.journal import Journal
from nixfleet.agent.update import State, Update
from nixfleet.model.device import Attempt, Cause, Outcome, Phase, mends_itself
from nixfleet.model.ids import Selector, Tags, matches
from nixfleet.sim.device import SimDevice
from nixfleet.sim.fleet import Fleet
from nixfleet.sim.systems import first_system

STUCK = "could not go back"
"""How the reason of a device begins whose way back failed as well; it says so, and is shown as failed."""


_CONFIRMED = Outcome.CONFIRMED


@dataclass
class Try:
    """One try of one device at one rollout, as its journal tells."""

    device: str
    rollout: str
    run: int
    number: int
    path: str
    begun_s: float
    previous: str = ""
    ended_s: float | None = None
    outcome: Outcome | None = None
    cause: Cause = Cause.NONE
    reason: str = ""
    parked: bool = False
    """A reboot is pending."""

    @property
    def failed(self) -> bool:
        """Tell whether it ended, for good, on the old system."""
        bad = self.outcome in {Outcome.FAILED, Outcome.REVERTED, Outcome.REFUSED}
        return bad and not mends_itself(self.outcome, self.cause)


@dataclass
class Signed:
    """A rollout that the person signed: what it allows, and what lifted its limits since."""

    digest: str
    at_s: float
    paths: dict[str, frozenset[str]]
    """What it may bring to whom."""
    of: str = ""
    """The rollout that it takes back."""
    select: Selector = field(default_factory=dict)
    max_in_flight: int = 1
    stop_at: int = 1
    soak_s: int = 0
    timeout_s: int = 3_600
    lifted: int = 0
    """Signed resumes and retries: after each, as many may fail again."""
    signed_waves: frozenset[int] = frozenset()
    advanced: dict[int, float] = field(default_factory=dict)


@dataclass
class Watch:
    """What all devices did so far, and each breach of what must hold; used from the devices' event loop."""

    now_s: Callable[[], float]
    tries: list[Try] = field(default_factory=list)
    rollouts: dict[str, Signed] = field(default_factory=dict)
    tags: dict[str, list[Tags]] = field(default_factory=dict)
    """All tags that a device ever had."""
    excused: set[str] = field(default_factory=set)
    """Devices that were held, retired or tagged anew: when they leave counts and gates, only the log knows."""
    breaches: list[str] = field(default_factory=list)
    deaths: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """Who is to die: after so many more writes, and whether the last of them is still made."""

    def journal(self, device: SimDevice, killed: Callable[[str], None]) -> Callable[[Path], Journal]:
        """Give what opens a device's journal, which is then watched; `killed` is told of its death.

        What dies is cancelled where it stands: nothing after that is known to anybody.
        """
        watch = self

        class Watched(Journal):
            def write(self, state: State) -> None:
                before, name = self.state, device.kind.name
                if state == before:
                    return
                left, made = watch.deaths.get(name, (-1, True))
                if left > 0:
                    watch.deaths[name] = (left - 1, made)
                if left == 0 and not made:
                    del watch.deaths[name]
                    killed(name)
                    raise asyncio.CancelledError
                super().write(state)
                watch.wrote(device, before, state)
                if left == 0:
                    del watch.deaths[name]
                    killed(name)
                    raise asyncio.CancelledError

        return Watched

    # What a journal tells

    def wrote(self, device: SimDevice, before: State, after: State) -> None:
        """Take note of what a device has just made durable."""
        old, new = before.update, after.update
        if new is None or new == old:
            return
        name = device.kind.name
        if old is None or _key(old) != _key(new):
            if old is not None and old.outcome is None:
                self._ended(device, self._open(name), after.outbox)
            self._begun(name, new)
        one = self._open(name)
        if one is None:
            return
        one.previous, one.parked = new.previous, new.phase is Phase.REBOOT_PENDING
        if new.outcome is not None:
            self._ends(device, one, new.outcome, new.cause, new.reason)

    def _open(self, name: str) -> Try | None:
        found = [one for one in self.tries if one.device == name and one.ended_s is None]
        return found[-1] if found else None

    def _ended(self, device: SimDevice, one: Try | None, outbox: tuple[Attempt, ...]) -> None:
        """Take note of an update that a newer one replaced, in the write that began that."""
        for told in outbox:
            if one is not None and (told.rollout, told.run) == (one.rollout, one.run) and told.outcome is not None:
                self._ends(device, one, told.outcome, told.cause, told.reason)
                return
        self.breaches.append(f"{device.kind.name} began another update, and told no outcome of the one before")

    def _begun(self, name: str, update: Update) -> None:
        offer = update.offer
        new = Try(name, offer.rollout, offer.run, update.number, offer.path, self.now_s())
        for old in self.tries:
            if (old.device, old.rollout, old.run) != (name, new.rollout, new.run):
                continue
            if old.number == new.number:
                self.breaches.append(f"{name} began try {new.run}.{new.number} of {new.rollout[:8]} twice")
            elif old.outcome is None or not mends_itself(old.outcome, old.cause):
                self.breaches.append(f"{name} repeats try {new.run} of {new.rollout[:8]}, which was {old.outcome}")
        self.tries.append(new)
        self.breaches += self._too_many(new)
        if not self.may_have(name, new.path):
            self.breaches.append(f"{name} begins {new.path}, which nobody with the right signed for it")

    def _ends(self, device: SimDevice, one: Try, outcome: Outcome, cause: Cause, reason: str) -> None:
        one.ended_s, one.outcome, one.cause, one.reason = self.now_s(), outcome, cause, reason
        if outcome is _CONFIRMED:
            if device.system != one.path:
                self.breaches.append(f"{one.device} confirmed {one.path} but runs {device.system}")
        elif one.previous and device.system != one.previous and not reason.startswith(STUCK):
            self.breaches.append(f"{one.device} {outcome} ({reason}) but runs {device.system}, not {one.previous}")

    # What must hold

    def _too_many(self, new: Try) -> Iterator[str]:
        """Find more in flight than the rollout allows; who may be overdue by now is not counted."""
        signed = self.rollouts.get(new.rollout)
        if signed is None or new.begun_s - signed.at_s >= signed.timeout_s:
            return
        flying = {
            one.device
            for one in self.tries
            if one.rollout == new.rollout and one.ended_s is None and not one.parked and one.device not in self.excused
        }
        if len(flying) > signed.max_in_flight:
            yield f"{sorted(flying)} are in flight at once, {signed.max_in_flight} allowed"

    def may_have(self, name: str, path: str) -> bool:
        """Tell whether a rollout was signed that brings this path to a device with tags that it has or had."""
        kept = {(one.rollout, one.previous) for one in self.tries if one.device == name and one.outcome is _CONFIRMED}
        return any(
            (path in signed.paths.get(name, frozenset()) or (signed.of, path) in kept)
            and any(matches(signed.select, tags) for tags in self.tags.get(name, ()))
            for signed in self.rollouts.values()
        )

    def too_many_failures(self) -> Iterator[str]:
        """Find rollouts that went on after their limit: only who was in flight by then may fail as well."""
        for signed in self.rollouts.values():
            failed = {
                (one.device, one.run)
                for one in self.tries
                if one.rollout == signed.digest and one.failed and one.device not in self.excused
            }
            most = (signed.stop_at - 1 + signed.max_in_flight) * (1 + signed.lifted)
            if len(failed) > most and self.now_s() - signed.at_s < signed.timeout_s:
                yield f"{sorted(failed)} failed in {signed.digest[:8]}, which stops at {signed.stop_at}"

    def past_gates(self, digest: str, waves: dict[str, int], *, stopped: bool) -> Iterator[str]:
        """Find who began before the wave ahead of theirs had ended and soaked, or before a signature opened theirs."""
        signed = self.rollouts[digest]
        mine = [one for one in self.tries if one.rollout == digest and one.device not in self.excused]
        for one in mine:
            wave = waves.get(one.device, 1)
            if wave in signed.signed_waves and signed.advanced.get(wave, 1e18) > one.begun_s:
                yield f"{one.device} began wave {wave} before it was advanced"
            if one.begun_s - signed.at_s >= signed.timeout_s:
                continue
            for ahead in (name for name, number in waves.items() if number == wave - 1):
                if ahead in self.excused:
                    continue
                ends = [e.ended_s for e in mine if e.device == ahead and e.outcome and not _mends(e) and e.ended_s]
                parked = any(e.parked for e in mine if e.device == ahead)
                if not ends and not parked and not stopped:
                    yield f"{one.device} of wave {wave} began before {ahead} of wave {wave - 1} had an outcome"
                elif ends and min(ends) + signed.soak_s > one.begun_s + 2:
                    yield f"{one.device} of wave {wave} began {one.begun_s - min(ends):.0f} s after {ahead} had ended"

    def systems(self, fleet: Fleet) -> Iterator[str]:
        """Find systems that run or were switched to without a right to it, and switches without a try."""
        for name, device in fleet.devices.items():
            first = first_system(device.kind).path
            for path in {*device.machine.switched, device.system} - {first}:
                if not self.may_have(name, path):
                    yield f"{name} was switched to {path}, which nobody with the right signed for it"
            for path in set(device.machine.switched):
                tries = sum(one.device == name and one.path == path for one in self.tries)
                backs = any(one.device == name and one.previous == path for one in self.tries)
                if not backs and device.machine.switched.count(path) > tries:
                    yield f"{name} switched to {path} more often than it tried"


def _key(update: Update) -> tuple[str, int, int]:
    return update.offer.rollout, update.offer.run, update.number


def _mends(one: Try) -> bool:
    return mends_itself(one.outcome, one.cause)
