"""Why a key may or may not act on a device, chain by chain from the root down. Pure.

It must never judge by rules of its own: it asks `rights` and `links`, and puts their answers in words.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nixfleet.model.ids import Fingerprint
from nixfleet.model.statements import Action, Grant
from nixfleet.model.text import utc
from nixfleet.trust.replay import rights
from nixfleet.trust.replay.links import SHOWN, Over, right_words, why_dead, why_short
from nixfleet.trust.replay.rights import Allowed
from nixfleet.trust.replay.state import GrantRecord, State


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a chain: who holds it, by which grant (empty for the root), and why it fails where it does."""

    holder: str
    grant: str
    ok: bool
    why: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A way from the root to a key; `why` is what fails, or what it waits for."""

    links: tuple[Link, ...]
    allowed: bool
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether a key may act on a device: at once (`allowed`), or once others have signed as well (`waits`)."""

    allowed: bool
    waits: bool
    sentence: str
    chains: tuple[Chain, ...]


def explain(state: State, key: Fingerprint, action: Action, device: str, now: int) -> Explanation:
    """Judge a key's right over a device as the replay would for an act signed now, and say by which chain."""
    now = max(now, state.last_time)
    record = state.devices.get(device)
    who = rights.principal_of(state, key)
    if record is None or record.statement.state == "retired":
        gone = "is not enrolled" if record is None else "is retired"
        name = device[:SHOWN] if record is None else record.statement.name
        return Explanation(allowed=False, waits=False, sentence=f"{who} may do nothing to {name}: it {gone}", chains=())
    over = Over(tags=(record.statement.tags,), name=record.statement.name)
    chains = tuple(_chains(state, key, action, over, now))
    right = rights.authorise_over(state, key, action, over, now, fits=lambda allowed: _usable(allowed, action))
    if isinstance(right, Allowed):
        return Explanation(
            allowed=True, waits=False, sentence=f"{who} may {right_words(action, over)}, {_by(right)}", chains=chains
        )
    if right.waits:
        sentence = f"{who} may {right_words(action, over)}, but not alone: {right.reason}"
    elif "lacks the right" in right.reason:
        sentence = right.reason
    else:
        sentence = f"{who} may not {right_words(action, over)}: {right.reason}"
    return Explanation(allowed=False, waits=right.waits, sentence=sentence, chains=chains)


def _usable(allowed: Allowed, action: Action) -> bool:
    """Tell whether a chain is of use: approving is no right of the root's own, and depth ends handing on."""
    if action == "approve":
        return bool(allowed.chain)
    return action != "grant" or not allowed.chain or allowed.chain[-1].depth > 0


def _by(right: Allowed) -> str:
    if not right.chain:
        return "by the root"
    limit = f", in releases of at most {right.max_devices} device lines" if right.max_devices is not None else ""
    return f"by grant {right.chain[-1].id[:SHOWN]} until {_until(right.chain)}{limit}"


def _until(chain: Iterable[Grant]) -> str:
    return utc(min(link.not_after for link in chain))


def _chains(state: State, key: Fingerprint, action: Action, over: Over, now: int) -> Iterator[Chain]:
    if key in state.root_keys:
        yield _root_chain(state, key, action, over, now)
    for record in rights.grants(state, key):
        yield _grant_chain(state, key, record, action, over, now)


def _root_chain(state: State, key: Fingerprint, action: Action, over: Over, now: int) -> Chain:
    why, waits = _key_fault(state, key), False
    if not why and action == "approve":
        why = "an approval counts by a grant of approve alone"
    if not why:
        missing = rights.cosignatures_missing(state, key, None)
        why = rights.cosignatures_words(missing) if missing else ""
        waits = bool(missing)
    if not why:
        why = _approvals(state, Allowed(), key, action, over, now)
        waits = bool(why)
    return Chain((Link(state.root_keys[key], "", ok=not why or waits, why=why),), allowed=not why, why=why)


def _key_fault(state: State, key: Fingerprint) -> str:
    return "names a key that is revoked" if key in state.revoked_keys else ""


def _grant_chain(state: State, key: Fingerprint, record: GrantRecord, action: Action, over: Over, now: int) -> Chain:
    links = [Link("root", "", ok=True, why="")]
    for grant in record.links:
        why = why_dead(state, grant, now) or why_short(grant, action, over)
        if not why and grant is record.links[-1]:
            why = _key_fault(state, key)
        links.append(Link(state.grants[grant.id].principal, grant.id, ok=not why, why=why))
    failing = next((link for link in links if not link.ok), None)
    if failing is not None:
        why = f"grant {failing.grant[:SHOWN]} of {failing.holder} {failing.why}"
        return Chain(tuple(links), allowed=False, why=why)
    waits = _approvals(state, Allowed(record.links), key, action, over, now)
    return Chain(tuple(links), allowed=not waits, why=waits)


def _approvals(state: State, allowed: Allowed, key: Fingerprint, action: Action, over: Over, now: int) -> str:
    missing = rights.approvals_missing(state, allowed, key, action, over, now, None)
    return rights.approvals_words(missing) if missing else ""
