"""Which of several rollouts a device follows, which it does not and why, and which newer ones have replaced.

The choice itself is `nixfleet.trust.replay.choose`'s alone: a device makes the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from nixfleet.model.ids import matches
from nixfleet.model.statements import Device
from nixfleet.rollout import Clock
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.work import Bar, Work
from nixfleet.trust.replay import Follow, Hold, RolloutState, choose

_TOLD_ELSEWHERE: Final = {"cancelled", "not-yet"}
"""Kinds of skips that the planner has reasons of its own for."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The rollout that a device follows, None without one, and the newer ones that it does not, by their ids."""

    winner: str | None
    barred: dict[str, Bar] = field(default_factory=dict)


class _Asked:
    """A step of a judgement: the rollout that it asks of, and what follows from each answer; or its end."""

    __slots__ = ("answers", "chosen", "rollout")

    def __init__(self) -> None:
        self.rollout = ""
        self.answers: dict[bool, _Asked] = {}
        self.chosen: Chosen | None = None


class Precedence:
    """Judges rollouts; `works` has them in the order of their indexes.

    Devices share an answer until `forget` where their tags are the same, and of each rollout that the judgement has
    asked for, whether it has something for them. It asks of the newest ones: a long history costs nothing.
    """

    def __init__(self, log: LogKeeper, works: Callable[[], Mapping[str, Work]]) -> None:
        self._log = log
        self._works = works
        self._chosen: dict[tuple[object, ...], _Asked] = {}
        self._begun: dict[str, int] = {}
        """The index of the newest rollout that was ever started on a device."""

    def forget(self) -> None:
        """Judge anew from now on: rights and rollouts end by time alone."""
        self._chosen.clear()

    def begun(self, work: Work, device: str) -> None:
        """Note that a rollout was started on a device."""
        self._begun[device] = max(work.index, self._begun.get(device, -1))

    def choose(self, device: Device, now: Clock) -> Chosen:
        """Choose as the device does."""
        attempted = self._begun.get(device.device, -1)
        if device.state != "active":
            return self._held(device, attempted, now)
        key = (tuple(sorted(device.tags.items())), attempted)
        step = self._chosen.get(key)
        if step is None:
            step = self._chosen[key] = _Asked()
        while step.chosen is None and step.rollout:
            step = step.answers.setdefault(self._brings(step.rollout, device), _Asked())
        if step.chosen is None:
            asked: dict[str, bool] = {}
            chosen = self._choose(device, attempted, now, asked)
            self._keep(self._chosen[key], asked, chosen)
            return chosen
        return step.chosen

    @staticmethod
    def _keep(step: _Asked, asked: Mapping[str, bool], chosen: Chosen) -> None:
        """Keep a judgement with what it asked, in its order."""
        for rollout, answer in asked.items():
            if step.rollout != rollout:
                step.rollout, step.answers = rollout, {}  # time has changed what is asked, too
            step = step.answers.setdefault(answer, _Asked())
        step.chosen = chosen

    def _brings(self, rollout: str, device: Device) -> bool:
        work = self._works().get(rollout)
        return work is not None and work.brings(device.device, device.tags) is not None

    def _held(self, device: Device, attempted: int, now: Clock) -> Chosen:
        """Choose for a device that is held or retired; the planner itself waits for a hold's end, and says so."""
        chosen = self._choose(device, attempted, now, {})
        if chosen.winner is not None or device.state != "held":
            return chosen
        newest = (work.id for work in reversed(list(self._works().values())) if self._brings(work.id, device))
        return Chosen(next(newest, None), chosen.barred)

    def _choose(self, device: Device, attempted: int, now: Clock, asked: dict[str, bool]) -> Chosen:
        def covers(one: RolloutState) -> bool:
            rollout = str(one.digest)
            if rollout not in asked:
                asked[rollout] = self._brings(rollout, device)
            return asked[rollout]

        choice = choose(self._log.state, device.device, now.wall_s, attempted, covers)
        barred = {
            str(skip.rollout.digest): Bar(skip.text, waits=skip.kind == "approvals")
            for skip in choice.skipped
            if skip.kind not in _TOLD_ELSEWHERE
        }
        if isinstance(choice, Follow | Hold) and choice.rollout is not None:
            return Chosen(str(choice.rollout.digest), barred)
        return Chosen(None, barred)


DeviceOf = Callable[[str], Device | None]
"""A device's newest statement."""


def supersede(works: Sequence[Work], now: Clock, device_of: DeviceOf) -> bool:
    """Judge which of these rollouts newer ones have replaced; tells whether that changed."""
    # The newest first: it is the one that has most likely taken everybody over.
    ready = [work for work in reversed(works) if _may_count(work, now)]
    changed = False
    for work in works:
        if work.logged.cancelled:
            continue  # nothing brings it back, nor does it stand for anybody
        before, work.superseded = work.superseded, _is_superseded(work, ready, device_of)
        changed |= before != work.superseded
    return changed


def _is_superseded(work: Work, ready: Sequence[Work], device_of: DeviceOf) -> bool:
    """Tell whether one of these rollouts, the newest first, has taken all over that this one could still start."""
    left = work.left()
    for other in ready:
        if other.index <= work.index:
            return False
        if _takes_back_all(other, work):
            return True
        lacks = other.lacks(left)
        # Who was retired, or has other tags since, is no longer this one's either.
        if len(lacks) < len(left) and not any(_covers(work, device_of(device)) for device in lacks):
            return True
    return False


def _covers(work: Work, device: Device | None) -> bool:
    """Tell whether a rollout selects a device as it is now."""
    if device is None or device.state == "retired":
        return False
    return matches(work.logged.statement.select, device.tags)


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
