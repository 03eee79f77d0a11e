"""How rollouts are shown to a person: lists, waves and members as tables, states in words; it never asks."""

from collections.abc import Sequence

from nixfleet.cli import output
from nixfleet.cli.words import duration
from nixfleet.model.text import counted
from nixfleet.model.views import MemberView, RolloutDetail, RolloutView, StopView


def listing(rollouts: Sequence[RolloutView], now: int) -> None:
    """Write a line for each rollout."""
    output.table(
        ("ROLLOUT", "RELEASE", "STATE", "DONE", "FAILED", "BY", "WHEN", "WAITS"),
        [
            (
                view.id[:12],
                view.release_name,
                view.state,
                f"{view.confirmed}/{view.total}",
                str(view.failed),
                view.principal or view.by,
                output.age(view.at, now),
                view.halted or view.waits or "; ".join(stop.said for stop in view.stops),
            )
            for view in rollouts
        ],
        "no rollout yet; 'nixfleet deploy' makes one",
    )


def head(view: RolloutView) -> None:
    """Write what a rollout is."""
    output.fields(
        [
            ("rollout", view.id),
            ("release", f"{view.release_name} ({view.release[:12]})"),
            ("by", f"{view.principal or view.by}{f': {view.note}' if view.note else ''}"),
            ("state", state_of(view)),
            *(("stop", _stop(stop)) for stop in view.stops),
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


def waves(detail: RolloutDetail) -> None:
    """Write each wave's line."""
    output.table(
        ("WAVE", "MEMBERS", "STATE", "DONE", "FAILED", "WAITS"),
        [
            (
                str(wave.number),
                wave.members,
                wave.state,
                f"{wave.confirmed}/{wave.total}",
                str(wave.failed),
                wave.waits,
            )
            for wave in detail.rollout.waves
        ],
        "no waves",
    )


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
