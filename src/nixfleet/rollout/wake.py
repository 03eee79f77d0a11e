"""When time alone may change something, so that nobody has to plan on a fixed beat; it decides nothing."""

from collections.abc import Iterator, Sequence

from nixfleet.rollout.fold import wave_states
from nixfleet.rollout.gates import Gatekeeper, ask_from_s, closed, paused_there, silence_ends_s
from nixfleet.rollout.reasons import NotBefore, OutsideWindow
from nixfleet.rollout.standing import Standing, deadline_s, halted, heard_s, standings
from nixfleet.rollout.types import Clock, Course, Member


def next_wake(rollout: Course, members: Sequence[Member], now: Clock) -> int | None:
    """Tell in how many seconds to plan again if nothing else happens, at least 1; None: time alone changes nothing.

    Ask it about the state after `apply`. It may be early, never late.
    """
    delays = [delay for delay in _delays(rollout, members, now) if delay > 0]
    return min(delays, default=None)


def _delays(rollout: Course, members: Sequence[Member], now: Clock) -> Iterator[int]:
    """Give the seconds to everything that time alone will bring; what is past may be among it."""
    why = closed(rollout, now)
    if isinstance(why, NotBefore):
        yield why.not_before_wall_s - now.wall_s
    moving = why is None and not halted(rollout) and not rollout.paused
    windows = Gatekeeper(rollout.body.window, now.wall_s)
    pending = False
    for member, where in zip(members, standings(members, rollout, now), strict=True):
        match where:
            case Standing.IN_FLIGHT | Standing.PARKED:
                since_s = member.offered_s or 0 if where is Standing.IN_FLIGHT else heard_s(member)
                yield deadline_s(since_s, rollout) - now.run_s
                yield (member.paused_until_wall_s or 0) - now.wall_s
            case Standing.PENDING if moving:
                pending = True
                yield from _absences(member, rollout, now)
                shut = windows.reason(member)
                if isinstance(shut, OutsideWindow):
                    yield shut.opens_wall_s - now.wall_s
            case Standing.AWAY if moving:
                yield from _absences(member, rollout, now)
            case Standing.HELD if moving:
                yield (member.held_until_wall_s or 0) - now.wall_s
            case _:
                pass
    if moving:
        yield from _soaks(rollout, now)
    if why is None and (pending or not rollout.finished):
        yield rollout.body.not_after + 1 - now.wall_s


def _absences(member: Member, rollout: Course, now: Clock) -> Iterator[int]:
    """Give the end of a pause on the device itself, and of the wait for one that is paused or away."""
    shut = paused_there(member, now)
    if (shut is not None or not member.online) and member.waiting_s is not None:
        yield deadline_s(member.waiting_s, rollout) - now.run_s
    if shut is not None:
        yield shut.until_wall_s - now.wall_s


def _soaks(rollout: Course, now: Clock) -> Iterator[int]:
    """Give the seconds to the turns of every soak under way."""
    for wave in wave_states(rollout):
        if wave.done_s is not None and wave.passed_s is None:
            yield ask_from_s(wave.done_s, rollout) - now.run_s
            yield wave.done_s + rollout.body.soak_s - now.run_s
            yield silence_ends_s(wave.done_s, rollout) - now.run_s
