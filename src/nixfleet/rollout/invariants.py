"""`check`: what must hold of a plan whoever made it; written apart from the planner so that neither hides the other.

It must share no rule with `planner`: only the data, `apply`'s bookkeeping and the windows' arithmetic.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from nixfleet.model.device import Cause, Outcome, Phase
from nixfleet.rollout.decisions import (
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
from nixfleet.rollout.fold import apply, wave_states
from nixfleet.rollout.types import Clock, Course, Kind, Member
from nixfleet.rollout.waves import waves
from nixfleet.rollout.windows import opens_at, zone_name, zone_of


def check(
    rollout: Course,
    members: Sequence[Member],
    decisions: Sequence[Decision],
    now: Clock,
    lineup: Sequence[Sequence[str]] | None = None,
) -> list[str]:
    """List the faults of decisions about this state, each as a sentence; none means that they are sound."""
    lineup = waves(rollout, members) if lineup is None else lineup
    after, folded = apply(rollout, members, decisions, now)
    return [
        *_starts(rollout, members, decisions, now, lineup),
        *_places(folded, after, decisions),
        *_stopped(rollout, folded, decisions, now),
        *_kinds(rollout, folded, decisions, now),
        *_gates(rollout, members, decisions, now, lineup),
        *_lapses(rollout, members, decisions, now),
        *_reasons(folded, decisions, lineup),
    ]


def _final(member: Member) -> bool:
    """Tell whether the member's outcome stands; a device that mends its own failure is still under way."""
    mends = (member.outcome is Outcome.FAILED and member.cause in {Cause.NETWORK, Cause.SPACE}) or (
        member.outcome is Outcome.REVERTED and member.cause is Cause.NETWORK
    )
    return member.outcome is not None and not mends


def _holds_place(member: Member) -> bool:
    """Tell whether the member is in flight."""
    started = member.active and member.offered_s is not None
    return started and not _final(member) and member.overdue_s is None and member.parked_s is None


def _failed(member: Member) -> bool:
    """Tell whether the member counts against `stop_at`."""
    if not member.active or member.excused or member.outcome is Outcome.CONFIRMED:
        return False
    return _final(member) or member.overdue_s is not None


def _starts(
    rollout: Course,
    members: Sequence[Member],
    decisions: Sequence[Decision],
    now: Clock,
    lineup: Sequence[Sequence[str]],
) -> Iterator[str]:
    """Find starts that are repeated, past a gate, or of a device that may not start."""
    starts = [decision for decision in decisions if isinstance(decision, Start)]
    known = {member.device: member for member in members}
    numbers = {device: number for number, wave in enumerate(lineup, start=1) for device in wave}
    opened = {number for number, clock in enumerate(wave_states(rollout), start=1) if clock.opened_s is not None}
    opened |= {decision.wave for decision in decisions if isinstance(decision, Open)}
    for device, times in Counter(start.device for start in starts).items():
        if times > 1:
            yield f"{device} is started {times} times in one plan"
    for start in starts:
        member = known.get(start.device)
        if member is None or not member.active:
            yield f"{start.device} is started but does not belong to the rollout"
            continue
        if member.offered_s is not None or member.outcome is not None or member.run != start.run:
            yield f"run {start.run} of {start.device} is started again or is not the one wanted"
        if numbers.get(start.device) != start.wave or start.wave not in opened:
            yield f"{start.device} is started past the gate of its wave"
        yield from (f"{start.device} is started {how}" for how in _unfit(rollout, member, now))


def _unfit(rollout: Course, member: Member, now: Clock) -> Iterator[str]:
    """Say how a member cannot, or must not, begin now."""
    if not member.online:
        yield "while offline"
    if member.held_until_wall_s is not None and now.wall_s < member.held_until_wall_s:
        yield "while held"
    if _paused(member, now):
        yield "while it is paused on the device"
    if not _window_open(rollout, member, now):
        yield "outside its window"


def _paused(member: Member, now: Clock) -> bool:
    """Tell whether root has paused it on the device itself."""
    return member.paused_until_wall_s is not None and now.wall_s < member.paused_until_wall_s


def _window_open(rollout: Course, member: Member, now: Clock) -> bool:
    """Tell whether the rollout's window is open where the member is."""
    if rollout.body.window is None:
        return True
    zone = zone_of(zone_name(rollout.body.window, member.timezone))
    opens = None if zone is None else opens_at(rollout.body.window, zone, now.wall_s)
    return opens is not None and opens <= now.wall_s


def _places(folded: Sequence[Member], after: Course, decisions: Sequence[Decision]) -> Iterator[str]:
    """Find plans that start more than may be in flight; without a start a surplus is not the plan's doing."""
    used = sum(map(_holds_place, folded))
    if used > after.body.max_in_flight and any(isinstance(decision, Start) for decision in decisions):
        yield f"{used} in flight, {after.body.max_in_flight} allowed"


def _stopped(rollout: Course, folded: Sequence[Member], decisions: Sequence[Decision], now: Clock) -> Iterator[str]:
    """Find moves of a rollout that may not move, and a halt that is missing."""
    moves = [decision for decision in decisions if isinstance(decision, Open | Done | Passed | Start | Finish)]
    resumed = any(isinstance(decision, Resumed) for decision in decisions)
    lifted = rollout.resumed > (rollout.halted_resumed if rollout.halted else rollout.stops_resumed)
    if resumed and not lifted:
        yield "the halt is cleared without a signed resume"
    for stopped, word in (
        (rollout.cancelled, "cancelled"),
        (rollout.superseded, "superseded"),
        (rollout.paused, "paused"),
        (bool(rollout.halted) and not resumed, "halted"),
        (bool(rollout.unready), "not ready"),
        (now.wall_s < rollout.body.not_before, "not due"),
        (now.wall_s > rollout.body.not_after, "expired"),
    ):
        if stopped and moves:
            yield f"the rollout is {word} but {type(moves[0]).__name__} is decided"
    total = sum(member.active for member in folded)
    failed = sum(map(_failed, folded))
    stop = rollout.body.stop_at
    reached = (stop.count is not None and failed >= stop.count) or (
        stop.percent is not None and failed >= stop.at_least and failed * 100 >= stop.percent * total
    )
    if failed and reached and moves and not any(isinstance(decision, Halt) for decision in decisions):
        yield f"{failed} of {total} failed and nothing halts"


def _kinds(rollout: Course, folded: Sequence[Member], decisions: Sequence[Decision], now: Clock) -> Iterator[str]:
    """Find a system started on a kind that it failed on, an end that leaves such devices out, a stop for nothing."""
    lifted = any(isinstance(decision, Resumed) for decision in decisions)
    new = [decision.stop for decision in decisions if isinstance(decision, StopKind)]
    bad = {(stop.path, stop.kind) for stop in (*(() if lifted else rollout.stops), *new)}
    failed = Counter((m.path, m.kind) for m in folded if _failed(m) and _tried(m) and m.path and m.kind)
    tried = Counter((m.path, m.kind) for m in folded if m.active and m.outcome is Outcome.CONFIRMED)
    noticed = {what for what, number in failed.items() if number >= 2 and number >= tried[what]}
    for stop in new:
        if (stop.path, stop.kind) not in noticed:
            yield f"it stops for a kind on which {stop.path} does not fail"
    known = {member.device: member for member in folded}
    for decision in decisions:
        member = known.get(decision.device) if isinstance(decision, Start) else None
        if member is not None and (member.path, member.kind) in bad | noticed:
            yield f"{member.device} is started with a system that failed on others of its kind"
    if any(isinstance(decision, Finish) for decision in decisions) and any(_left_out(m, bad, now) for m in folded):
        yield "it finishes without those whose kind it stopped for"


def _tried(member: Member) -> bool:
    """Tell whether the device has told of a try: one whose time ran out before says nothing of the system."""
    return member.outcome is not None or member.phase not in {Phase.IDLE, Phase.OFFERED}


def _left_out(member: Member, bad: Collection[tuple[str, Kind | None]], now: Clock) -> bool:
    """Tell whether a member is not started for its kind's sake alone."""
    if member.held_until_wall_s is not None and now.wall_s < member.held_until_wall_s:
        return False
    return member.active and member.offered_s is None and member.outcome is None and (member.path, member.kind) in bad


def _gates(
    rollout: Course,
    members: Sequence[Member],
    decisions: Sequence[Decision],
    now: Clock,
    lineup: Sequence[Sequence[str]],
) -> Iterator[str]:
    """Find waves that open, are done, pass or finish before their time."""
    after, folded = apply(rollout, members, decisions, now)
    known = {member.device: member for member in folded}
    clocks = wave_states(rollout)
    passed = {number for number, clock in enumerate(clocks, start=1) if clock.passed_s is not None}
    done = {number: clock.done_s for number, clock in enumerate(clocks, start=1) if clock.done_s is not None}
    for decision in decisions:
        match decision:
            case Open(wave=wave):
                if not passed >= set(range(1, wave)):
                    yield f"wave {wave} opens before those before it have passed"
                yield from _signed(rollout, wave)
            case Done(wave=wave):
                if busy := [device for device in lineup[wave - 1] if not _settled(known[device], after, now)]:
                    yield f"wave {wave} is done without {busy[0]}"
                done[wave] = now.run_s
            case Passed(wave=wave):
                if any(known[device].active for later in lineup[wave:] for device in later):
                    yield from _soaked(
                        rollout, wave, done.get(wave), [known[device] for device in lineup[wave - 1]], now
                    )
                passed.add(wave)
            case Finish():
                if len(passed) < len(clocks):
                    yield "it finishes before all waves have passed"
            case _:
                pass


def _settled(member: Member, rollout: Course, now: Clock) -> bool:
    """Tell whether nobody has to wait for the member."""
    if not member.active or _final(member) or member.overdue_s is not None:
        return True
    if member.offered_s is not None:
        return False
    held = member.held_until_wall_s is not None and now.wall_s < member.held_until_wall_s
    gave_up = member.waiting_s is not None and now.run_s - member.waiting_s >= rollout.body.device_timeout_s
    bad = any((member.path, member.kind) == (stop.path, stop.kind) for stop in rollout.stops)
    return held or bad or (gave_up and (_paused(member, now) or not member.online))


def _signed(rollout: Course, wave: int) -> Iterator[str]:
    """Find a signed gate without its act."""
    if rollout.body.waves[wave - 1].gate == "signed" and wave not in rollout.advanced:
        yield f"wave {wave} opens without a signed advance"


def _soaked(
    rollout: Course, wave: int, done_s: int | None, wave_members: Sequence[Member], now: Clock
) -> Iterator[str]:
    """Find a soak that never began, ends early, on silence, or on failures alone."""
    if done_s is None:
        yield f"wave {wave} passes before it is done"
        return
    started = [m for m in wave_members if m.active and m.offered_s is not None]
    confirmed = [m for m in started if m.outcome is Outcome.CONFIRMED]
    soak_s = rollout.body.soak_s
    if started and now.run_s < done_s + soak_s:
        yield f"wave {wave} passes before it has soaked"
    if not confirmed and any(map(_failed, started)):
        yield f"wave {wave} passes on failures alone"
    for member in confirmed:
        heard = member.healthy_s is not None and 4 * (done_s + soak_s - member.healthy_s) <= soak_s + 3
        if soak_s and member.online and not heard:
            yield f"wave {wave} passes without a healthy report of {member.device}"


def _lapses(rollout: Course, members: Sequence[Member], decisions: Sequence[Decision], now: Clock) -> Iterator[str]:
    """Find devices that are given up before their time, or while the fleet reconnects."""
    known = {member.device: member for member in members}
    for decision in decisions:
        if isinstance(decision, Overdue | Parked):
            since_s = known[decision.device].offered_s
            if since_s is None or now.run_s - since_s < rollout.body.device_timeout_s:
                yield f"{decision.device} is given up before its time"
            if now.run_s < (rollout.reconnect_s or 0):
                yield f"{decision.device} is given up while the fleet reconnects"


def _reasons(folded: Sequence[Member], decisions: Sequence[Decision], lineup: Sequence[Sequence[str]]) -> Iterator[str]:
    """Find devices that neither have an outcome, nor are under way, nor wait for a reason."""
    subjects = {decision.subject for decision in decisions if isinstance(decision, Wait)}
    if None in subjects:
        return
    numbers = {device: number for number, wave in enumerate(lineup, start=1) for device in wave}
    for member in folded:
        idle = member.active and not _final(member) and member.offered_s is None
        if idle and member.device not in subjects and numbers.get(member.device) not in subjects:
            yield f"{member.device} waits without a reason"
