"""Two machines that report with one key: a copied key, or a cloned disk whose agent did not notice.

A boot id is random, and a machine that has left one never returns to it by rebooting. So where each of two boots has
been returned to, and more than once, two machines live. Two copies of one running machine share their boot id, too:
their report numbers go back again and again while their signed times go on. A restored snapshot does either once.

Pure: it is told of verified reports, and of nothing else; what is heard a second time, or late, tells nothing, so that
nobody on the way can raise an alarm by sending again what a device has signed.
"""

from dataclasses import dataclass, field
from typing import Final

from nixfleet.model.device import Facts, Report
from nixfleet.model.text import clean

RETURNS: Final = 2
"""How often each of two boots has to be returned to. A report that was overtaken on its way is one return."""
BACKS: Final = 4
"""How often the numbers of one boot have to go back."""
WINDOW_S: Final = 3_600
"""Within how long; agents that take the stream from each other try again every few minutes at the latest."""
BACK_WINDOW_S: Final = 600
HELD_S: Final = 3_600
"""How long after the last sign of two machines it is still said."""
FRESH_S: Final = 600
"""A report whose signed time is further off tells nothing."""
_BOOTS: Final = 4
CAUSE: Final = "cloned"


@dataclass(slots=True)
class _Boot:
    """One boot of a machine that has the key, as far as it was heard; times in unix seconds."""

    seq: int
    at: int
    """The signed time of its newest report."""
    where: str = ""
    returns: tuple[int, ...] = ()
    backs: tuple[int, ...] = ()


@dataclass(slots=True)
class _Heard:
    """What was heard with one device's key."""

    boots: dict[str, _Boot] = field(default_factory=dict)
    """The newest of them, who was heard last at the end."""
    last: str = ""
    pair: tuple[str, str] | None = None
    until: int = 0
    since: int = 0
    """The signed time of the newest report that this coordinator's run has not heard itself."""


class Twins:
    """What was heard with each device's key; memory only, for two machines show themselves again within minutes."""

    def __init__(self) -> None:
        self._devices: dict[str, _Heard] = {}

    def told_before(self, report: Report) -> None:
        """Take note of the newest report of before a restart: what is sent again from then tells nothing."""
        device = self._devices.setdefault(report.device, _Heard())
        device.since = max(device.since, report.at)

    def heard(self, report: Report, now: int) -> bool:
        """Take note of a verified report; tells whether what is to be said of its device has changed."""
        device = self._devices.setdefault(report.device, _Heard())
        before = device.pair
        self._note(device, report, now)
        return device.pair != before

    def _note(self, device: _Heard, report: Report, now: int) -> None:
        if abs(now - report.at) > FRESH_S or report.at <= device.since <= now + FRESH_S:
            return
        boot = device.boots.get(report.boot_id)
        if boot is None:
            boot = _Boot(report.seq, report.at)
        elif report.seq > boot.seq:
            if device.last != report.boot_id:
                boot.returns = _within(boot.returns, now, WINDOW_S, RETURNS)
        elif report.at > boot.at:
            boot.backs = _within(boot.backs, now, BACK_WINDOW_S, BACKS)
        else:
            return  # an older report once more, by a repeat or by somebody who kept it
        other, device.last = device.last, report.boot_id
        boot.seq, boot.at, boot.where = report.seq, report.at, _where(report.facts) or boot.where
        device.boots.pop(report.boot_id, None)
        device.boots[report.boot_id] = boot
        while len(device.boots) > _BOOTS:
            del device.boots[next(iter(device.boots))]
        self._judge(device, report.boot_id, other, now)

    @staticmethod
    def _judge(device: _Heard, mine: str, other: str, now: int) -> None:
        boot, left = device.boots[mine], device.boots.get(other)
        if len(_recent(boot.backs, now, BACK_WINDOW_S)) >= BACKS:
            device.pair, device.until = (mine, mine), now + HELD_S
        elif left is not None and other != mine:
            both = (boot.returns, left.returns)
            if all(len(_recent(returns, now, WINDOW_S)) >= RETURNS for returns in both):
                device.pair, device.until = (min(mine, other), max(mine, other)), now + HELD_S

    def ended(self, now: int) -> list[str]:
        """Let go of what was last seen long ago; gives the devices of which nothing is to be said any more."""
        ended = [name for name, device in self._devices.items() if device.pair is not None and now > device.until]
        for name in ended:
            self._devices[name].pair = None
        return ended

    def forget(self, device: str) -> None:
        """Drop what was heard: the device has another key."""
        self._devices.pop(device, None)

    def words(self, device: str, name: str) -> str:
        """Say that two machines use a device's key, where they are, and what to do; nothing where they do not."""
        heard = self._devices.get(device)
        if heard is None or heard.pair is None:
            return ""
        where = [self._named(heard, boot) for boot in dict.fromkeys(heard.pair)]
        if len(where) == 2 and where[0] == where[1]:
            where = [f"{place}, boot {boot[:8]}" for place, boot in zip(where, heard.pair, strict=True)]
        return (
            f"two machines use this key ({' and '.join(where)}): on the copy, as root, 'nixfleet agent join TOKEN"
            f" --replace'; if the key was stolen, 'nixfleet enroll {name} --replace'"
        )

    @staticmethod
    def _named(heard: _Heard, boot: str) -> str:
        held = heard.boots.get(boot)
        return held.where if held is not None and held.where else f"boot {clean(boot)[:8]}"


def _recent(times: tuple[int, ...], now: int, window_s: int) -> tuple[int, ...]:
    return tuple(time for time in times if now - time <= window_s)


def _within(times: tuple[int, ...], now: int, window_s: int, most: int) -> tuple[int, ...]:
    """Add a moment to the newest ones."""
    return (*_recent(times, now, window_s), now)[-most:]


def _where(facts: Facts | None) -> str:
    """Say where a machine is, for people who have to find it."""
    if facts is None:
        return ""
    return clean(" at ".join(filter(None, (facts.hostname, facts.addresses[0] if facts.addresses else ""))))
