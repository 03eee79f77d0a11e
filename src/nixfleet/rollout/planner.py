"""`plan`: what to do next with a rollout, and why not; a pure function of row, members and clock.

It must never do anything itself, nor look at anything but its arguments.

How offline devices are treated. A `Start` holds a place until the device answers or `device_timeout_s` passes, so
it goes to connected devices only: a rollout of a thousand sleeping laptops must not keep the ten that are awake from
their places, and as they wake together they take places like all others. When it is an offline device's turn (its
wave is open and so is its window) it gets an `Await` instead, once. After `device_timeout_s` of waiting it no longer
holds up its wave (standing `AWAY`) and does not count as failed, for it says nothing about the release; whenever it
comes back it is started. A device that went silent after its `Start` does count: the update may have silenced it.

A device on which root has paused updates is treated like one that is offline: its turn is waited for no longer than
`device_timeout_s`, and it is started when the pause ends. One that was started before its pause is `PARKED` when its
time is over: the wave waits for it, and it counts neither as failed nor as overdue.

A member that already runs what the rollout brings is started like any other: its agent finds nothing to do and
confirms at once, and so its confirmation is as signed as everybody's.

Nobody waits for held members; they are started when the hold ends. A finished rollout stands: late joiners and
everybody who was left out are started as long as it is neither superseded, halted, paused, cancelled nor expired.

A wave soaks only while a later wave has members to protect. If all that could open the next wave is failures (some
failed, nobody confirmed) the rollout halts, whatever `stop_at` allows.

A system that fails on several devices of a kind (`kinds`) is started on no further one of it: nobody waits for those,
and the others go on. When nothing else is left to do the rollout halts, for it is not finished. A signed `resume`
lifts such stops as it lifts a halt.
"""

from collections.abc import Sequence
from operator import itemgetter

import msgspec

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
    StopKind,
    Wait,
)
from nixfleet.rollout.fold import wave_states
from nixfleet.rollout.gates import Gatekeeper, closed, paused_there, soak
from nixfleet.rollout.kinds import failing
from nixfleet.rollout.lineup import places_in
from nixfleet.rollout.reasons import (
    Behind,
    Halted,
    HeldUntil,
    KindsStopped,
    KindStopped,
    NeedsAdvance,
    NobodyConfirmed,
    NoPlace,
    Offline,
    Paused,
    PausedThere,
    Reason,
    Soaking,
    TooManyFailed,
    Unfinished,
    clause,
)
from nixfleet.rollout.standing import Standing, count, halted, lapsed, standings, stop_limit, stopped
from nixfleet.rollout.types import Clock, Course, Kind, Member, Stop, WaveState
from nixfleet.rollout.waves import waves

_FAILED = (Standing.FAILED, Standing.OVERDUE)
_UNSTARTED = (Standing.PENDING, Standing.AWAY, Standing.HELD, Standing.STOPPED)
_AWAITED = (Standing.PENDING, Standing.IN_FLIGHT, Standing.PARKED)
"""Standings for which a wave waits."""
_STARTED = (Standing.CONFIRMED, Standing.FAILED, Standing.OVERDUE, Standing.IN_FLIGHT, Standing.PARKED)


def plan(
    rollout: Course, members: Sequence[Member], now: Clock, lineup: Sequence[Sequence[str]] | None = None
) -> list[Decision]:
    """Decide, in the order in which `apply` carries it out; on unchanged state only waits and asks are repeated.

    `lineup` is what `waves` gives for these members; it changes only when members come, so callers may keep it.
    """
    if lineup is None:
        lineup = waves(rollout, members)
    assert sum(map(len, lineup)) == len(members), "the line-up is of other members"
    return _Planner(rollout, members, now, lineup).decide()


class _Wave(msgspec.Struct, kw_only=True):
    """A wave in one planning pass: its members in rank order and, beside them, where they stand by now."""

    number: int
    clock: WaveState
    of: Sequence[Member]
    """The members of all waves."""
    places: Sequence[int]
    """Where this wave's own stand among them, in rank order."""
    where: list[Standing]

    @property
    def members(self) -> list[Member]:
        """This wave's members in rank order; a wave that nothing happens in never asks."""
        return list(map(self.of.__getitem__, self.places))

    def member(self, place: int) -> Member:
        """Give the member at a place by rank."""
        return self.of[self.places[place]]

    def has(self, *kinds: Standing) -> bool:
        """Tell whether some member stands there."""
        return any(kind in self.where for kind in kinds)


class _Planner:
    """One planning pass; it lives for one call of `plan`."""

    def __init__(self, rollout: Course, members: Sequence[Member], now: Clock, lineup: Sequence[Sequence[str]]) -> None:
        self.rollout = rollout
        self.now = now
        self.decisions: list[Decision] = []
        self.excusing = False
        self.places = rollout.body.max_in_flight
        active = stopped(rollout)
        self.stops = {what: stop for stop in rollout.stops if (what := _bad(stop)) in active}
        self.windows = Gatekeeper(rollout.body.window, now.wall_s)
        every = standings(members, rollout, now)  # in their own order: in rank order each is far from the last
        self.waves: list[_Wave] = []
        waves = zip(places_in(lineup, members), wave_states(rollout), strict=True)
        for number, (places, clock) in enumerate(waves, start=1):
            where = list(itemgetter(*places)(every)) if len(places) > 1 else [every[place] for place in places]
            self.waves.append(_Wave(number=number, clock=clock, of=members, places=places, where=where))

    def decide(self) -> list[Decision]:
        """Settle who ran out of time; then, unless something stops the whole rollout, go through its waves."""
        for wave in self.waves:
            self._settle(wave)
        why = closed(self.rollout, self.now) or self._stopped() or self._advance()
        if why is not None:
            self.decisions.append(Wait(subject=None, why=why))
        return self.decisions

    def _settle(self, wave: _Wave) -> None:
        """Count the places in use, and take them back from those whose time is over."""
        in_flight, parked = Standing.IN_FLIGHT, Standing.PARKED  # looked up once: slow to reach on Python 3.11
        if not wave.has(in_flight, parked):
            return
        for place, (member, where) in enumerate(zip(wave.members, wave.where, strict=True)):
            if where is not in_flight and where is not parked:
                continue
            wave.where[place] = after = lapsed(member, self.rollout, self.now)
            if after is parked and where is parked:
                continue
            if after is in_flight:
                self.places -= 1
            elif after is Standing.OVERDUE:
                self.decisions.append(Overdue(device=member.device, run=member.run))
            else:
                self.decisions.append(Parked(device=member.device, run=member.run))

    def _stopped(self) -> Reason | None:
        """Halt on too many failures; else tell whether a halt or a pause is in force; note a resume."""
        if halted(self.rollout):
            return Halted(why=self.rollout.halted)
        failed = [member for wave in self.waves for member in self._failures(wave)]
        if self.rollout.halted or (self.rollout.stops and not self.stops):
            self.decisions.append(Resumed(excused=tuple(member.device for member in failed)))
            self.excusing = True
        elif failed:
            self._stop_kinds(failed)
            active = sum(len(wave.where) - wave.where.count(Standing.GONE) for wave in self.waves)
            allowed = stop_limit(self.rollout.body.stop_at, active)
            if len(failed) >= allowed:
                return self._halt(TooManyFailed(failed=len(failed), allowed=allowed, total=active))
        return Paused() if self.rollout.paused else None

    def _stop_kinds(self, failed: Sequence[Member]) -> None:
        """Stop for the kinds of device that a system fails on; whoever of them is not started waits from now on."""
        pairs = ((member, where) for wave in self.waves for member, where in zip(wave.members, wave.where, strict=True))
        confirmed = (member for member, where in pairs if where is Standing.CONFIRMED)
        new = {what: stop for stop in failing(failed, confirmed) if (what := _bad(stop)) not in self.stops}
        if not new:
            return
        self.decisions.extend(StopKind(stop=stop) for stop in new.values())
        self.stops.update(new)
        for wave in self.waves:
            for place, (member, where) in enumerate(zip(wave.members, wave.where, strict=True)):
                if where in {Standing.PENDING, Standing.AWAY} and (member.path, member.kind) in new:
                    wave.where[place] = Standing.STOPPED

    def _failures(self, wave: _Wave) -> list[Member]:
        """List those of a wave that failed or are overdue, and that no signed resume has excused."""
        if self.excusing or not wave.has(*_FAILED):
            return []
        pairs = zip(wave.members, wave.where, strict=True)
        return [member for member, where in pairs if where in _FAILED and not member.excused]

    def _halt(self, why: Reason) -> Halted:
        """Halt, and give the reason that everything waits for from now on."""
        self.decisions.append(Halt(why=why))
        return Halted(why=clause(why))

    def _advance(self) -> Reason | None:
        """Go through the waves in order, up to the first that may not open; give a reason if the rollout halts."""
        barrier: Reason | None = None
        for wave in self.waves:
            if wave.clock.opened_s is None:
                signed = self.rollout.body.waves[wave.number - 1].gate == "signed"
                if barrier is None and signed and wave.number not in self.rollout.advanced:
                    barrier = NeedsAdvance()
                if barrier is not None:
                    self.decisions.append(Wait(subject=wave.number, why=barrier))
                    barrier = Behind(wave=wave.number)
                    continue
                self.decisions.append(Open(wave=wave.number))
            crowded = self._start(wave)
            barrier = self._gate(wave, crowded=crowded)
            if isinstance(barrier, Halted):
                return barrier
        if barrier is not None or self.rollout.finished:
            return None
        pairs = ((member, where) for wave in self.waves for member, where in zip(wave.members, wave.where, strict=True))
        left = [member for member, where in pairs if where is Standing.STOPPED]
        if left:
            return self._halt(KindsStopped(devices=len(left), first=self._stop_of(left[0])))
        self.decisions.append(Finish())
        return None

    def _start(self, wave: _Wave) -> bool:
        """Start whoever of an open wave may start, in rank order; tell whether somebody lacked only a place."""
        crowded = False
        if not wave.has(*_UNSTARTED):
            return crowded
        pending, away, held, halted_kind = _UNSTARTED
        for place, where in enumerate(wave.where):
            if where is pending:
                member = wave.member(place)
                why = self.windows.reason(member) or self._absent(member)
                if why is not None:
                    if isinstance(why, Offline | PausedThere) and member.waiting_s is None:
                        self.decisions.append(Await(device=member.device, run=member.run))
                    self.decisions.append(Wait(subject=member.device, why=why))
                elif self.places > 0:
                    self.places -= 1
                    wave.where[place] = Standing.IN_FLIGHT
                    self.decisions.append(Start(device=member.device, run=member.run, wave=wave.number))
                else:
                    crowded = True
            elif where is away:
                member = wave.member(place)
                self.decisions.append(Wait(subject=member.device, why=self._absent(member) or self._offline(member)))
            elif where is held:
                member = wave.member(place)
                until = HeldUntil(until_wall_s=member.held_until_wall_s or 0)
                self.decisions.append(Wait(subject=member.device, why=until))
            elif where is halted_kind:
                member = wave.member(place)
                self.decisions.append(Wait(subject=member.device, why=self._stop_of(member)))
        return crowded

    def _stop_of(self, member: Member) -> KindStopped:
        """Say what keeps a member whose system failed on others of its kind."""
        stop = self.stops[member.path, member.kind]
        return KindStopped(kind=stop.kind, path=stop.path, failed=stop.failed, tried=stop.tried)

    def _absent(self, member: Member) -> Reason | None:
        """Tell why a member could not begin though nothing here keeps it: root has paused it there, or it is away."""
        return paused_there(member, self.now) or (None if member.online else self._offline(member))

    def _offline(self, member: Member) -> Offline:
        """Say for how long a member has been offline."""
        return Offline(ago_s=None if member.seen_s is None else max(0, self.now.run_s - member.seen_s))

    def _gate(self, wave: _Wave, *, crowded: bool) -> Reason | None:
        """Move an open wave on, as far as it is done and has soaked; give what keeps the next one from opening."""
        if crowded:
            allowed = self.rollout.body.max_in_flight
            full = NoPlace(used=allowed - self.places, allowed=allowed)
            self.decisions.append(Wait(subject=wave.number, why=full))
        if wave.clock.passed_s is not None:
            return None
        done_s = wave.clock.done_s
        if done_s is None:
            if wave.has(*_AWAITED):
                counts = _unfinished(wave.where)
                if not crowded:
                    self.decisions.append(Wait(subject=wave.number, why=counts))
                return Behind(wave=wave.number, counts=counts)
            self.decisions.append(Done(wave=wave.number))
            done_s = self.now.run_s
        why = self._soak(wave, done_s) if self._protects(wave) else None
        if why is None:
            self.decisions.append(Passed(wave=wave.number))
        return why

    def _protects(self, wave: _Wave) -> bool:
        """Tell whether a wave has something to soak, and a later one has members to protect by it."""
        later = self.waves[wave.number :]
        return wave.has(*_STARTED) and any(
            where is not Standing.GONE for following in later for where in following.where
        )

    def _soak(self, wave: _Wave, done_s: int) -> Reason | None:
        """Judge the soak of a wave that is done, and ask whose health it lacks; None when it has passed."""
        confirmed = [
            member for member, where in zip(wave.members, wave.where, strict=True) if where is Standing.CONFIRMED
        ]
        failed = self._failures(wave)
        if failed and not confirmed:
            return self._halt(NobodyConfirmed(wave=wave.number, failed=len(failed)))
        now = soak(self.rollout, done_s, confirmed, self.now)
        self.decisions.extend(Ask(device=device) for device in now.ask)
        if now.passed:
            return None
        return Soaking(wave=wave.number, left_s=max(0, now.left_s), healthy=now.healthy, confirmed=now.confirmed)


def _bad(stop: Stop) -> tuple[str, Kind | None]:
    """Say of which members it is, as their path and kind."""
    return stop.path, stop.kind


def _unfinished(where: Sequence[Standing]) -> Unfinished:
    """Count what a wave still waits for; an overdue member is a failed one here, a held one nobody waits for."""
    counts = count(where)
    return Unfinished(
        total=counts.total,
        confirmed=counts.confirmed,
        failed=counts.failed + counts.overdue,
        in_flight=counts.in_flight,
        rebooting=counts.rebooting,
        pending=where.count(Standing.PENDING),
    )
