"""One rollout as this coordinator works on it: its row, its tries, and its members as the planner sees them.

It is told everything (log, devices, tries) and asks nothing; what to do is `nixfleet.rollout.plan`'s to say.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgspec

from nixfleet.model.device import Attempt, Cause, Outcome, Phase
from nixfleet.model.ids import Tags, matches
from nixfleet.model.statements import Device
from nixfleet.model.text import clean
from nixfleet.rollout import (
    Clock,
    Counts,
    Course,
    Kind,
    Member,
    Reason,
    Standing,
    Stop,
    Subject,
    WaveState,
    is_awaited,
    kind_of,
    waves,
)
from nixfleet.server.coordinator.live import Live, paused_at, phase_of
from nixfleet.server.coordinator.releases import Systems
from nixfleet.server.store import AttemptRow, RolloutRow
from nixfleet.trust.replay.state import RolloutState


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollout's row holds: the planner's state that the log does not tell; `*_at` are unix seconds."""

    waves: tuple[WaveState, ...] = ()
    halted: str = ""
    halted_resumed: int = 0
    stops: tuple[Stop, ...] = ()
    stops_resumed: int = 0
    finished: bool = False
    started_at: int | None = None
    finished_at: int | None = None


@dataclass(frozen=True, slots=True)
class Try:
    """A device's try: its row, and what the device told of it, if anything."""

    row: AttemptRow
    told: Attempt | None

    @classmethod
    def of(cls, row: AttemptRow) -> "Try":
        """Read a row."""
        return cls(row, msgspec.json.decode(row.told, type=Attempt) if row.told else None)


@dataclass(frozen=True, slots=True)
class Bar:
    """Why a device does not follow a rollout that covers it; `waits`: signatures of others could still let it."""

    why: str
    waits: bool


RetryTimes = Callable[[int], int]
"""The log time of the entry at an index."""
_EMPTY = Live()
TOOK_KEPT = 101
"""How many of the newest durations an estimate is made of."""


class Work:
    """Changed on the coordinator's loop only."""

    def __init__(self, logged: RolloutState, members: Mapping[str, Tags], row: RolloutRow | None) -> None:
        self.id = str(logged.digest)
        self.logged = logged
        self.matched = members
        """Devices that matched at the rollout's index, with the tags they had."""
        self.systems: Systems | None = None
        self.earlier: Work | None = None
        """The rollout that a rollback takes back."""
        self.undone_by: list[Work] = []
        """The rollbacks that take it back."""
        self.version = 0
        self.stored = Stored()
        self.tries: dict[tuple[str, int], Try] = {}
        self.members: dict[str, Member] = {}
        self.waits: dict[Subject, Reason] = {}
        self.superseded = False
        self.took_s: deque[int] = deque(maxlen=TOOK_KEPT)
        """How long the newest devices to confirm took from their start."""
        self.outcomes = 0
        """Counts what was told of outcomes."""
        self.seen = 0
        """`outcomes` as of when all members were last brought up to date."""
        self.judged = 0
        """`seen` as of the newest plan whose decisions are stored."""
        self.told: tuple[str, bool] | None = None
        """The state that others were last told, and whether it was superseded; None before the first time."""
        self.standings: dict[str, Standing] = {}
        self.counts = Counts()
        self.wave_of: dict[str, int] = {}
        self.barred: dict[str, Bar] = {}
        """Devices that it covers and that do not follow it, and why; where a newer one won, that is why."""
        self.awaited: set[str] = set()
        """Members whose started try may still come to something: it may also mend its own failure, or confirm late."""
        self._unready: str | None = None
        self._active: frozenset[str] | None = None
        self._left: frozenset[str] | None = None
        self._lineup: tuple[tuple[str, ...], ...] | None = None
        self.take_row(row)

    def take_row(self, row: RolloutRow | None) -> None:
        """Take up the stored state."""
        if row is not None:
            self.version, self.stored = row.version, msgspec.json.decode(row.state, type=Stored)

    @property
    def index(self) -> int:
        """Where the rollout stands in the log."""
        return self.logged.index

    def course(self, reconnect_s: int) -> Course:
        """Give how far the rollout has come, as the planner sees it."""
        logged, stored = self.logged, self.stored
        return Course(
            id=self.id,
            body=logged.statement,
            index=logged.index,
            paused=logged.paused,
            cancelled=logged.cancelled,
            superseded=self.superseded,
            unready=self.unready,
            advanced=logged.advanced,
            resumed=logged.resumed,
            halted=stored.halted,
            halted_resumed=stored.halted_resumed,
            stops=stored.stops,
            stops_resumed=stored.stops_resumed,
            finished=stored.finished,
            waves=stored.waves,
            reconnect_s=reconnect_s,
        )

    @property
    def unready(self) -> str:
        """Say what it lacks, or nothing.

        While others could still sign for some member, nobody starts: waves keep their order. Where they could not,
        the rest goes on, if there is any.
        """
        if self._unready is None:
            self._unready = self._lacks()
        return self._unready

    def _lacks(self) -> str:
        waiting = (bar.why for device, bar in self.barred.items() if bar.waits and self.members[device].active)
        why = next(waiting, "")
        active = (member.device for member in self.members.values() if member.active)
        if not why and self.barred and all(device in self.barred for device in active):
            why = next(iter(self.barred.values())).why
        return why

    def lineup(self) -> tuple[tuple[str, ...], ...]:
        """Give the waves' members; kept until a device comes or goes."""
        if self._lineup is None:
            self._lineup = waves(self.course(0), tuple(self.members.values()))
            self.wave_of = {device: at for at, wave in enumerate(self._lineup, start=1) for device in wave}
        return self._lineup

    def brings(self, device: str, tags: Tags) -> str | None:
        """Give the store path that the rollout brings to a device, None when it has nothing for it."""
        if self.earlier is not None:
            told = self.earlier.confirmed(device)
            return told.previous if told is not None else None
        return self.systems.path_for(device, tags) if self.systems is not None else None

    @property
    def ended(self) -> bool:
        """Whether it was cancelled, or a newer one took its place, and no try of it is awaited any more."""
        return (self.logged.cancelled or self.superseded) and not self.awaited

    def left(self) -> frozenset[str]:
        """Give whom the rollout could still start; if there is nobody, all its members. Kept until that changes."""
        if self._left is None:
            members = self.members.values()
            waiting = frozenset(member.device for member in members if member.active and member.offered_s is None)
            self._left = waiting or frozenset(self.members)
        return self._left

    def lacks(self, devices: frozenset[str]) -> frozenset[str]:
        """Give those of these devices that are no active members."""
        if self._active is None:
            self._active = frozenset(member.device for member in self.members.values() if member.active)
        return devices - self._active

    def begun(self, device: str) -> bool:
        """Tell whether the rollout was ever started on a device."""
        member = self.members.get(device)
        return member is not None and (member.offered_s is not None or member.run > 1)

    def untold(self, device: str) -> bool:
        """Tell whether a member has told nothing of the try that counts."""
        member = self.members.get(device)
        one = self.tries.get((device, member.run)) if member is not None else None
        return one is None or one.told is None

    def confirmed(self, device: str) -> Attempt | None:
        """Give a device's confirmed try."""
        for run in range(self.logged.runs(device), 0, -1):
            one = self.tries.get((device, run))
            if one is not None and one.told is not None and one.told.outcome is Outcome.CONFIRMED:
                return one.told
        return None

    def run_of(self, device: str, time_of: RetryTimes) -> int:
        """Tell which try counts: a retry is for those who had failed by then, or never began."""
        run = 1
        for number, (index, named) in enumerate(self.logged.retries, start=1):
            if named != "failed" and device not in named:
                continue
            wanted = 1 + sum(1 for _, one in self.logged.retries[:number] if one == "failed" or device in one)
            held = self.tries.get((device, run))
            if held is None or held.row.offered_s is None or _failed_by(held, time_of(index)):
                run = wanted
        return run

    def set_member(
        self,
        device: Device,
        live: Live | None,
        *,
        online: bool,
        now: Clock,
        newer: bool,
        bar: Bar | None,
        time_of: RetryTimes,
    ) -> None:
        """Take up what is known of a device; `newer`: it follows another rollout, or `bar` says why not this one."""
        known = device.device in self.matched
        fits = device.state != "retired" and matches(self.logged.statement.select, device.tags)
        path = self.brings(device.device, device.tags)
        has_line = path is not None
        held = self.members.get(device.device)
        if (held is None and not (fits or known)) or (not has_line and held is None):
            return
        follows = not newer or (bar is not None and bar.waits)
        if held is None and not known and not follows:
            return
        run = self.run_of(device.device, time_of)
        one = self.tries.get((device.device, run))
        begun = one is not None and one.row.offered_s is not None
        member = _member(device, live or _EMPTY, one, online=online, now=now)
        member = msgspec.structs.replace(
            member,
            tags=self.matched.get(device.device, device.tags),
            active=fits and has_line and (begun or follows),
            late=not known,
            run=run,
            phase=_phase(live or _EMPTY, self.id, one),
            path=path or "",
        )
        if held is None:
            self._lineup = None
        self._unready = None
        if held is None or (held.active, held.offered_s) != (member.active, member.offered_s):
            self._active = self._left = None
        self.members[device.device] = member
        if is_awaited(member):
            self.awaited.add(device.device)
        else:
            self.awaited.discard(device.device)
        if bar is not None and fits and has_line:
            self.barred[device.device] = bar
        else:
            self.barred.pop(device.device, None)

    def take_try(self, row: AttemptRow, told: Attempt | None = None) -> None:
        """Take up a try as stored, or what has just been stored of it; `told` is what its row holds, where at hand."""
        key = (row.device, row.run)
        held = self.tries.get(key)
        whole = row if held is None else merged(held.row, row)
        one = self.tries[key] = Try.of(whole) if told is None else Try(whole, told)
        before = held.told if held is not None else None
        if one.told is not None and one.told.outcome is not (before.outcome if before is not None else None):
            self.outcomes += 1
            if one.told.outcome is Outcome.CONFIRMED and whole.offered_s is not None and whole.outcome_s is not None:
                self.took_s.append(max(0, whole.outcome_s - whole.offered_s))


def merged(old: AttemptRow, new: AttemptRow) -> AttemptRow:
    """Merge two writes of a try as the store does: planner's clocks are set once, the first outcome's time stays."""
    once = ("offered_s", "offered_at", "waiting_s", "overdue_s", "parked_s", "outcome_s", "outcome_at")
    kind = old.kind or new.kind
    held = {name: getattr(old, name) for name in once if getattr(old, name) is not None}
    healthy_s = old.healthy_s if new.healthy_s is None else new.healthy_s
    told = new.told or old.told
    return replace(new, **held, healthy_s=healthy_s, told=told, excused=old.excused or new.excused, kind=kind)


def _failed_by(one: Try, log_time: int) -> bool:
    """Tell whether a try had failed, or run out of time, when a retry was signed."""
    if one.told is not None and one.told.outcome is not None:
        return one.told.outcome is not Outcome.CONFIRMED and (one.row.outcome_at or 0) <= log_time
    return one.row.overdue_s is not None


def _member(device: Device, live: Live, one: Try | None, *, online: bool, now: Clock) -> Member:
    row = one.row if one else None
    told = one.told if one else None
    paused = paused_at(live.report, now.wall_s)
    healthy_s = max((s for s in (row.healthy_s if row else None, live.healthy_s) if s is not None), default=None)
    return Member(
        device=device.device,
        name=device.name,
        tags=device.tags,
        held_until_wall_s=(device.until or 2**53) if device.state == "held" else None,
        paused_until_wall_s=paused.until if paused is not None else None,
        pause_reason=clean(paused.reason) if paused is not None else "",
        online=online,
        seen_s=max(0, now.run_s - max(0, now.wall_s - live.seen_at)) if live.seen_at else None,
        offered_s=row.offered_s if row else None,
        waiting_s=row.waiting_s if row else None,
        overdue_s=row.overdue_s if row else None,
        parked_s=row.parked_s if row else None,
        excused=row.excused if row else False,
        outcome=told.outcome if told else None,
        cause=told.cause if told else Cause.NONE,
        reason=told.reason if told else "",
        healthy_s=healthy_s,
        kind=_kind(live, row),
        timezone=(live.facts.timezone if live.facts else "") or "UTC",
    )


def _kind(live: Live, row: AttemptRow | None) -> Kind | None:
    """Give the kind that a device was of when its try began: a new system changes what it tells of itself."""
    if row is None or row.offered_s is None:
        return kind_of(live.facts)
    return msgspec.json.decode(row.kind, type=Kind) if row.kind else None


def _phase(live: Live, rollout: str, one: Try | None) -> Phase:
    """Say where a device stands in this rollout; what root applied from a file has ended without being started."""
    told = one.told if one is not None else None
    if told is not None and told.outcome is not None:
        return told.phase
    if one is None or one.row.offered_s is None:
        return Phase.IDLE
    progress = live.under_way
    if progress is None or progress.rollout != rollout or 0 < progress.run < one.row.run:
        return told.phase if told is not None else Phase.OFFERED
    # Before it has told of this try, what it told last is of another one.
    return phase_of(live) if told is not None else progress.phase
