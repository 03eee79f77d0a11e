"""Which of several rollouts a device follows, and which rollouts newer ones have replaced, by the log's rules.

The choice itself is `nixfleet.trust.replay.choose`'s alone: a device makes the same.
"""

from collections.abc import Collection, Sequence

from nixfleet.model.statements import Device
from nixfleet.rollout import Clock
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.work import Work
from nixfleet.trust.replay import Follow, Hold, choose


class Precedence:
    """Judges rollouts, which are given in the order of their indexes.

    Devices with the same tags share an answer until `forget`.
    """

    def __init__(self, log: LogKeeper) -> None:
        self._log = log
        self._winners: dict[tuple[object, ...], str | None] = {}

    def forget(self) -> None:
        """Judge anew from now on: rights and rollouts end by time alone."""
        self._winners.clear()

    def winner(self, works: Collection[Work], device: Device, now: Clock) -> str | None:
        """Name the rollout that a device follows."""
        parts = tuple(work.id for work in works if work.brings(device.device, device.tags) is not None)
        attempted = max((work.index for work in works if work.begun(device.device)), default=-1)
        held = device.state if device.state != "active" else ""
        key = (tuple(sorted(device.tags.items())), parts, attempted, held, held and device.device)
        if key not in self._winners:
            self._winners[key] = self._choose(device, parts, attempted, now)
        return self._winners[key]

    def _choose(self, device: Device, parts: tuple[str, ...], attempted: int, now: Clock) -> str | None:
        state, having = self._log.state, frozenset(parts)
        choice = choose(state, device.device, now.wall_s, attempted, lambda one: str(one.digest) in having)
        if isinstance(choice, Follow | Hold) and choice.rollout is not None:
            return str(choice.rollout.digest)
        # The planner itself waits for a hold's end, and says so.
        return parts[-1] if parts and device.state == "held" else None


def supersede(works: Sequence[Work], now: Clock) -> bool:
    """Judge which of these rollouts newer ones have replaced; tells whether that changed."""
    # The newest first: it is the one that has most likely taken everybody over.
    ready = [work for work in reversed(works) if _may_count(work, now)]
    before = [work.superseded for work in works]
    for work in works:
        left = work.left()
        work.superseded = any(other.index > work.index and other.has_all(left) for other in ready)
    return before != [work.superseded for work in works]


def _may_count(work: Work, now: Clock) -> bool:
    """Tell whether a rollout could take devices from an older one at this time."""
    statement = work.logged.statement
    return not work.logged.cancelled and statement.not_before <= now.wall_s <= statement.not_after
