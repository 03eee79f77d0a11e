"""Plan every open rollout, and store what was decided by compare-and-set before anything happens of it.

Decisions are `nixfleet.rollout.plan`'s alone; a lost race is planned again from what the winner stored.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from nixfleet.errors import Conflict, NixfleetError
from nixfleet.model.device import Report
from nixfleet.rollout import (
    Ask,
    Clock,
    Course,
    Decision,
    Halt,
    Member,
    Reason,
    Start,
    StopKind,
    Subject,
    Unplanned,
    Wait,
    apply,
    clause,
    next_wake,
    plan,
    sentence,
    status,
    stop_sentence,
    summary,
    waiting,
)
from nixfleet.rollout.partly import partial_sentence
from nixfleet.server.coordinator.clock import RunClock, waited
from nixfleet.server.coordinator.live import LiveDevices
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.precedence import Precedence, supersede, taken_back
from nixfleet.server.coordinator.releases import LinesLack, Releases
from nixfleet.server.coordinator.work import Stored, Work
from nixfleet.server.store import AttemptRow, RolloutRow, Store
from nixfleet.trust.gate import Gate, sign_gate
from nixfleet.trust.replay import RolloutState

_log = logging.getLogger(__name__)

REFRESH_S = 60
"""How often everything is looked at again: rights and rollouts end by time alone."""
_REST = 8
"""A pass is followed by a rest of so many times its length, so that planning never takes the whole processor."""
_PASSES = 3
"""How often members and what is superseded are settled in one look at everything, before the next look goes on."""
_CLOCKS = ("offered_s", "waiting_s", "overdue_s", "parked_s", "excused")

Changed = Callable[[Iterable[str], Iterable[str]], None]
"""Told of the rollouts and the devices whose views may have changed."""


class Planner:
    """All rollouts of the log, and the loop that plans the open ones."""

    def __init__(
        self,
        store: Store,
        log: LogKeeper,
        live: LiveDevices,
        releases: Releases,
        clock: RunClock,
        *,
        changed: Changed,
        wake: Callable[[Iterable[str]], None],
    ) -> None:
        self._store = store
        self._log = log
        self._live = live
        self._releases = releases
        self._clock = clock
        self._changed = changed
        self._wake_agents = wake
        self._news = asyncio.Event()
        self._urgent = asyncio.Event()
        """A signed act: it is planned without a rest."""
        self._dirty: set[str] = set()
        self._renew = True
        self._renewed_s = 0
        self._stopped = False
        self.works: dict[str, Work] = {}
        """In the order of their indexes."""
        self._precedence = Precedence(log, lambda: self.works)
        self._told_size = 0
        """The size of the log when it last said something new of rollouts, or of what may be signed."""
        self._taken_size = -1
        """The size of the log up to which its rollouts have been taken up."""
        self.asked: set[str] = set()
        """Devices that are asked for a fresh report."""

    # News

    def log_changed(self, devices: Iterable[str], *, everything: bool) -> None:
        """Take note of new entries: of these devices alone, or of what concerns everybody."""
        self._dirty.update(devices)
        self._renew |= everything
        self._news.set()
        if everything:
            self._told_size = self._log.size
            self._urgent.set()

    def device_changed(self, device: str) -> None:
        """Take note that a device reported, came or went."""
        if self.works:
            self._dirty.add(device)
            self._news.set()

    def heard(self, report: Report, row: AttemptRow | None) -> None:
        """Take up a report that has been stored."""
        if row is not None and (work := self.works.get(row.rollout)):
            work.take_try(row, report.attempt)
        self.asked.discard(report.device)
        self.device_changed(report.device)

    async def knows(self, rollout: str, device: str, run: int) -> bool:
        """Tell whether a device may speak of this try; another coordinator may have asked it to."""
        if self._knows(rollout, device, run):
            return True
        await self._log.catch_up()
        await self.take_up()
        if work := self.works.get(rollout):
            self._refresh(work, device, self._clock.now())
        return self._knows(rollout, device, run)

    def _knows(self, rollout: str, device: str, run: int) -> bool:
        work = self.works.get(rollout)
        return work is not None and device in work.members and run <= work.logged.runs(device)

    # The loop

    async def run(self) -> None:
        """Plan until `stop`; a failing database is tried again."""
        while not self._stopped:
            began = time.monotonic()
            delay_s = await self.begin()
            await waited(self._urgent, min(1.0, _REST * (time.monotonic() - began)))
            await waited(self._news, delay_s)

    async def begin(self) -> float:
        """Plan once, as `tick` does; what the database does not take is planned anew in a second."""
        try:
            return await self.tick()
        except NixfleetError as error:
            _log.warning("planning is put off: %s", error)
            self._renew = True
            return 1.0

    def stop(self) -> None:
        """End `run` after the pass under way: nothing is torn down in the middle of a transaction."""
        self._stopped = True
        self._urgent.set()
        self._news.set()

    async def tick(self) -> float:
        """Plan once; give the seconds after which time alone may change something."""
        if not self._stopped:
            self._news.clear()
            self._urgent.clear()
        if self._log.shut():
            await self.take_up()
            return 1.0  # an old backup does not know what was paused, cancelled or revoked since
        now = self._clock.now()
        if self._renew or now.wall_s - self._renewed_s >= REFRESH_S:
            await self._renew_all(now)
        else:
            dirty, self._dirty = self._dirty, set()
            for work in self.open():
                for device in dirty:
                    self._refresh(work, device, now)
        for work in self.open():
            work.seen = work.outcomes
        delay_s = float(REFRESH_S)
        for work in self.open():
            delay_s = min(delay_s, await self._plan(work, now))
        return delay_s

    async def _renew_all(self, now: Clock) -> None:
        """Look at every rollout and device again."""
        self._renew, self._renewed_s = False, now.wall_s
        self._dirty.clear()
        self._precedence.forget()
        self._taken_size = -1
        await self.take_up()
        supersede(list(self.works.values()), now, self._log.device)
        for _ in range(_PASSES):
            for work in self.open():
                for device in set(work.matched) | set(self._log.state.devices):
                    self._refresh(work, device, now)
            # Who is a member decides what is superseded: what comes back must have its members before it is planned.
            if not supersede(list(self.works.values()), now, self._log.device):
                break
        else:
            self._renew = True
            self._news.set()
        for work in self.works.values():
            self._tell_state(work, now)

    async def take_up(self) -> None:
        """Know every rollout of the log, and its newest controls; who has appended one can ask for it at once."""
        size = self._log.size
        if self._taken_size >= self._told_size:
            return  # entries of devices and releases leave them as they are
        for digest, logged in list(self._log.state.rollouts.items()):
            if logged.statement.release in self._releases.lacks:
                continue  # to whom it brings what, nobody knows until the lines are back
            try:
                work = self.works.get(digest) or await self._begin(logged)
            except LinesLack:
                continue
            work.logged = self._log.state.rollouts[digest]  # a control may have come meanwhile
        self._taken_size = max(size, self._taken_size)

    async def _begin(self, logged: RolloutState) -> Work:
        """Take a rollout up, with what is stored of it."""
        digest = str(logged.digest)
        work = Work(logged, self._log.sets.get(digest, {}), await self._store.plans.rollout(digest))
        for row in await self._store.status.attempts([digest]):
            work.take_try(row)
        statement = logged.statement
        if statement.release is not None and statement.release in self._log.state.releases:
            work.systems = (await self._releases.get(statement.release)).systems
        if statement.of is not None:
            work.earlier = self.works.get(statement.of)
        if digest in self.works:  # taken up by another task meanwhile
            return self.works[digest]
        if work.earlier is not None:
            work.earlier.undone_by.append(work)
        newest = next(reversed(self.works.values()), None)
        self.works[digest] = work
        if newest is not None and newest.index > work.index:
            self.works = dict(sorted(self.works.items(), key=lambda item: item[1].index))
        self._precedence.forget()
        now = self._clock.now()
        for device in set(work.matched) | set(self._log.state.devices):
            self._refresh(work, device, now)
        return work

    def open(self) -> list[Work]:
        """List the rollouts that may still start or await something."""
        return [work for work in self.works.values() if not work.ended]

    def _refresh(self, work: Work, device: str, now: Clock) -> None:
        statement = self._log.device(device)
        if statement is None:
            return
        chosen = self._precedence.choose(statement, now)
        work.set_member(
            statement,
            self._live.get(device),
            online=self._live.online(device, now.wall_s),
            now=now,
            newer=chosen.winner != work.id or taken_back(work, statement, now),
            bar=chosen.barred.get(work.id),
            time_of=lambda index: self._log.times.get(index, 0),
        )
        if work.begun(device):
            self._precedence.begun(work, device)

    # One rollout

    async def _plan(self, work: Work, now: Clock) -> float:
        state, seen = work.course(self._clock.reconnect_s), work.seen
        members = tuple(work.members.values())
        lineup = work.lineup()
        decisions = plan(state, members, now, lineup)
        lasting = [decision for decision in decisions if not isinstance(decision, Wait | Ask)]
        after, folded = apply(state, members, lasting, now)
        if lasting and not await self._store_decision(work, after, members, folded, now):
            return 0.0
        work.judged = seen
        before = (work.waits, work.standings)
        work.waits = waiting(decisions)
        result = summary(after, folded, now, lineup)
        work.standings, work.counts = dict(result.standings), result.total
        self._tell(work, decisions, before)
        self._tell_state(work, now)
        wake_s = next_wake(after, folded, now)
        return REFRESH_S if wake_s is None else float(wake_s)

    async def _store_decision(
        self,
        work: Work,
        after: Course,
        members: Sequence[Member],
        folded: Sequence[Member],
        now: Clock,
    ) -> bool:
        """Store a decision; False when another coordinator decided first, and its decision has been taken up."""
        stored = Stored(
            waves=after.waves,
            halted=after.halted,
            halted_resumed=after.halted_resumed,
            stops=after.stops,
            stops_resumed=after.stops_resumed,
            finished=after.finished,
            started_at=work.stored.started_at or now.wall_s,
            finished_at=work.stored.finished_at or (now.wall_s if after.finished else None),
        )
        rows = [_row(work, new, now) for old, new in zip(members, folded, strict=True) if old is not new]
        row = RolloutRow(work.id, work.version, msgspec.json.encode(stored))
        try:
            await self._store.plans.decide(row, rows)
        except Conflict:
            work.take_row(await self._store.plans.rollout(work.id))
            for one in await self._store.status.attempts([work.id]):
                work.take_try(one)
            self._renew = True
            self._news.set()
            return False
        work.version, work.stored = work.version + 1, stored
        for one in rows:
            work.take_try(one)
            self._refresh(work, one.device, now)
        return True

    def _tell(self, work: Work, decisions: Sequence[Decision], before: tuple[object, object]) -> None:
        for decision in decisions:
            if isinstance(decision, Halt):
                _log.warning("rollout %s halts: %s", work.id[:12], clause(decision.why))
            elif isinstance(decision, StopKind):
                _log.warning("rollout %s %s", work.id[:12], stop_sentence(decision.stop, going_on=True))
        started = [decision.device for decision in decisions if isinstance(decision, Start)]
        asked = {decision.device for decision in decisions if isinstance(decision, Ask)} - self.asked
        self.asked |= asked
        if started or asked:
            self._wake_agents([*started, *asked])
        if before != (work.waits, work.standings) or started:
            self._changed([work.id], work.members if before[0] != work.waits else started)

    def _tell_state(self, work: Work, now: Clock) -> None:
        """Tell of a rollout that came to another state; one that has ended is planned no more, and waits no more."""
        if work.ended:
            work.waits = {}
        state, told = (status(work.course(self._clock.reconnect_s), now), work.superseded), work.told
        if state != told:
            work.told = state
            self._changed([work.id], work.members if told is not None else ())

    # What others ask

    def gates(self, device: str) -> list[bytes]:
        """Sign the gates that are open for a device, fresh; only for what was started and has not ended."""
        now, time_s = self._clock.now(), max(self._clock.gate_s(), self._log.state.last_time)
        notes = []
        for work in self.works.values():
            member = self._open_for(work, device, now)
            if member is None:
                continue
            wave = work.wave_of.get(device, 1)
            gate = Gate(self._log.fleet, work.id, device, member.run, self._log.size, time_s, wave)
            notes.append(sign_gate(gate, self._log.log_key))
        return notes

    def _open_for(self, work: Work, device: str, now: Clock) -> Member | None:
        """Give a member that was started, has not ended, and may go on now."""
        if device not in work.awaited:
            return None
        goes_on = status(work.course(self._clock.reconnect_s), now) in {"running", "finished"}
        return work.members[device] if goes_on else None

    def offered(self, work: Work, device: str) -> bool:
        """Tell whether a device was offered its update, may take it, and has told nothing of this try yet."""
        return self._open_for(work, device, self._clock.now()) is not None and work.untold(device)

    def newest(self, device: str) -> Work | None:
        """Give the newest rollout that a device is a member of."""
        return next((work for work in reversed(self.works.values()) if self._counts(work, device)), None)

    def awaits(self, device: str) -> str:
        """Say what signatures a rollout waits for that the device would follow once they are there, or nothing."""
        waiting = (work for work in reversed(self.works.values()) if device in work.barred)
        return next((self.waits_for(work, device) for work in waiting), "")

    @staticmethod
    def _counts(work: Work, device: str) -> bool:
        member = work.members.get(device)
        if member is None or (device in work.barred and member.offered_s is None):
            return False
        return member.active or member.offered_s is not None

    def waits_for(self, work: Work, device: str, *, partial: bool = False) -> str:
        """Say why a device does not start, as a sentence; empty when it does not wait.

        With `partial`, for one who may not read of all members.
        """
        found = self.why(work, device)
        if found is None:
            return ""
        (subject, reason), name, waves = found, work.members[device].name, len(work.logged.statement.waves)
        if partial:
            return partial_sentence(subject, reason, name, waves)
        return sentence(subject, reason, {device: name}, waves)

    def why(self, work: Work, device: str) -> tuple[Subject, Reason] | None:
        """Give what keeps a device from starting: its own reason, its wave's, or the rollout's; None: nothing does."""
        member = work.members.get(device)
        if member is None or not member.active or member.outcome is not None:
            return None
        subjects: tuple[Subject, ...] = (device, work.wave_of.get(device), None)
        if member.offered_s is not None:
            # What was offered and not begun waits for what stops the whole rollout; all else is under way.
            if not work.untold(device) or self._open_for(work, device, self._clock.now()) is not None:
                return None
            subjects = (None,)
        reasons = ((subject, work.waits[subject]) for subject in subjects if subject in work.waits)
        return next(reasons, (None, Unplanned()))


def _row(work: Work, member: Member, now: Clock) -> AttemptRow:
    held = work.tries.get((member.device, member.run))
    clocks = {name: getattr(member, name) for name in _CLOCKS}
    offered_at = held.row.offered_at if held is not None else None
    if offered_at is None and member.offered_s is not None:
        offered_at = now.wall_s
    told = held.row.told if held is not None else b""
    is_offered = member.offered_s is not None and member.kind is not None
    return AttemptRow(
        rollout=work.id,
        device=member.device,
        run=member.run,
        told=told,
        changed_at=now.wall_s,
        offered_at=offered_at,
        kind=msgspec.json.encode(member.kind).decode() if is_offered else "",
        **clocks,
    )
