"""What a key may read: everything, or what its live grants cover (trust.md, Requests). Pure; the one rule of reading.

It judges reading alone: what a key may do is `rights`' to say.
"""

from dataclasses import dataclass
from typing import Final

from nixfleet.model.ids import Fingerprint, Selector, Tags, matches
from nixfleet.model.statements import Action
from nixfleet.trust.replay.rights import alive, grants, joins_root, names_of
from nixfleet.trust.replay.state import GrantRecord, State


@dataclass(frozen=True, slots=True)
class Way:
    """One live grant as a reader has it: its actions, and the selectors of its whole chain."""

    actions: tuple[Action, ...]
    selects: tuple[Selector, ...]

    def over(self, tags: Tags) -> bool:
        """Tell whether it covers a device with these tags; the AND over the links."""
        return all(matches(select, tags) for select in self.selects)

    def fits(self, tags: Tags) -> bool:
        """Tell whether a device that asks with these tags could be enrolled by it: whoever enrols may add tags."""
        return all(tags.get(tag, values[0]) in values for select in self.selects for tag, values in select.items())


@dataclass(frozen=True, slots=True)
class Reach:
    """Whose key it is, and what it may read of; equal while nothing of that has changed."""

    everything: bool
    names: frozenset[str] = frozenset()
    """Every name of its principal."""
    ways: tuple[Way, ...] = ()

    def over(self, tags: Tags) -> bool:
        """Tell whether a device with these tags may be read of: any live grant covers it, one of no actions too."""
        return self.everything or any(way.over(tags) for way in self.ways)

    def enrols(self, tags: Tags) -> bool:
        """Tell whether a request to be enrolled with these tags may be seen: by who could enrol it, or sees all."""
        return self.everything or any("enroll" in way.actions and way.fits(tags) for way in self.ways)

    def owns(self, state: State, signer: Fingerprint) -> bool:
        """Tell whether a key is of the same principal: what it has signed is its own."""
        return _all_of(state, signer, self.names)


EVERYTHING: Final = Reach(everything=True)


def reach(state: State, key: Fingerprint, now: int) -> Reach | None:
    """Say what a person's or a CI's key may read of; None when it may read nothing now, as a join token may not."""
    if not may_delegate(state, key, now):
        return None
    ways = tuple(_way(record) for record in grants(state, key) if alive(state, record, now))
    unlimited = key in state.root_keys or any(not any(way.selects) for way in ways)
    return Reach(unlimited, names_of(state, key), ways)


def _way(record: GrantRecord) -> Way:
    return Way(record.statement.actions, tuple(link.select for link in record.links))


def is_person(state: State, key: Fingerprint, now: int) -> bool:
    """Tell whether the root or any live grant names a key; a grant of no actions may read.

    Who is named by a root that waits for signatures reads the log, too: else they could not see what to co-sign.
    """
    if key in state.revoked_keys:
        return False
    if key in state.root_keys or joins_root(state, key):
        return True
    return any(alive(state, record, now) for record in grants(state, key))


def keys_named(state: State, names: frozenset[str]) -> frozenset[Fingerprint]:
    """Give the keys of a principal, by its names."""
    return frozenset(key for key in (*state.root_keys, *state.grants_of) if _all_of(state, key, names))


def _all_of(state: State, key: Fingerprint, names: frozenset[str]) -> bool:
    """Tell whether a key has names, and none but these: one more, which any issuer can give, opens nothing of it."""
    its = names_of(state, key)
    return bool(its) and its <= names


def was_person(state: State, key: Fingerprint) -> bool:
    """Tell whether root or a grant that was no join token names a key, whose rights may have ended since."""
    return key in state.root_keys or any(record.statement.max_uses is None for record in grants(state, key))


def is_named(state: State, key: Fingerprint) -> bool:
    """Tell whether the log names a key as anybody's: root's, a grant's that may have ended, or a device's."""
    return (
        key in state.root_keys or key in state.grants_of or state.device_of(key) is not None or joins_root(state, key)
    )


def is_token(state: State, key: Fingerprint, now: int) -> bool:
    """Tell whether all that a key may do is to enrol a counted number of devices: a join token's key."""
    if key in state.root_keys or joins_root(state, key):
        return False
    live = [record.statement for record in grants(state, key) if alive(state, record, now)]
    return bool(live) and all(grant.actions == ("enroll",) and grant.max_uses is not None for grant in live)


def may_delegate(state: State, key: Fingerprint, now: int) -> bool:
    """Tell whether a session may speak for a key: a join token lies on devices, and speaks for nobody."""
    return is_person(state, key, now) and not is_token(state, key, now)


def may_enrol(state: State, key: Fingerprint, tags: Tags, now: int) -> bool:
    """Tell whether a key could enrol a device that asks with these tags, approvals aside."""
    found = reach(state, key, now)
    return found is not None and (
        key in state.root_keys or any("enroll" in way.actions and way.fits(tags) for way in found.ways)
    )
