"""One link of a chain: what a right must reach, and why a grant gives nothing or falls short, in words. Pure.

`rights` judges chains by these rules; here is the one place that puts a missing right into words. It must never be
more lenient in words than in judgement: both ask the same functions.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from nixfleet.model.ids import MAX_INT, Selector, Tags, covers, matches
from nixfleet.model.statements import Action, Grant
from nixfleet.model.text import utc
from nixfleet.trust.replay.state import GrantRecord, State

SHOWN: Final = 12
"""Digits of a grant's id that tell it apart for people, and that commands take."""

_PHRASES: Final[dict[Action, str]] = {
    "release": "release for",
    "deploy": "deploy to",
    "rollback": "roll back",
    "control": "control rollouts to",
    "approve": "approve acts on",
    "enroll": "enroll",
    "device": "change",
    "grant": "grant rights over",
    "revoke": "revoke rights over",
}


class Over(msgspec.Struct, frozen=True):
    """What a right must reach: all devices that a selector could match, or devices as tagged before and after."""

    select: Selector | None = None
    tags: tuple[Tags, ...] = ()
    name: str = ""
    """What people call it, where it has a name."""

    def within(self, wide: Selector) -> bool:
        """Tell whether a grant's selector reaches all of it."""
        if self.select is not None:
            return covers(wide, self.select)
        return all(matches(wide, tags) for tags in self.tags)

    def touches(self, rule: Selector) -> bool:
        """Tell whether a rule's selector could apply to any of it; a selector overlaps unless provably disjoint."""
        if self.select is not None:
            return all(set(values) & set(self.select.get(tag, values)) for tag, values in rule.items())
        return any(matches(rule, tags) for tags in self.tags)

    @property
    def words(self) -> str:
        """Say what must be reached."""
        if self.name:
            return self.name
        if self.select is not None:
            return f"devices with {select_words(self.select)}" if self.select else "all devices"
        return " and ".join(
            f"a device with {tag_words(tags)}" if tags else "a device without tags" for tags in self.tags
        )


EVERYTHING: Final = Over(select={})


def is_live(state: State, link: Grant, now: int) -> bool:
    """Tell whether a link is not revoked, within its dates, and not issued by a key that is revoked."""
    return (
        link.id not in state.revoked_grants
        and link.by not in state.revoked_keys
        and link.not_before <= now <= link.not_after
    )


def why_dead(state: State, link: Grant, now: int) -> str:
    """Say why a link gives nothing at a moment, or nothing."""
    if link.id in state.revoked_grants:
        return "is revoked"
    if link.by in state.revoked_keys:
        return "was issued by a key that is revoked"
    if now < link.not_before:
        return f"begins only {utc(link.not_before)}"
    return f"ended {utc(link.not_after)}" if now > link.not_after else ""


def why_short(link: Grant, action: Action, over: Over) -> str:
    """Say why a link, live or not, does not reach an act, or nothing."""
    if action not in link.actions:
        return allows_words(link)
    if action == "grant" and not link.depth:
        return "may not be handed on (depth 0)"
    return "" if over.within(link.select) else f"covers {select_words(link.select)} only"


def beyond(parent: Grant, child: Grant) -> str:
    """Say in what a grant goes beyond its parent, or nothing: everything must be a part, depth smaller."""
    if "grant" not in parent.actions:
        return "may not be handed on: it does not allow grant"
    if not set(child.actions) <= set(parent.actions):
        return allows_words(parent)
    if not covers(parent.select, child.select):
        return f"covers {select_words(parent.select)} only"
    if child.not_before < parent.not_before or child.not_after > parent.not_after:
        return f"lasts from {utc(parent.not_before)} to {utc(parent.not_after)}"
    if child.depth >= parent.depth:
        return f"has depth {parent.depth}: what it hands on must have less" if parent.depth else "has depth 0"
    if (child.max_devices or MAX_INT) > (parent.max_devices or MAX_INT):
        return f"is limited to {parent.max_devices} devices (max_devices)"
    return ""


def failing_link(state: State, record: GrantRecord, action: Action, over: Over, now: int) -> tuple[Grant, str] | None:
    """Give the link that fails an act, and why: the grant itself, else the one nearest to the root; None if none."""
    for link in (record.statement, *record.links):
        why = why_dead(state, link, now) or why_short(link, action, over)
        if why:
            return link, why
    return None


def lacking(state: State, who: str, records: Sequence[GrantRecord], action: Action, over: Over, now: int) -> str:
    """Say that somebody lacks a right, and which limit of their nearest grant is in the way."""
    sentence = f"{who} lacks the right to {right_words(action, over)}"
    nearest = max(records, key=lambda record: _nearness(state, record, action, over, now), default=None)
    failing = None if nearest is None else failing_link(state, nearest, action, over, now)
    if nearest is None or failing is None:
        return f"{sentence}: no grant names its key" if nearest is None else sentence
    link, why = failing
    if link.id == nearest.statement.id:
        return f"{sentence}: its grant {link.id[:SHOWN]} {why}"
    return f"{sentence}: grant {link.id[:SHOWN]}, on which its grant {nearest.statement.id[:SHOWN]} stands, {why}"


def lacking_anywhere(
    state: State, who: str, records: Sequence[GrantRecord], actions: Sequence[Action], now: int
) -> str:
    """Say that somebody has none of these rights over any device now, and why their newest such grant gives none."""
    sentence = f"{who} lacks the right to {' or '.join(actions)}"
    for record in reversed(records):
        if set(actions) & set(record.statement.actions):
            return f"{sentence}: {dead_words(state, record, now)}"
    if not records:
        return f"{sentence}: no grant names its key"
    last = records[-1].statement
    return f"{sentence}: its grant {last.id[:SHOWN]} {allows_words(last)}"


def dead_words(state: State, record: GrantRecord, now: int) -> str:
    """Say which link of a grant's chain is dead, and why; nothing when none is."""
    for link in (record.statement, *record.links):
        why = why_dead(state, link, now)
        if why:
            stands = "" if link is record.statement else f", on which its grant {record.statement.id[:SHOWN]} stands,"
            return f"{'its ' if not stands else ''}grant {link.id[:SHOWN]}{stands} {why}"
    return ""


def _nearness(state: State, record: GrantRecord, action: Action, over: Over, now: int) -> tuple[bool, bool, bool, int]:
    """Rank grants by how little keeps them from an act: the action counts first, then being live, then the devices."""
    links = record.links
    return (
        action in record.statement.actions,
        all(is_live(state, link, now) for link in links),
        all(over.within(link.select) for link in links),
        record.place.index,
    )


def right_words(action: Action, over: Over) -> str:
    """Name a right over something in words that hold the action's own name."""
    phrase = f"{_PHRASES[action]} {over.words}"
    return phrase if action in phrase.split() else f"{phrase} ({action})"


def allows_words(link: Grant) -> str:
    """Say which actions a grant is limited to."""
    return f"allows {action_words(link.actions) if link.actions else 'reading'} only"


def action_words(actions: Iterable[str]) -> str:
    """List actions; none of them is a right to read."""
    return ", ".join(actions) or "read"


def tag_words(tags: Tags) -> str:
    """Write a device's tags as they are typed."""
    return " ".join(f"{tag}={value}" for tag, value in sorted(tags.items()))


def select_words(select: Selector) -> str:
    """Say which devices a selector means."""
    if not select:
        return "all devices"
    return " ".join(f"{tag}={','.join(values)}" for tag, values in sorted(select.items()))
