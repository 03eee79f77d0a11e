"""What of the consoles' stream a restricted reader gets: what is hidden is left out, and the numbers stay whole.

The rule is `trust.replay.reach`'s; here it is applied to each change. Whoever may read everything is not screened.
"""

from collections import OrderedDict
from collections.abc import Callable

from nixfleet.model.views import Delta, DeviceView, RolloutView
from nixfleet.server.events import Mark, Told, encoded
from nixfleet.trust.replay.reach import Reach

Judge = Callable[[], Reach | None]
"""What a reader may read of now; None when nothing any more."""
RolloutFor = Callable[[str, Reach], RolloutView | None]
DeviceFor = Callable[[str, Reach], DeviceView | None]
_READERS = 4_096


class Shown:
    """With which reach each key was last shown everything, and from which delta number on it has had it."""

    def __init__(self) -> None:
        self._shown: OrderedDict[str, tuple[Reach, int]] = OrderedDict()

    def note(self, key: str, reach: Reach, seq: int) -> None:
        """Note a snapshot as of delta number `seq`."""
        held = self._shown.get(key)
        if held is None or held[0] != reach:
            self._shown[key] = (reach, seq)
        self._shown.move_to_end(key)
        while len(self._shown) > _READERS:
            self._shown.popitem(last=False)

    def reach_at(self, key: str, seq: int) -> Reach | None:
        """Give the reach with which whoever goes on from number `seq` was shown what it has, None when unknown."""
        reach, since = self._shown.get(key, (None, 0))
        return reach if seq >= since else None


class Screen:
    """One console's stream as its reader may see it."""

    def __init__(self, reach: Reach | None, judge: Judge, rollout: RolloutFor, device: DeviceFor) -> None:
        """Screen by `reach`, for as long as `judge` says the same.

        `rollout` shows one, None when it is hidden; `device` one in reach, None when all see the same of it.
        """
        self._reach = reach
        self._judge = judge
        self._rollout = rollout
        self._device = device

    def holds(self) -> bool:
        """Tell whether the reader may still read just what it was shown; else it has to start over."""
        return self._reach is not None and self._judge() == self._reach

    @property
    def open(self) -> bool:
        """Whether nothing is hidden."""
        return self._reach is not None and self._reach.everything

    def through(self, told: Told) -> bytes:
        """Give a change as this reader may have it, under its number."""
        reach, mark = self._reach, told.mark
        if reach is None:
            return encoded(Delta(seq=told.seq))
        if mark is None:
            return told.data
        if mark.kind == "rollout":
            view = self._rollout(mark.id, reach)
            if view is not None:
                return encoded(Delta(seq=told.seq, rollout=view))
            return self._hidden(told.seq, mark, was=mark.moved)
        sees = reach.enrols if mark.kind == "request" else reach.over
        if mark.after is not None and sees(mark.after):
            own = self._device(mark.id, reach) if mark.kind == "device" else None
            return told.data if own is None else encoded(Delta(seq=told.seq, device=own))
        return self._hidden(told.seq, mark, was=mark.before is not None and sees(mark.before))

    @staticmethod
    def _hidden(seq: int, mark: Mark, *, was: bool) -> bytes:
        """Say nothing, or that what was seen has gone out of reach."""
        gone = was and mark.kind != "lines"
        return encoded(Delta(seq=seq, removed=f"{mark.kind}:{mark.id}" if gone else ""))
