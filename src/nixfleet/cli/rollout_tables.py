"""How rollouts are shown to a person: lists, waves and members as tables, states in words; it never asks."""

from collections.abc import Sequence

from nixfleet.cli import output
from nixfleet.model.text import counted
from nixfleet.model.typed import UNITS_S, duration
from nixfleet.model.views import MemberView, RolloutDetail, RolloutView, StopView, WaveView


def listing(rollouts: Sequence[RolloutView], now: int) -> None:
    """Write a line for each rollout."""
    output.table(
        ("ROLLOUT", "RELEASE", "STATE", "DONE", "FAILED", "BY", "WHEN", "TOOK", "WAITS"),
        [
            (
                view.id[:12],
                view.release_name,
                view.state,
                f"{view.confirmed}/{view.total}",
                f"{view.failed} ({causes(view)})" if view.causes else str(view.failed),
                view.principal or view.by,
                output.age(view.at, now),
                took(view),
                waits_now(view),
            )
            for view in rollouts
        ],
        "no rollout yet; 'nixfleet deploy' makes one",
    )


def waits_now(view: RolloutView) -> str:
    """Say what a rollout waits for or stopped for; where nothing does, what the first of its waves waits for."""
    own = view.halted or view.waits or "; ".join(stop.said for stop in view.stops)
    if own or view.state != "running":
        return own
    return next((wave.waits for wave in view.waves if wave.waits), "")


def head(view: RolloutView, now: int) -> None:
    """Write what a rollout is."""
    output.fields(
        [
            ("rollout", view.id),
            ("release", f"{view.release_name} ({view.release[:12]})"),
            ("by", f"{view.principal or view.by}{f': {view.note}' if view.note else ''}"),
            ("state", state_of(view)),
            *(("stop", _stop(stop)) for stop in view.stops),
            *timeline(view, now),
            (
                "limits",
                f"{view.max_in_flight} in flight, soak {duration(view.soak_s)}, at most "
                + duration(view.device_timeout_s),
            ),
            *([("shown", "the devices that your grants cover; it has others, too")] if view.partial else []),
        ]
    )


def _stop(stop: StopView) -> str:
    """Say for which kind a rollout has stopped, and how many wait for that."""
    return f"{stop.said} ({counted(stop.left, 'device')} left)" if stop.left else stop.said


def state_of(view: RolloutView) -> str:
    """Give a rollout's state, the word first, and why it is in it."""
    why = view.halted or view.waits.removeprefix("the rollout waits: ").removeprefix(f"{view.state}: ")
    if not why or why.startswith(view.state):
        return why or view.state  # as in "paused by a signed act"
    return f"{view.state}: {why}"


def waves(detail: RolloutDetail, now: int) -> None:
    """Write each wave's line."""
    output.table(
        ("WAVE", "MEMBERS", "STATE", "DONE", "FAILED", "OPENED", "ETA", "WAITS"),
        [
            (
                str(wave.number),
                wave.members,
                wave.state,
                f"{wave.confirmed}/{wave.total}",
                str(wave.failed),
                output.age(wave.opened_at, now) if wave.opened_at else "",
                eta(wave),
                wave.waits,
            )
            for wave in detail.rollout.waves
        ],
        "no waves",
    )


def eta(wave: WaveView) -> str:
    """Say how long a wave may still take, and what it downloads; nothing once it is done."""
    if wave.done_at is not None or not wave.total:
        return ""
    load = wave.download
    fetched = ""
    if load is not None:
        rate = f" at {output.size(load.rate_bytes_s)}/s" if load.rate_bytes_s else ""
        fetched = f", {output.size(load.done_bytes)} of {output.size(load.total_bytes)}{rate}"
    return f"{'unknown' if wave.eta_s is None else about(wave.eta_s)}{fetched}"


def about(seconds: int) -> str:
    """Write an estimate in one step of precision: ``40s``, ``3m``, ``2h``, ``1d``."""
    for unit in ("d", "h", "m"):
        if seconds >= UNITS_S[unit]:
            return f"{-(-seconds // UNITS_S[unit])}{unit}"
    return f"{seconds}s"


def timeline(view: RolloutView, now: int) -> list[tuple[str, str]]:
    """Give when a rollout was signed, began and ended, how long it took, and what devices failed for."""
    told = [("signed", output.age(view.at, now))]
    if view.started_at is not None:
        told.append(("began", output.age(view.started_at, now)))
    if view.finished_at is not None:
        told.append(("finished", f"{output.age(view.finished_at, now)}, after {took(view)}"))
    elif view.state == "running":
        told.append(("may end", "unknown" if view.eta_s is None else f"in about {about(view.eta_s)}"))
    if view.typical_s is not None:
        told.append(("a device", f"took {about(view.typical_s)}, in the middle of those that confirmed"))
    if view.causes:
        told.append(("failed for", causes(view)))
    return told


def took(view: RolloutView) -> str:
    """Say how long a finished rollout took; nothing while it is not finished."""
    if view.started_at is None or view.finished_at is None:
        return ""
    return about(max(0, view.finished_at - view.started_at))


def causes(view: RolloutView) -> str:
    """Count what devices failed for: ``2 health, 1 overdue``."""
    return ", ".join(f"{count} {cause}" for cause, count in view.causes.items())


def members(detail: RolloutDetail) -> None:
    """Write each member's line."""
    output.table(
        ("DEVICE", "WAVE", "STATE", "WHY"),
        [(member.name, str(member.wave), word(member), member.reason or member.waits) for member in detail.members],
        "no device is in its set",
    )


def word(member: MemberView) -> str:
    """Give a member's state in a word or two."""
    if member.outcome is not None:
        return member.outcome.value
    if member.overdue:
        return "overdue"
    return member.phase.value if member.online else f"{member.phase.value}, offline"
