"""The two lines above every screen and the one below; pure functions of what the console knows."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from nixfleet.model.text import clean
from nixfleet.model.views import FleetView
from nixfleet.query import STATUSES, Status
from nixfleet.tui.ports import Identity, LogCheck
from nixfleet.tui.view.devices import GLYPHS
from nixfleet.tui.view.log import check_spans
from nixfleet.tui.view.text import Line, Span, ago, fit, joined, spread, thousands, width

LinkState = Literal["connecting", "live", "polling", "stale", "reconnecting"]
FRESH: Final = frozenset[LinkState]({"live", "polling"})
"""What one sees is up to date, by events or within seconds."""


_WAY_OUT: Final = 3
NEEDY: Final = STATUSES[: STATUSES.index("offline")]
"""What does not pass by itself: a person has to look at it."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """Our link to the coordinator; `since` is when it came to be so (unix seconds), `why` what the last error said."""

    state: LinkState = "connecting"
    since: int = 0
    why: str = ""
    address: str = ""


class Chrome(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the header shows."""

    fleet: FleetView
    identity: Identity
    link: Link
    check: LogCheck
    counts: Mapping[Status, int]
    tabs: Sequence[tuple[str, str, int | None]]
    active: str
    paused: bool = False
    context: str = ""
    mark: str = ""
    waits: str = ""
    """What a signature waits for."""


def header(chrome: Chrome, now: int, cells: int) -> list[Line]:
    """Draw who and what, where one is, and the counts by state; these have a line of their own where it is narrow."""
    tabs = _tabs(chrome, cells)
    counts = _counts(chrome.counts, cells)
    if width(counts) <= cells - width(tabs) - 4:
        return [_first(chrome, now, cells), spread(tabs, (*counts, Span(" ")), cells), ()]
    return [_first(chrome, now, cells), fit(tabs, cells), fit((Span(" "), *_counts(chrome.counts, cells - 2)), cells)]


def link_spans(link: Link, now: int) -> Line:
    """Draw the link as a glyph and a word."""
    if link.state == "live":
        return (Span("● live", "ok"),)
    if link.state == "polling":
        return (Span("◔ polling", "warn"),)
    if link.state == "connecting":
        return (Span("◌ connecting", "busy"),)
    return (Span(f"○ {link.state} {ago(link.since, now)}", "bad"),)


def _first(chrome: Chrome, now: int, cells: int) -> Line:
    """Draw who and what; where it is narrow the role goes and all moves together, before anything is cut."""
    for gap, roles in ((3, True), (2, True), (3, False), (2, False)):
        left = joined(_who(chrome, cells, roles=roles), " " * gap)
        right = joined(_state(chrome, now), " " * gap)
        if width(left) + gap + width(right) <= cells:
            break
    return spread(left, right, cells)


def _who(chrome: Chrome, cells: int, *, roles: bool) -> list[Line]:
    fleet = chrome.fleet
    name = clean(chrome.context) or clean(fleet.name) or (fleet.id[:8] if fleet.id else "nixfleet")
    who = chrome.identity
    left: list[Line] = [(Span(f" {name}", "accent"),)]
    if chrome.mark:
        left.append((Span(clean(chrome.mark), "warn"),))
    if who.principal:
        role = clean(who.role) if roles and who.role != who.principal else ""
        left.append((Span(clean(who.principal)), Span(f" {role}" if role else "", "dim")))
    if who.read_only:
        left.append((Span("READ-ONLY", "warn"),))
    needy = sum(chrome.counts.get(status, 0) for status in NEEDY)
    if needy:
        left.append((Span(f"{thousands(needy)} {'needs' if needy == 1 else 'need'} you", "bad"),))
    if chrome.paused:
        left.append((Span("‖ paused", "warn"),))
    if fleet.root_keys == 1 and cells >= 100:
        left.append((Span("1 root key", "warn"),))
    return left


def _state(chrome: Chrome, now: int) -> list[Line]:
    size = (Span(f"log {thousands(chrome.check.size or chrome.fleet.log_size)}", "dim"),)
    log = joined((size, check_spans(chrome.check)), " ")
    waits: list[Line] = [(Span(f"◌ {chrome.waits}", "busy"),)] if chrome.waits else []
    return [*waits, log, (*link_spans(chrome.link, now), Span(" "))]


def _tabs(chrome: Chrome, cells: int) -> Line:
    """Draw the views; where it is narrow they move together, and lose their counts before a label is cut."""
    for gap, counts in (("   ", True), ("  ", True), ("  ", False)):
        tabs: list[Line] = []
        for key, label, count in chrome.tabs:
            here = key == chrome.active
            number = f" {thousands(count)}" if count is not None and counts else ""
            place = Span(f"{len(tabs) + 1} ", "accent" if here else "dim")
            tabs.append((place, Span(label + number, "strong" if here else "dim")))
        drawn = (Span(" "), *joined(tabs, gap))
        if width(drawn) <= cells:
            break
    return drawn


def _counts(counts: Mapping[Status, int], room: int) -> Line:
    """Draw the counts by state, those that need a person first, as many in words as there is room for."""
    present = [status for status in STATUSES if counts.get(status)]
    drawn: Line = ()
    for worded in range(len(present), -1, -1):
        drawn = joined(
            (
                Span(
                    f"{GLYPHS[status][0]} {counts[status]:,}" + (f" {status}" if place < worded else ""),
                    GLYPHS[status][1],
                ),
            )
            for place, status in enumerate(present)
        )
        if width(drawn) <= room:
            break
    return drawn


def footer(keys: Sequence[tuple[str, str, bool]], cells: int) -> Line:
    """Draw keys and what they do, grey where they cannot; where room is short the last three, the way out, stay."""
    kept = list(keys)
    while True:
        for gap in (3, 2):
            drawn = (Span(" "), *joined((_key(*key) for key in kept), " " * gap))
            if width(drawn) <= cells:
                return fit(drawn, cells)
        if len(kept) <= _WAY_OUT:
            return fit(drawn, cells)
        del kept[-_WAY_OUT - 1]


def _key(key: str, label: str, possible: bool) -> Line:
    return (Span(key, "accent" if possible else "dim"), Span(f" {label}", "plain" if possible else "dim"))
