"""What a key holds and what it lacks, in words: every refusal names the missing right. Pure; it judges nothing."""

from nixfleet.model.ids import Fingerprint
from nixfleet.model.statements import Grant
from nixfleet.model.text import utc
from nixfleet.trust.replay.reach import is_token
from nixfleet.trust.replay.rights import alive, grants, joins_root, principal_of
from nixfleet.trust.replay.state import State
from nixfleet.trust.words import select_words

_SHOWN = 4
"""Grants that are told one by one."""


def lacks(state: State, key: Fingerprint, right: str, now: int) -> str:
    """Say that a key lacks a right, such as ``to release``, what it holds instead, and what to do."""
    who = principal_of(state, key)
    if key in state.revoked_keys:
        return f"the key {key} is revoked, and may do nothing"
    if who == key and joins_root(state, key):
        return (
            f"the key {key} is named by a root that waits for signatures: it reads the log, and lacks the right {right}"
        )
    if who == key:
        return f"neither root nor a grant names the key {key}: it lacks the right {right}"
    if key not in state.root_keys and not grants(state, key):
        return f"{who} is a device: it reads the log and its own things, and lacks the right {right}"
    if is_token(state, key, now):
        return f"{who} is a join token: it reads the log and enrols devices, and lacks the right {right}"
    return f"{who} lacks the right {right}; it holds: {holdings(state, key, now)}; ask an admin for a grant"


def holdings(state: State, key: Fingerprint, now: int) -> str:
    """List what a key's live grants allow, or say why it has none."""
    if key in state.root_keys:
        return "everything, by root"
    held = grants(state, key)
    live = [record.statement for record in held if alive(state, record, now)]
    if not live:
        return _none_live(state, key, now)
    said = list(dict.fromkeys(map(grant_words, live)))
    more = len(said) - _SHOWN
    return ", ".join(said[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def grant_words(grant: Grant) -> str:
    """Say what one grant allows: ``deploy rollback on team=web``."""
    return f"{' '.join(grant.actions) or 'read'} on {select_words(grant.select)}"


def _none_live(state: State, key: Fingerprint, now: int) -> str:
    """Say why none of a key's grants counts, by the newest of them."""
    newest = max(grants(state, key), key=lambda record: record.statement.not_after, default=None)
    if newest is None:
        return "nothing"
    grant = newest.statement
    if now > grant.not_after:
        return f"nothing since {utc(grant.not_after)}, when its grant ended"
    if now < grant.not_before:
        return f"nothing before {utc(grant.not_before)}, when its grant begins"
    return "nothing, for its grant was revoked"
