"""Add up the events of Nix's `internal-json` log into bytes and paths.

The events: `start`, `stop` and `result` of numbered activities, and `msg`; their numbers have not changed from 2.8
to 2.34 (Nix, src/libutil/logging.hh). Pure, bounded, and tolerant: an event it does not know is passed over, since
progress is only ever shown and decides nothing but the size limit.
"""

from collections import deque
from collections.abc import Callable

import msgspec

from nixfleet.model.text import clean
from nixfleet.nix.values import Progress

PREFIX = "@nix "
MAX_ACTIVITIES = 100_000

_COPY_PATH, _FILE_TRANSFER, _COPY_PATHS = 100, 101, 103
_PROGRESS, _SET_EXPECTED = 105, 106
_LEVEL_WARN = 1
_RATE_WINDOW_S = 5.0
_UNKNOWN_PATHS = "don't know how to build these paths"


class _Event(msgspec.Struct):
    action: str
    id: int = 0
    type: int = 0
    level: int = 0
    fields: list[int | str] = []
    msg: str = ""


_DECODER = msgspec.json.Decoder(_Event)


class Aggregator:
    """Takes the lines of one Nix command; tells the state of its downloads at any time."""

    def __init__(self) -> None:
        self._kinds: dict[int, int] = {}
        self._done: dict[int, int] = {}
        self._closed = {_COPY_PATH: 0, _FILE_TRANSFER: 0}
        self._expected = {_COPY_PATH: 0, _FILE_TRANSFER: 0}
        self._paths = (0, 0)
        self._naming = False

    def feed(self, line: str) -> str | None:
        """Take one line; give back what of it is worth keeping for a failure: warnings, errors and plain text."""
        if not line.startswith(PREFIX):
            return clean(line).rstrip() or None
        try:
            event = _DECODER.decode(line[len(PREFIX) :])
        except msgspec.MsgspecError:
            return None
        match event.action:
            case "start":
                self._start(event)
            case "stop":
                self._stop(event.id)
            case "result":
                self._result(event)
            case "msg":
                return self._message(event)
            case _:  # a newer Nix may say more; nothing here depends on it
                pass
        return None

    def _start(self, event: _Event) -> None:
        """Count transfers of NARs only: narinfos are downloads too, but not of the closure."""
        if len(self._kinds) >= MAX_ACTIVITIES:
            return
        if event.type == _FILE_TRANSFER:
            url = event.fields[0] if event.fields else ""
            if not (isinstance(url, str) and "/nar/" in url):
                return
        if event.type in {_COPY_PATH, _FILE_TRANSFER, _COPY_PATHS}:
            self._kinds[event.id] = event.type

    def _stop(self, activity: int) -> None:
        kind = self._kinds.pop(activity, None)
        if kind in self._closed:
            self._closed[kind] += self._done.pop(activity, 0)

    def _result(self, event: _Event) -> None:
        numbers = [field for field in event.fields if isinstance(field, int) and field >= 0]
        if len(numbers) < 2:
            return
        if event.type == _SET_EXPECTED:
            if numbers[0] in self._expected:
                self._expected[numbers[0]] = numbers[1]
            return
        if event.type != _PROGRESS:
            return
        kind = self._kinds.get(event.id)
        if kind == _COPY_PATHS:
            self._paths = (numbers[0], numbers[1])
        elif kind is not None:
            self._done[event.id] = numbers[0]

    def _message(self, event: _Event) -> str | None:
        """Keep errors, warnings, and the list of paths that no cache has, without which a failure has no name."""
        text = clean(event.msg).rstrip()
        if _UNKNOWN_PATHS in text:
            self._naming = True
        elif not text.lstrip().startswith("/nix/store/"):
            self._naming = False
        return text if text and (self._naming or event.level <= _LEVEL_WARN) else None

    def _sum(self, kind: int) -> int:
        return self._closed[kind] + sum(
            done for activity, done in self._done.items() if self._kinds.get(activity) == kind
        )

    def unpacked_bytes(self) -> int:
        """Tell how many NAR bytes this command unpacks: what it announced, or already did if that is more."""
        return max(self._expected[_COPY_PATH], self._sum(_COPY_PATH))

    def snapshot(self) -> Progress:
        """Tell the state now; a retried transfer never shows more than the total."""
        done, total = self._sum(_FILE_TRANSFER), self._expected[_FILE_TRANSFER] or None
        return Progress(
            done_bytes=done if total is None else min(done, total),
            total_bytes=total,
            paths_done=self._paths[0],
            paths_total=self._paths[1],
        )

    def final(self) -> Progress:
        """Tell the state of a command that succeeded: all that was asked for is done."""
        now = self.snapshot()
        total = max(now.done_bytes, now.total_bytes or 0)
        return Progress(total, total, now.paths_total, now.paths_total)


class Throttle:
    """Lets a progress reader be called at most so often, with the rate over the last seconds."""

    def __init__(self, on_progress: Callable[[Progress], None], every_s: float, clock: Callable[[], float]) -> None:
        self._on_progress = on_progress
        self._every_s = every_s
        self._clock = clock
        self._next = clock()
        self._seen: deque[tuple[float, int]] = deque(maxlen=256)

    def due(self) -> bool:
        """Tell whether enough time has passed since the last call."""
        return self._clock() >= self._next

    def tell(self, progress: Progress) -> None:
        """Call the reader now."""
        now = self._clock()
        self._next = now + self._every_s
        self._seen.append((now, progress.done_bytes))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_WINDOW_S:
            self._seen.popleft()
        (since, before) = self._seen[0]
        rate = int((progress.done_bytes - before) / (now - since)) if now > since else 0
        self._on_progress(msgspec.structs.replace(progress, rate_bytes_s=max(rate, 0)))
