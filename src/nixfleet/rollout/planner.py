"""`plan`: what to do next with a rollout, and why not; a pure function of row, members and clock.

It must never do anything itself, nor look at anything but its arguments.

How offline devices are treated. A `Start` holds a place until the device answers or `device_timeout_s` passes, so
it goes to connected devices only: a rollout of a thousand sleeping laptops must not keep the ten that are awake from
their places, and as they wake together they take places like all others. When it is an offline device's turn (its
wave is open and so is its window) it gets an `Await` instead, once. After `device_timeout_s` of waiting it no longer
holds up its wave (standing `AWAY`) and does not count as failed, for it says nothing about the release; whenever it
comes back it is started. A device that went silent after its `Start` does count: the update may have silenced it.

A member that already runs what the rollout brings is started like any other: its agent finds nothing to do and
confirms at once, and so its confirmation is as signed as everybody's.

Nobody waits for held members; they are started when the hold ends. A finished rollout stands: late joiners and
everybody who was left out are started as long as it is neither superseded, halted, paused, cancelled nor expired.

A wave soaks only while a later wave has members to protect. If all that could open the next wave is failures (some
failed, nobody confirmed) the rollout halts, whatever `stop_at` allows.
"""

from collections.abc import Iterable, Sequence

from nixfleet.rollout.decisions import (
    Ask,
    Await,
    Decision,
    Done,
    Finish,
    Halt,
    Open,
    Overdue,
    Parked,
    Passed,
    Resumed,
    Start,
    Wait,
)
from nixfleet.rollout.fold import wave_states
from nixfleet.rollout.gates import Gatekeeper, closed, soak
from nixfleet.rollout.reasons import (
    Behind,
    Halted,
    HeldUntil,
    NeedsAdvance,
    NobodyConfirmed,
    NoPlace,
    Offline,
    Paused,
    Reason,
    Soaking,
    TooManyFailed,
    Unfinished,
    clause,
)
from nixfleet.rollout.standing import SETTLED, Standing, count, halted, lapsed, standing, stop_limit
from nixfleet.rollout.types import Clock, Member, RolloutState, WaveState
from nixfleet.rollout.waves import waves

_STARTED = frozenset({Standing.CONFIRMED, Standing.FAILED, Standing.OVERDUE, Standing.IN_FLIGHT, Standing.PARKED})


def plan(
    rollout: RolloutState, members: Sequence[Member], now: Clock, lineup: Sequence[Sequence[str]] | None = None
) -> list[Decision]:
    """Decide, in the order in which `apply` carries it out; on unchanged state only waits and asks are repeated.

    `lineup` is what `waves` gives for these members; it changes only when members come, so callers may keep it.
    """
    if lineup is None:
        lineup = waves(rollout, members)
    assert sum(map(len, lineup)) == len(members), "the line-up is of other members"
    return _Planner(rollout, members, now, lineup).decide()


class _Planner:
    """One planning pass; it lives for one call of `plan`."""

    def __init__(
        self, rollout: RolloutState, members: Sequence[Member], now: Clock, lineup: Sequence[Sequence[str]]
    ) -> None:
        self.rollout = rollout
        self.now = now
        self.lineup = lineup
        self.members = {member.device: member for member in members}
        self.where: dict[str, Standing] = {}
        self.excused: set[str] = set()
        self.decisions: list[Decision] = []
        self.places = rollout.body.max_in_flight
        self.windows = Gatekeeper(rollout.body.window, now.wall_s)

    def decide(self) -> list[Decision]:
        """Settle who ran out of time; then, unless something stops the whole rollout, go through its waves."""
        self._settle()
        why = closed(self.rollout, self.now) or self._stopped() or self._waves()
        if why is not None:
            self.decisions.append(Wait(subject=None, why=why))
        return self.decisions

    def _settle(self) -> None:
        """Classify everybody in rank order, and take places back from those whose time is over."""
        for wave in self.lineup:
            for device in wave:
                member = self.members[device]
                where = standing(member, self.rollout, self.now)
                if where is Standing.IN_FLIGHT:
                    where = lapsed(member, self.rollout, self.now)
                    if where is Standing.IN_FLIGHT:
                        self.places -= 1
                    elif where is Standing.OVERDUE:
                        self.decisions.append(Overdue(device=device, run=member.run))
                    else:
                        self.decisions.append(Parked(device=device, run=member.run))
                self.where[device] = where

    def _stopped(self) -> Reason | None:
        """Halt on too many failures; else tell whether a halt or a pause is in force; note a resume."""
        if halted(self.rollout):
            return Halted(why=self.rollout.halted)
        failed = self._failures(self.where)
        if self.rollout.halted:
            self.decisions.append(Resumed(excused=tuple(failed)))
            self.excused.update(failed)
        elif failed:
            active = sum(where is not Standing.GONE for where in self.where.values())
            allowed = stop_limit(self.rollout.body.stop_at, active)
            if len(failed) >= allowed:
                return self._halt(TooManyFailed(failed=len(failed), allowed=allowed, total=active))
        return Paused() if self.rollout.paused else None

    def _failures(self, devices: Iterable[str]) -> list[str]:
        """List those that failed or are overdue and that no signed resume has excused."""
        return [
            device
            for device in devices
            if self.where[device] in {Standing.FAILED, Standing.OVERDUE}
            and not self.members[device].excused
            and device not in self.excused
        ]

    def _halt(self, why: Reason) -> Reason:
        """Halt, and give the reason that everything waits for from now on."""
        self.decisions.append(Halt(why=why))
        return Halted(why=clause(why))

    def _waves(self) -> Reason | None:
        """Go through the waves in order, up to the first that may not open; give a reason if the rollout halts."""
        barrier: Reason | None = None
        for number, (wave, clock) in enumerate(zip(self.lineup, wave_states(self.rollout), strict=True), start=1):
            if clock.opened_s is None:
                signed = self.rollout.body.waves[number - 1].gate == "signed"
                if barrier is None and signed and number not in self.rollout.advanced:
                    barrier = NeedsAdvance()
                if barrier is not None:
                    self.decisions.append(Wait(subject=number, why=barrier))
                    barrier = Behind(wave=number)
                    continue
                self.decisions.append(Open(wave=number))
            crowded = self._start(number, wave)
            barrier = self._gate(number, wave, clock, crowded=crowded)
            if isinstance(barrier, Halted):
                return barrier
        if barrier is None and not self.rollout.finished:
            self.decisions.append(Finish())
        return None

    def _start(self, number: int, wave: Sequence[str]) -> bool:
        """Start whoever of an open wave may start, in rank order; tell whether somebody lacked only a place."""
        crowded = False
        for device in wave:
            where = self.where[device]
            if where is Standing.PENDING:
                member = self.members[device]
                why = self.windows.reason(member)
                if why is None and member.online:
                    if self.places > 0:
                        self.places -= 1
                        self.where[device] = Standing.IN_FLIGHT
                        self.decisions.append(Start(device=device, run=member.run, wave=number))
                    else:
                        crowded = True
                    continue
                if why is None and member.waiting_s is None:
                    self.decisions.append(Await(device=device, run=member.run))
                self.decisions.append(Wait(subject=device, why=why or self._offline(member)))
            elif where is Standing.AWAY:
                self.decisions.append(Wait(subject=device, why=self._offline(self.members[device])))
            elif where is Standing.HELD:
                until = self.members[device].held_until_wall_s or 0
                self.decisions.append(Wait(subject=device, why=HeldUntil(until_wall_s=until)))
        return crowded

    def _offline(self, member: Member) -> Offline:
        """Say for how long a member has been offline."""
        return Offline(ago_s=None if member.seen_s is None else max(0, self.now.run_s - member.seen_s))

    def _gate(self, number: int, wave: Sequence[str], clock: WaveState, *, crowded: bool) -> Reason | None:
        """Move an open wave on, as far as it is done and has soaked; give what keeps the next one from opening."""
        full = NoPlace(used=self.rollout.body.max_in_flight - self.places, allowed=self.rollout.body.max_in_flight)
        if crowded:
            self.decisions.append(Wait(subject=number, why=full))
        if clock.passed_s is not None:
            return None
        done_s = clock.done_s
        if done_s is None:
            standings = [self.where[device] for device in wave]
            if not SETTLED.issuperset(standings):
                counts = _unfinished(standings)
                if not crowded:
                    self.decisions.append(Wait(subject=number, why=counts))
                return Behind(wave=number, counts=counts)
            self.decisions.append(Done(wave=number))
            done_s = self.now.run_s
        if self._protects(number, wave):
            confirmed = [self.members[device] for device in wave if self.where[device] is Standing.CONFIRMED]
            failed = self._failures(wave)
            if failed and not confirmed:
                return self._halt(NobodyConfirmed(wave=number, failed=len(failed)))
            now = soak(self.rollout, done_s, confirmed, self.now)
            self.decisions.extend(Ask(device=device) for device in now.ask)
            if not now.passed:
                return Soaking(wave=number, left_s=max(0, now.left_s), healthy=now.healthy, confirmed=now.confirmed)
        self.decisions.append(Passed(wave=number))
        return None

    def _protects(self, number: int, wave: Sequence[str]) -> bool:
        """Tell whether a wave has something to soak, and a later one has members to protect by it."""
        return any(self.where[device] in _STARTED for device in wave) and any(
            self.where[device] is not Standing.GONE for later in self.lineup[number:] for device in later
        )


def _unfinished(standings: Sequence[Standing]) -> Unfinished:
    """Count what a wave still waits for; an overdue member is a failed one here, a held one nobody waits for."""
    counts = count(standings)
    return Unfinished(
        total=counts.total,
        confirmed=counts.confirmed,
        failed=counts.failed + counts.overdue,
        in_flight=counts.in_flight,
        rebooting=counts.rebooting,
        pending=sum(where is Standing.PENDING for where in standings),
    )
