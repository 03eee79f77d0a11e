"""Where a member stands in its rollout, and how many do: the one classification that all rules and views share."""

from collections.abc import Sequence
from enum import IntEnum, auto

import msgspec

from nixfleet.model.device import Outcome, Phase, mends_itself
from nixfleet.model.statements import StopAt
from nixfleet.rollout.types import Clock, Course, Kind, Member, Status


class Standing(IntEnum):
    """Where a member stands; every rule of the planner is written in these words."""

    GONE = auto()
    """Not active: it has left every count."""
    HELD = auto()
    """Not started and held by a signed act: nobody waits for it."""
    STOPPED = auto()
    """Not started, for its system failed on others of its kind: nobody waits for it."""
    PENDING = auto()
    """Not started."""
    AWAY = auto()
    """Not started, offline or paused on the device, and waited for longer than `device_timeout_s`: nobody waits for it
    any more."""
    IN_FLIGHT = auto()
    """Started, with a place, until an outcome or `device_timeout_s`."""
    PARKED = auto()
    """Started, without a place, waiting for a reboot or for the end of a pause there: neither failed nor done."""
    OVERDUE = auto()
    """Started, silent for `device_timeout_s`: counts as failed, may still confirm."""
    CONFIRMED = auto()
    FAILED = auto()


def deadline_s(since_s: int, rollout: Course) -> int:
    """Tell until when a device that was offered an update may be silent; never before the fleet could reconnect."""
    return max(since_s + rollout.body.device_timeout_s, rollout.reconnect_s or 0)


def standings(  # noqa: C901 -- one branch for each standing, in the hot loop
    members: Sequence[Member], rollout: Course, now: Clock
) -> list[Standing]:
    """Classify members, in their order; whoever holds a place keeps it until `plan` has said `Overdue` or `Parked`."""
    run_s, wall_s = now.run_s, now.wall_s
    confirmed = Outcome.CONFIRMED  # enum members are slow to look up on Python 3.11, and this loop is the hot one
    in_flight, pending = Standing.IN_FLIGHT, Standing.PENDING
    stops = stopped(rollout)
    result: list[Standing] = []
    for member in members:
        if not member.active:
            where = Standing.GONE
        elif member.outcome is confirmed:
            where = Standing.CONFIRMED
        elif member.outcome is not None and not mends_itself(member.outcome, member.cause):
            where = Standing.FAILED
        elif member.offered_s is not None:
            where = in_flight
            if member.overdue_s is not None:
                where = Standing.OVERDUE
            elif member.parked_s is not None:
                where = Standing.PARKED
        elif member.held_until_wall_s is not None and wall_s < member.held_until_wall_s:
            where = Standing.HELD
        elif stops and (member.path, member.kind) in stops:
            where = Standing.STOPPED
        elif (
            (member.online and (member.paused_until_wall_s is None or wall_s >= member.paused_until_wall_s))
            or member.waiting_s is None
            or run_s < deadline_s(member.waiting_s, rollout)
        ):
            where = pending
        else:
            where = Standing.AWAY
        result.append(where)
    return result


def standing(member: Member, rollout: Course, now: Clock) -> Standing:
    """Classify one member."""
    return standings((member,), rollout, now)[0]


def is_awaited(member: Member) -> bool:
    """Tell whether a started try may still come to something: whatever the rollout and the time, it has no outcome.

    It is then in flight, parked or overdue; one that mends its own failure is, too.
    """
    if not member.active or member.offered_s is None:
        return False
    return member.outcome is None or mends_itself(member.outcome, member.cause)


def lapsed(member: Member, rollout: Course, now: Clock) -> Standing:
    """Tell what becomes of a member in flight, or parked, now; it stays so until its time is over.

    One that no longer waits for a reboot or for a pause's end, and has gone silent since, is not waited for for ever.
    """
    paused = member.paused_until_wall_s is not None and now.wall_s < member.paused_until_wall_s
    waits = paused or member.phase is Phase.REBOOT_PENDING
    if member.parked_s is not None:
        silent = not member.online and now.run_s >= deadline_s(heard_s(member), rollout)
        return Standing.OVERDUE if silent and not waits else Standing.PARKED
    if now.run_s < deadline_s(member.offered_s or 0, rollout):
        return Standing.IN_FLIGHT
    return Standing.PARKED if waits else Standing.OVERDUE


def heard_s(member: Member) -> int:
    """Give when a parked member was last heard of, or parked."""
    return max(member.parked_s or 0, member.seen_s or 0)


def stop_limit(stop_at: StopAt, total: int) -> int:
    """Tell how many failures halt a rollout of so many active members; of two limits the smaller holds."""
    limits = [] if stop_at.count is None else [stop_at.count]
    if stop_at.percent is not None:
        limits.append(max(stop_at.at_least, -(-total * stop_at.percent // 100)))
    return max(1, min(limits, default=stop_at.at_least))


def status(rollout: Course, now: Clock) -> Status:
    """Put a rollout's state in one word; a finished one stays `finished` when a newer one supersedes it."""
    if rollout.cancelled:
        return "cancelled"
    if rollout.superseded:
        return "finished" if rollout.finished else "superseded"
    if halted(rollout):
        return "halted"
    if rollout.paused:
        return "paused"
    if rollout.finished:
        return "finished"
    if now.wall_s > rollout.body.not_after:
        return "expired"
    return "waiting" if rollout.unready or now.wall_s < rollout.body.not_before else "running"


def halted(rollout: Course) -> bool:
    """Tell whether it halted and no signed resume has followed."""
    return bool(rollout.halted) and rollout.resumed <= rollout.halted_resumed


def stopped(rollout: Course) -> frozenset[tuple[str, Kind | None]]:
    """Give the systems, with the kinds of device that they failed on, for which no signed resume has followed."""
    if rollout.resumed > rollout.stops_resumed:
        return frozenset()
    return frozenset((stop.path, stop.kind) for stop in rollout.stops)


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Active members by where they stand; they add up to `total`. `pending` holds all that are not started."""

    total: int = 0
    confirmed: int = 0
    failed: int = 0
    in_flight: int = 0
    rebooting: int = 0
    overdue: int = 0
    pending: int = 0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout in numbers: its state in one word, the counts of each wave (in order) and of all."""

    status: Status
    waves: tuple[Counts, ...]
    total: Counts
    standings: dict[str, Standing]


def count(where: Sequence[Standing]) -> Counts:
    """Count members by where they stand."""
    tally = {kind: where.count(kind) for kind in Standing}
    return Counts(
        total=len(where) - tally[Standing.GONE],
        confirmed=tally[Standing.CONFIRMED],
        failed=tally[Standing.FAILED],
        in_flight=tally[Standing.IN_FLIGHT],
        rebooting=tally[Standing.PARKED],
        overdue=tally[Standing.OVERDUE],
        pending=tally[Standing.PENDING] + tally[Standing.AWAY] + tally[Standing.HELD] + tally[Standing.STOPPED],
    )


def summary(rollout: Course, members: Sequence[Member], now: Clock, lineup: Sequence[Sequence[str]]) -> Summary:
    """Count a rollout for the views; `lineup` is what `waves` gave for these members."""
    every = standings(members, rollout, now)
    by_device = dict(zip((member.device for member in members), every, strict=True))
    return Summary(
        status=status(rollout, now),
        waves=tuple(count([by_device[device] for device in wave]) for wave in lineup),
        total=count(every),
        standings=by_device,
    )
