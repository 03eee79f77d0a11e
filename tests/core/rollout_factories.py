"""Rollouts, members and a small driver for the planner's tests; a member answers only when a test says so."""

from collections.abc import Sequence
from typing import Any

import msgspec

from nixfleet.model.device import Cause, Outcome, Phase
from nixfleet.model.statements import LogState, Rollout, StopAt, Wave
from nixfleet.rollout import Clock, Course, Decision, Member, apply, at_once, check, plan

ID = "c" * 64
NOON_S = 1_764_072_000
"""Tuesday 2025-11-25 12:00:00 UTC."""


def rollout(waves: Sequence[Wave] | None = None, **changes: Any) -> Course:
    """Make a rollout that is ready; `changes` are fields of its row or of its statement."""
    rows = set(Course.__struct_fields__)
    body: dict[str, Any] = {
        "v": 1,
        "fleet": "f" * 64,
        "by": "SHA256:" + "A" * 43,
        "at": NOON_S,
        "base": LogState(size=1, root="0" * 64),
        "kind": "deploy",
        "release": "e" * 64,
        "select": {},
        "waves": at_once() if waves is None else tuple(waves),
        "max_in_flight": 1_000,
        "stop_at": StopAt(count=1),
        "soak_s": 300,
        "device_timeout_s": 3_600,
        "not_after": NOON_S + 30 * 86_400,
    }
    row = {name: value for name, value in changes.items() if name in rows and name != "waves"}
    statement = {name: value for name, value in changes.items() if name not in rows}
    if "clocks" in statement:
        row["waves"] = statement.pop("clocks")
    return Course(id=ID, index=7, body=Rollout(**body | statement), **row)


def member(number: int, **changes: Any) -> Member:
    """Make a connected member that has not been started."""
    fields: dict[str, Any] = {"device": f"{number:032x}", "name": f"web-{number:02d}", "tags": {}, "online": True}
    return Member(**fields | changes)


def members(number: int, **changes: Any) -> tuple[Member, ...]:
    """Make so many of them."""
    return tuple(member(each, **changes) for each in range(number))


def at(run_s: int, wall_s: int | None = None) -> Clock:
    """Make a clock; the wall follows the running clock unless it is given."""
    return Clock(run_s=run_s, wall_s=NOON_S + run_s if wall_s is None else wall_s)


class Fleet:
    """A rollout with its members and a clock: `tick` plans, checks the plan and applies it."""

    def __init__(self, state: Course, fleet: Sequence[Member]) -> None:
        self.state = state
        self.members = tuple(fleet)
        self.now = at(0)

    def tick(self, seconds: int = 0) -> list[Decision]:
        """Let time pass, then plan; every plan must be sound and say nothing new when it is made again."""
        self.now = Clock(run_s=self.now.run_s + seconds, wall_s=self.now.wall_s + seconds)
        decisions = plan(self.state, self.members, self.now)
        assert [] == check(self.state, self.members, decisions, self.now)
        self.state, self.members = apply(self.state, self.members, decisions, self.now)
        return decisions

    def change(self, device: str, **changes: Any) -> None:
        """Change what is known of one device."""
        self.members = tuple(
            msgspec.structs.replace(each, **changes) if each.device == device else each for each in self.members
        )

    def row(self, **changes: Any) -> None:
        """Change the rollout's row, as a signed control does."""
        self.state = msgspec.structs.replace(self.state, **changes)

    def confirm(self, *devices: str) -> None:
        """Let devices confirm, healthy."""
        for device in devices:
            self.change(
                device,
                phase=Phase.CONFIRMED,
                outcome=Outcome.CONFIRMED,
                cause=Cause.NONE,
                healthy_s=self.now.run_s,
            )

    def fail(self, device: str, cause: Cause = Cause.HEALTH, outcome: Outcome = Outcome.REVERTED) -> None:
        """Let a device fail."""
        self.change(device, phase=Phase(outcome), outcome=outcome, cause=cause)

    def under_way(self) -> list[str]:
        """List who was started and has no outcome yet."""
        return [each.device for each in self.members if each.offered_s is not None and each.outcome is None]
