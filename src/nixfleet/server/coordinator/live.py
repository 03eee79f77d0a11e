"""What is known of each device beyond the log: newest report, presence, progress, output lines; memory only.

Progress and lines are droppable by design; reports come back from the store at start.
"""

from collections import deque
from collections.abc import Iterable

import msgspec

from nixfleet.model.device import Facts, LocalPause, Phase, Progress, Report
from nixfleet.model.text import clean
from nixfleet.server.events import AgentHub
from nixfleet.server.store import DeviceRow

LINES_KEPT = 2_000
POLL_S = 45
"""A device that polls is taken for present this long after each poll."""
_ORDER = tuple(Phase)
"""Phases in the order in which an attempt goes through them."""


class Output:
    """The newest lines of a device's activation, numbered from 1 on."""

    __slots__ = ("_lines", "next")

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.next = 0
        """The number of the newest line; ask for what is after it."""

    def add(self, lines: Iterable[str]) -> None:
        """Take new lines."""
        for line in lines:
            self._lines.append(clean(line))
            self.next += 1

    def after(self, number: int) -> list[str]:
        """Give the lines after `number`, as far as they are kept."""
        count = max(0, min(self.next - number, len(self._lines)))
        return [self._lines[at] for at in range(len(self._lines) - count, len(self._lines))]


class Live:
    """One device; changed on the coordinator's loop only."""

    __slots__ = (
        "announced",
        "facts",
        "healthy_s",
        "link",
        "output",
        "polled_at",
        "progress",
        "report",
        "reported_at",
        "seen_at",
        "sent_size",
        "seq",
        "told_lines",
    )

    def __init__(self) -> None:
        self.report: Report | None = None
        self.facts: Facts | None = None
        self.seq = -1
        self.reported_at = 0
        self.seen_at = 0
        self.polled_at = 0
        self.healthy_s: int | None = None
        self.progress: Progress | None = None
        self.output: Output | None = None
        self.link = ""
        self.sent_size = 0
        """The log size up to which its stream or poll was served."""
        self.announced = False
        """Whether consoles were last told that it is online."""
        self.told_lines = 0
        """The number of the newest output line that consoles have."""

    @property
    def under_way(self) -> Progress | None:
        """The progress of an update itself: a download ahead of one changes nothing of where a device stands.

        What is older than the newest report's try is late, and says nothing of this one.
        """
        progress, told = self.progress, self.report.attempt if self.report else None
        if progress is None or progress.ahead:
            return None
        late = told is not None and told.rollout == progress.rollout and 0 < progress.run < told.run
        return None if late else progress

    def told_all(self) -> None:
        """Note that consoles have, or need not have, every output line."""
        self.told_lines = self.output.next if self.output is not None else 0


class LiveDevices:
    """All devices' records by device id."""

    def __init__(self, agents: AgentHub) -> None:
        self._agents = agents
        self._devices: dict[str, Live] = {}

    def load(self, rows: Iterable[DeviceRow]) -> list[str]:
        """Take up stored reports that are newer than what is held, and tell whose."""
        changed: list[str] = []
        for row in rows:
            live = self.get(row.device)
            live.seen_at = max(live.seen_at, row.seen_at)
            if row.seq > live.seq:
                live.seq = row.seq
                live.report = msgspec.json.decode(row.payload, type=Report)
                live.facts = msgspec.json.decode(row.facts, type=Facts | None)
                live.reported_at = row.reported_at
                changed.append(row.device)
        return changed

    def get(self, device: str) -> Live:
        """Give a device's record, an empty one when nothing is known."""
        live = self._devices.get(device)
        if live is None:
            live = self._devices[device] = Live()
        return live

    def forget(self, device: str) -> None:
        """Drop a device's record."""
        self._devices.pop(device, None)

    def online(self, device: str, now: int) -> bool:
        """Tell whether its stream is open, or it polled within 45 s; nothing is written for it."""
        if device in self._agents:
            return True
        live = self._devices.get(device)
        return live is not None and now - live.polled_at <= POLL_S

    def pollers(self) -> list[str]:
        """List the devices that are announced as online and have no stream: their presence ends by itself."""
        return [device for device, live in self._devices.items() if live.announced and device not in self._agents]


def phase_of(live: Live) -> Phase:
    """Say where a device stands: of progress and newest report on the same attempt, what is further on."""
    attempt = live.report.attempt if live.report else None
    progress = live.under_way
    if progress is None or attempt is None:
        return progress.phase if progress else attempt.phase if attempt else Phase.IDLE
    if attempt.rollout != progress.rollout or 0 < attempt.run < progress.run:
        return progress.phase
    # Progress is sampled and may be late, and a long switch may have nothing to say: it never takes a report back.
    return attempt.phase if attempt.outcome is not None else max(attempt.phase, progress.phase, key=_ORDER.index)


def paused_at(report: Report | None, now: int) -> LocalPause | None:
    """Give the pause that root has set on a device, as long as it lasts."""
    paused = report.paused if report is not None else None
    return paused if paused is not None and now < paused.until else None
