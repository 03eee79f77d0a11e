"""Which of several rollouts a device follows, which it does not and why, and which newer ones have replaced.

The choice itself is `nixfleet.trust.replay.choose`'s alone: a device makes the same.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from nixfleet.model.ids import matches
from nixfleet.model.statements import Device
from nixfleet.rollout import Clock
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.work import Bar, Work
from nixfleet.trust.replay import Follow, Hold, choose

_TOLD_ELSEWHERE: Final = {"cancelled", "not-yet"}
"""Kinds of skips that the planner has reasons of its own for."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The rollout that a device follows, None without one, and the newer ones that it does not, by their ids."""

    winner: str | None
    barred: dict[str, Bar] = field(default_factory=dict)


class Precedence:
    """Judges rollouts, which are given in the order of their indexes.

    Devices with the same tags share an answer until `forget`.
    """

    def __init__(self, log: LogKeeper) -> None:
        self._log = log
        self._chosen: dict[tuple[object, ...], Chosen] = {}

    def forget(self) -> None:
        """Judge anew from now on: rights and rollouts end by time alone."""
        self._chosen.clear()

    def choose(self, works: Collection[Work], device: Device, now: Clock) -> Chosen:
        """Choose as the device does."""
        parts = tuple(work.id for work in works if work.brings(device.device, device.tags) is not None)
        attempted = max((work.index for work in works if work.begun(device.device)), default=-1)
        held = device.state if device.state != "active" else ""
        key = (tuple(sorted(device.tags.items())), parts, attempted, held, held and device.device)
        if key not in self._chosen:
            self._chosen[key] = self._choose(device, parts, attempted, now)
        return self._chosen[key]

    def _choose(self, device: Device, parts: tuple[str, ...], attempted: int, now: Clock) -> Chosen:
        state, having = self._log.state, frozenset(parts)
        choice = choose(state, device.device, now.wall_s, attempted, lambda one: str(one.digest) in having)
        barred = {
            str(skip.rollout.digest): Bar(skip.text, waits=skip.kind == "approvals")
            for skip in choice.skipped
            if skip.kind not in _TOLD_ELSEWHERE
        }
        if isinstance(choice, Follow | Hold) and choice.rollout is not None:
            return Chosen(str(choice.rollout.digest), barred)
        # The planner itself waits for a hold's end, and says so.
        return Chosen(parts[-1] if parts and device.state == "held" else None, barred)


def supersede(works: Sequence[Work], now: Clock) -> bool:
    """Judge which of these rollouts newer ones have replaced; tells whether that changed."""
    # The newest first: it is the one that has most likely taken everybody over.
    ready = [work for work in reversed(works) if _may_count(work, now)]
    before = [work.superseded for work in works]
    for work in works:
        left = work.left()
        work.superseded = any(
            other.index > work.index and (other.has_all(left) or _takes_back_all(other, work)) for other in ready
        )
    return before != [work.superseded for work in works]


def taken_back(work: Work, device: Device, now: Clock) -> bool:
    """Tell whether a rollback of it covers a device: what others go back from is not begun there."""
    ready = (other.logged.statement for other in work.undone_by if _may_count(other, now))
    return any(matches(statement.select, device.tags) for statement in ready)


def _takes_back_all(other: Work, work: Work) -> bool:
    """Tell whether a rollout takes another back wherever that one could still go."""
    select = other.logged.statement.select
    return other.earlier is work and select in ({}, work.logged.statement.select)


def _may_count(work: Work, now: Clock) -> bool:
    """Tell whether a rollout could take devices from an older one at this time."""
    statement = work.logged.statement
    return not work.logged.cancelled and not work.unready and statement.not_before <= now.wall_s <= statement.not_after
