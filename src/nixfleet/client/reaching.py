"""Whom a rollout would reach and whom not, by its signer's right, before anybody signs it: as each device judges it.

Pure. What only signatures of others are missing for is no lack: it waits for them.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from nixfleet.errors import Refused
from nixfleet.model.ids import Digest, Fingerprint, Selector, Tags, matches
from nixfleet.model.statements import Action, Rollout
from nixfleet.model.text import counted
from nixfleet.trust.replay import (
    Allowed,
    Denied,
    Over,
    ReleaseRecord,
    RolloutState,
    State,
    authorise_over,
    closure_for,
    release_for,
    right_of,
    selected,
)
from nixfleet.trust.replay.rights import alive, grants
from nixfleet.trust.replay.select import release_fault, rule_fault
from nixfleet.trust.replay.state import Place

NAMED: Final = 5
"""How many devices that are left out are named."""


def unreached(state: State, rollout: Rollout, now: int, members: Collection[str] | None = None) -> Mapping[str, str]:
    """Name the devices (ids) that it is for and would not reach, each with the reason.

    `members` are those that have a line in its release, where that is known. A release that is not in the log yet is
    its signer's to publish.

    Raises:
        Refused: it would reach none of them.

    """
    one = RolloutState(Digest(""), Place(state.size, now, Fingerprint(rollout.by), b""), rollout)
    release = release_for(state, one)
    reasons: dict[tuple[tuple[str, str], ...], str] = {}
    out, reached = {}, False
    for device, tags in selected(state, rollout.select).items():
        if not _has_line(release, device, tags, members):
            continue
        key = tuple(sorted(tags.items()))
        if key not in reasons:
            reasons[key] = _against(state, one, Over(tags=(tags,), name=state.devices[device].statement.name), now)
        if reasons[key]:
            out[device] = reasons[key]
        reached = reached or not reasons[key]
    if out and not reached:
        raise Refused(f"nothing is signed: {next(iter(out.values()))}")
    return out


def _has_line(release: ReleaseRecord | None, device: str, tags: Tags, members: Collection[str] | None) -> bool:
    if members is not None:
        return device in members
    return release is None or release.statement.lines is None or closure_for(release.statement, tags) is not None


def _against(state: State, one: RolloutState, over: Over, now: int) -> str:
    """Say what is for good against a rollout on devices with these tags, or nothing."""
    (tags,), signer, kind = over.tags, one.place.signer, one.statement.kind
    right = authorise_over(state, signer, kind, over, now, one.place.sha512)
    if isinstance(right, Allowed):
        right = right_of(state, one, tags, now)  # which looks at what a rollback takes back, too
    if isinstance(right, Denied):
        return "" if right.waits else right.reason
    rule = rule_fault(state, one.statement, tags)
    if rule:
        return rule
    release = release_for(state, one)
    if release is not None:
        fault = release_fault(state, release, right, one.place, tags, now)
    else:
        made = authorise_over(state, signer, "release", over, now) if kind == "deploy" else None
        fault = made if isinstance(made, Denied) else None
    return "" if fault is None or fault.waits else fault.reason


def unreached_words(state: State, out: Mapping[str, str]) -> str:
    """Say who is left out and why, or nothing."""
    if not out:
        return ""
    names = sorted(state.devices[device].statement.name for device in out)
    more = len(names) - NAMED
    shown = ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"{counted(len(names), 'device')} left out ({shown}): {next(iter(out.values()))}"


def within_right(state: State, rollout: Rollout, now: int) -> Rollout:
    """Let a rollout select no more than its signer's right reaches, where one grant reaches all that it would update.

    Nobody else would follow it anyway; but to steer it takes a right over all that it selects.
    """
    signer, kind = Fingerprint(rollout.by), rollout.kind
    over = Over(select=rollout.select)
    held = [
        record for record in grants(state, signer) if kind in record.statement.actions and alive(state, record, now)
    ]
    if signer in state.root_keys or any(over.within(record.statement.select) for record in held):
        return rollout
    reached = [
        tags for tags in _distinct(selected(state, rollout.select).values()) if _may(state, signer, kind, tags, now)
    ]
    for record in held:
        select = _both(rollout.select, record.statement.select)
        if select is not None and reached and all(matches(select, tags) for tags in reached):
            return msgspec.structs.replace(rollout, select=select)
    return rollout


def _distinct(every: Iterable[Tags]) -> list[Tags]:
    return [dict(pairs) for pairs in sorted({tuple(sorted(tags.items())) for tags in every})]


def _may(state: State, signer: Fingerprint, kind: Action, tags: Tags, now: int) -> bool:
    """Tell whether a key may update devices with these tags, alone or with others."""
    right = authorise_over(state, signer, kind, Over(tags=(tags,)), now)
    return isinstance(right, Allowed) or right.waits


def _both(one: Selector, other: Selector) -> Selector | None:
    """Select what both do; None where that is nothing."""
    both = dict(one)
    for tag, values in other.items():
        both[tag] = tuple(value for value in one.get(tag, values) if value in values)
    return both if all(both.values()) else None
