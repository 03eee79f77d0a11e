"""Rollouts as people see them: waves as bars, members with their reasons."""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from nixfleet.model.ids import Fingerprint
from nixfleet.model.statements import Wave
from nixfleet.model.text import clean
from nixfleet.model.views import MemberView, RolloutDetail, RolloutView, StopView, Transfer, WaveView, Why
from nixfleet.rollout import (
    Clock,
    Counts,
    Course,
    Member,
    Reason,
    Standing,
    Summary,
    WaveState,
    kind_words,
    record,
    sentence,
    status,
    stop_sentence,
    stopped,
    summary,
)
from nixfleet.rollout.estimate import Download, Pace, estimate
from nixfleet.rollout.partly import HALTED, partial_record, partial_sentence
from nixfleet.server.coordinator.clock import RunClock
from nixfleet.server.coordinator.device_views import transfer_of
from nixfleet.server.coordinator.live import LiveDevices
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.planner import Planner
from nixfleet.server.coordinator.release_views import ReleaseViews, by_prefix
from nixfleet.server.coordinator.work import Work
from nixfleet.trust.replay import principal_of
from nixfleet.trust.replay.reach import EVERYTHING, Reach
from nixfleet.trust.words import select_words

_REACHES_KEPT = 64


class RolloutViews:
    """Makes views of rollouts."""

    def __init__(
        self, log: LogKeeper, live: LiveDevices, planner: Planner, releases: ReleaseViews, clock: RunClock
    ) -> None:
        self._log = log
        self._live = live
        self._planner = planner
        self._releases = releases
        self._clock = clock
        self._reaches: OrderedDict[int, tuple[Reach, int, frozenset[str]]] = OrderedDict()
        """By identity: a reader's reach, and what it came to at a size of the log."""

    def all(self, reach: Reach = EVERYTHING) -> list[RolloutView]:
        """Show all rollouts that a reader may see, newest first."""
        seen = (self.seen(work, reach) for work in reversed(self._planner.works.values()))
        return [view for view in seen if view is not None]

    def seen(self, work: Work, reach: Reach) -> RolloutView | None:
        """Show a rollout as a reader may see it, counting the members it may read of; None when it may not.

        It may where it reads of a member, and where the rollout is its own.
        """
        if reach.everything:
            return self.one(work)
        members = self._members(work, reach)
        if not members and not reach.owns(self._log.state, Fingerprint(work.logged.place.signer)):
            return None
        return self.one(work, members)

    def partial(self, work: Work, reach: Reach) -> bool:
        """Tell whether a rollout has members that a reader may not read of."""
        only = self._members(work, reach)
        return only is not None and len(only) < len(work.members)

    def _members(self, work: Work, reach: Reach) -> frozenset[str] | None:
        """Give the members that a reader may read of; None for all, where it may read everything."""
        return None if reach.everything else self._in_reach(reach).intersection(work.members)

    def _in_reach(self, reach: Reach) -> frozenset[str]:
        """Give the devices that a reader may read of; kept while the log stands still, for a stream asks every time."""
        held = self._reaches.get(id(reach))
        if held is None or held[0] is not reach or held[1] != self._log.size:
            devices = self._log.state.devices.items()
            seen = frozenset(device for device, record in devices if reach.over(record.statement.tags))
            held = self._reaches[id(reach)] = (reach, self._log.size, seen)
            while len(self._reaches) > _REACHES_KEPT:
                self._reaches.popitem(last=False)
        return held[2]

    def find(self, name: str) -> Work:
        """Find a rollout by digest or an unambiguous start of it. Raises: Unknown, UserError."""
        works = self._planner.works
        return works.get(name) or works[by_prefix(name, works, "rollout")]

    def one(self, work: Work, only: frozenset[str] | None = None) -> RolloutView:
        """Show a rollout; with `only`, count these members alone."""
        logged, stored, statement = work.logged, work.stored, work.logged.statement
        now, state, lineup = self._clock.now(), work.course(self._clock.reconnect_s), work.lineup()
        members = work.members
        if only is not None:
            members = {device: member for device, member in members.items() if device in only}
            lineup = tuple(tuple(device for device in wave if device in only) for wave in lineup)
        result = summary(state, tuple(members.values()), now, lineup)
        word, total = status(state, now), result.total
        waits = work.waits.get(None)
        clocks = stored.waves or tuple(WaveState() for _ in statement.waves)
        numbered = enumerate(zip(statement.waves, clocks, result.waves, strict=True), start=1)
        partial = len(members) < len(work.members)
        paces = self._paces(work, state, [[work.members[device] for device in wave] for wave in lineup], result, now)
        why = HALTED if partial else state.halted
        return RolloutView(
            id=work.id,
            index=logged.index,
            kind=statement.kind,
            release=statement.release or "",
            release_name=self._releases.name_of(statement),
            by=logged.place.signer,
            principal=principal_of(self._log.state, Fingerprint(logged.place.signer)),
            at=logged.place.log_time,
            note=clean(statement.note or ""),
            state=word,
            waits="" if waits is None else _said(None, waits, len(clocks), partial=partial),
            why=_record(waits, partial=partial),
            stops=() if partial else _stops(state, word, members.values(), result.standings),
            halted=why if word == "halted" else "",
            standing=word == "finished" and not work.superseded and not work.unready,
            waves=tuple(
                self._wave(work, number, *parts, pace, partial=partial)
                for (number, parts), pace in zip(numbered, paces, strict=True)
            ),
            eta_s=paces[-1].eta_s if word == "running" else None,
            typical_s=int(median(work.took_s)) if work.took_s else None,
            causes=_causes(members.values(), result.standings),
            joiners=work.systems is not None and not work.systems.by_device,
            total=total.total,
            confirmed=total.confirmed,
            failed=total.failed + total.overdue,
            in_flight=total.in_flight,
            max_in_flight=statement.max_in_flight,
            soak_s=statement.soak_s,
            device_timeout_s=statement.device_timeout_s,
            started_at=stored.started_at,
            finished_at=stored.finished_at,
            controls=logged.controls,
            judged=work.judged == work.outcomes,
            partial=partial,
        )

    def _wave(
        self, work: Work, number: int, wave: Wave, clock: WaveState, counts: Counts, pace: Pace, *, partial: bool
    ) -> WaveView:
        reason = work.waits.get(number)
        members = select_words(wave.members) if isinstance(wave.members, dict) else str(wave.members)
        return WaveView(
            number=number,
            members=members,
            gate=wave.gate,
            state=_wave_state(clock),
            total=counts.total,
            confirmed=counts.confirmed,
            failed=counts.failed,
            in_flight=counts.in_flight,
            overdue=counts.overdue,
            opened_at=self._wall_of(clock.opened_s),
            done_at=self._wall_of(clock.done_s),
            passed_at=self._wall_of(clock.passed_s),
            download=_download(pace.download),
            eta_s=pace.eta_s if clock.done_s is None else None,
            waits="" if reason is None else _said(number, reason, len(work.logged.statement.waves), partial=partial),
            why=_record(reason, partial=partial),
        )

    def _paces(
        self, work: Work, state: Course, waves: Sequence[Sequence[Member]], result: Summary, now: Clock
    ) -> tuple[Pace, ...]:
        """Estimate each wave, by what its devices took and download."""
        downloads = {}
        if result.total.in_flight:
            for member in (member for wave in waves for member in wave):
                if result.standings[member.device] is Standing.IN_FLIGHT and (load := self._load(work, member.device)):
                    downloads[member.device] = load
        return estimate(state, waves, result.standings, now, work.took_s, downloads)

    def _load(self, work: Work, device: str) -> Download | None:
        """Give a device's download for a rollout, if it is under way."""
        live = self._live.get(device)
        transfer = transfer_of(live) if live.progress is not None and live.progress.rollout == work.id else None
        if transfer is None:
            return None
        return Download(
            done_bytes=transfer.done_bytes, total_bytes=transfer.total_bytes, rate_bytes_s=transfer.rate_bytes_s
        )

    def _wall_of(self, run_s: int | None) -> int | None:
        """Turn running time into wall time, as if no gap had been since."""
        if run_s is None:
            return None
        now = self._clock.now()
        return now.wall_s - (now.run_s - run_s)

    def detail(self, work: Work, reach: Reach = EVERYTHING) -> RolloutDetail:
        """Show a rollout with the members that a reader may read of, in the order of their waves."""
        only = self._members(work, reach)
        partial = self.partial(work, reach)
        now, state = self._clock.now(), work.course(self._clock.reconnect_s)
        standings = summary(state, tuple(work.members.values()), now, work.lineup()).standings
        members = []
        for number, wave in enumerate(work.lineup(), start=1):
            for device in wave:
                member, live, why = work.members[device], self._live.get(device), self._planner.why(work, device)
                if standings[device] is Standing.GONE or not (only is None or device in only):
                    continue
                members.append(
                    MemberView(
                        device=device,
                        name=member.name,
                        wave=number,
                        phase=member.phase,
                        outcome=member.outcome,
                        overdue=standings[device] is Standing.OVERDUE,
                        online=member.online,
                        reason=clean(member.reason),
                        waits=self._planner.waits_for(work, device, partial=partial),
                        why=None if why is None else _record(why[1], partial=partial),
                        transfer=transfer_of(live) if live.progress and live.progress.rollout == work.id else None,
                    )
                )
        return RolloutDetail(rollout=self.one(work, only), members=tuple(members))


def _said(subject: int | None, reason: Reason, waves: int, *, partial: bool) -> str:
    """Say what waits: to who may not read of all members, without how many they are."""
    return partial_sentence(subject, reason, "", waves) if partial else sentence(subject, reason, {}, waves)


def _record(reason: Reason | None, *, partial: bool) -> Why | None:
    """Give a typed reason as a record: to who may not read of all members, its name alone."""
    if reason is None:
        return None
    return partial_record(reason) if partial else record(reason)


def _stops(
    state: Course, word: str, members: Iterable[Member], standings: Mapping[str, Standing]
) -> tuple[StopView, ...]:
    """Show the kinds of device that a rollout has stopped for, with how many of these members wait for that."""
    active = stopped(state)
    if not active:
        return ()
    waiting = Counter((m.path, m.kind) for m in members if standings[m.device] is Standing.STOPPED)
    return tuple(
        StopView(
            kind=kind_words(stop.kind),
            path=stop.path,
            failed=stop.failed,
            tried=stop.tried,
            left=waiting[stop.path, stop.kind],
            said=stop_sentence(stop, going_on=word in {"running", "finished"}),
        )
        for stop in state.stops
        if (stop.path, stop.kind) in active
    )


def _download(load: Download) -> Transfer | None:
    """Show downloads in sum, if there are any."""
    if not load.total_bytes:
        return None
    return Transfer(done_bytes=load.done_bytes, total_bytes=load.total_bytes, rate_bytes_s=load.rate_bytes_s)


def _causes(members: Iterable[Member], standings: Mapping[str, Standing]) -> dict[str, int]:
    """Count what devices failed for."""
    found: Counter[str] = Counter()
    for member in members:
        match standings[member.device]:
            case Standing.FAILED:
                found[member.cause.value] += 1
            case Standing.OVERDUE:
                found["overdue"] += 1
            case _:
                pass
    return dict(sorted(found.items()))


def _wave_state(clock: WaveState) -> str:
    """Say where a wave is: waiting, open, soaking or passed."""
    if clock.passed_s is not None:
        return "passed"
    if clock.done_s is not None:
        return "soaking"
    return "waiting" if clock.opened_s is None else "open"
