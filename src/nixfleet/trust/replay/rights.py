"""Who may do what to which device: chains of grants, root thresholds, approvals; total, and never lenient.

Rights are judged per device, by planner and agent alike; the right of a chain is the AND over its links
(trust.md, Statements).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from nixfleet.model.ids import MAX_INT, Fingerprint, Tags
from nixfleet.model.statements import Action, Grant, Root, Rule
from nixfleet.model.text import counted
from nixfleet.trust import fields
from nixfleet.trust.leaf import Subject
from nixfleet.trust.replay.links import Over, dead_words, is_live, lacking, lacking_anywhere
from nixfleet.trust.replay.state import GrantRecord, State, keys_of


class Allowed(msgspec.Struct, frozen=True):
    """The right is there; `chain` holds the grants from the root down, none for the root itself."""

    chain: tuple[Grant, ...] = ()

    @property
    def max_devices(self) -> int | None:
        """The narrowest bound of the chain on the devices of one statement."""
        return min((link.max_devices for link in self.chain if link.max_devices is not None), default=None)


@dataclass(frozen=True, slots=True)
class Denied:
    """The right is not there, and why; `waits`: a co-signature or an approval could still give it."""

    reason: str
    waits: bool = False


def authorise(
    state: State, signer: Fingerprint, action: Action, device: str, now: int, sha512: bytes | None = None
) -> Allowed | Denied:
    """Judge a right over one enrolled device; `sha512` names the payload whose co-signatures count."""
    record = state.devices.get(device)
    if record is None or record.statement.state == "retired":
        return Denied("the device is not enrolled" if record is None else "the device is retired")
    return authorise_over(
        state, signer, action, Over(tags=(record.statement.tags,), name=record.statement.name), now, sha512
    )


def authorise_over(
    state: State,
    signer: Fingerprint,
    action: Action,
    over: Over,
    now: int,
    sha512: bytes | None = None,
    fits: Callable[[Allowed], bool] = lambda _: True,
) -> Allowed | Denied:
    """Judge a right with the co-signatures and approvals that the rules demand, at one moment.

    `fits` turns away chains whose own limits the act would break. Of several ways the one that is limited to the
    most devices counts, so that a narrower grant beside a wider one takes nothing away.
    """
    reason: Denied | None = None
    best: Allowed | None = None
    for allowed in candidates(state, signer, action, now, sha512):
        if isinstance(allowed, Denied):
            reason = allowed
        elif all(over.within(link.select) for link in allowed.chain) and fits(allowed):
            missing = approvals_missing(state, allowed, signer, action, over, now, sha512)
            if missing:
                reason = Denied(approvals_words(missing), waits=True)
            elif best is None or (allowed.max_devices or MAX_INT) > (best.max_devices or MAX_INT):
                best = allowed
    if best is not None:
        return best
    return reason or Denied(lacking(state, principal_of(state, signer), grants(state, signer), action, over, now))


def cosignatures_words(missing: int) -> str:
    """Say how many root principals still have to sign."""
    return "1 more root signature is needed" if missing == 1 else f"{missing} more root signatures are needed"


def approvals_words(missing: int) -> str:
    """Say how many approvals an act still waits for, and who can give them (trust.md, Approvals)."""
    needed = f"{counted(missing, 'more approval')} {'is' if missing == 1 else 'are'} needed"
    return f"{needed}, by {'another principal' if missing == 1 else 'other principals'} with the right to approve"


def silenced(state: State, signer: Fingerprint, subject: Subject, now: int) -> str:
    """Say why a key may not speak of a subject, whatever its payload says, or nothing (trust.md, Replay).

    It looks at no signature: who asks has checked it, or is about to.
    """
    if signer in state.revoked_keys:
        return f"its key is revoked ({signer})"
    if not named(state, signer, subject):
        return f"neither root nor grant names its key ({signer})"
    held = grants(state, signer)
    if _by_grants_alone(state, signer, subject) and not any(alive(state, one, now) for one in held):
        return f"no grant of its key is live ({signer}): {dead_words(state, held[-1], now)}"
    return ""


def named(state: State, signer: Fingerprint, subject: Subject) -> bool:
    """Tell whether the log names a key at all, live or not, for this subject."""
    return signer in state.grants_of or not _by_grants_alone(state, signer, subject)


def by_device_alone(state: State, signer: Fingerprint) -> bool:
    """Tell whether a key that may speak of a device is neither root's nor any grant's: then it is the device's own."""
    return signer not in state.root_keys and signer not in state.grants_of


def _by_grants_alone(state: State, signer: Fingerprint, subject: Subject) -> bool:
    """Tell whether a key is neither root's, nor that of the device in question, nor one that joins root."""
    if signer in state.root_keys:
        return False
    if subject.type == "device":
        record = state.devices.get(subject.id)
        return record is None or record.key != signer
    return subject.type != "approve" or not joins_root(state, signer)


def joins_root(state: State, signer: Fingerprint) -> bool:
    """Tell whether a root version that waits for its threshold names a key; it may co-sign, nothing else.

    One that was overtaken waits for nothing any more, and gives nobody anything.
    """
    version = 1 if state.root is None else state.root.version + 1
    return any(
        isinstance(one.statement, Root) and one.statement.version == version and signer in keys_of(one.statement)
        for waiting in state.pending.values()
        for one in waiting
    )


def may_ever(state: State, signer: Fingerprint, actions: Iterable[Action], now: int) -> bool:
    """Tell whether a key has any of these rights over any device now, co-signatures aside."""
    if signer in state.revoked_keys:
        return False
    if signer in state.root_keys:
        return True
    wanted = set(actions)
    return any(wanted & set(record.statement.actions) and alive(state, record, now) for record in grants(state, signer))


def lacks_everywhere(state: State, signer: Fingerprint, actions: Sequence[Action], now: int) -> str:
    """Say why a key has none of these rights over any device now, or nothing (`may_ever`)."""
    if may_ever(state, signer, actions, now):
        return ""
    return lacking_anywhere(state, principal_of(state, signer), grants(state, signer), actions, now)


def may_over(state: State, signer: Fingerprint, action: Action, tags: Tags) -> bool:
    """Tell whether a key has a right over devices with these tags at some time, co-signatures and approvals aside."""
    if signer in state.revoked_keys:
        return False
    over = Over(tags=(tags,))
    return signer in state.root_keys or any(
        action in record.statement.actions and all(over.within(link.select) for link in record.links)
        for record in grants(state, signer)
    )


def candidates(
    state: State, signer: Fingerprint, action: Action, now: int, sha512: bytes | None
) -> Iterator[Allowed | Denied]:
    """Yield every live way in which a key has a right over some device."""
    if signer in state.revoked_keys:
        yield Denied(f"the key {signer} is revoked")
        return
    if signer in state.root_keys:
        missing = cosignatures_missing(state, signer, sha512)
        # trust.md, Statements: what the root does, its threshold does.
        yield Denied(cosignatures_words(missing), waits=True) if missing else Allowed()
    for record in grants(state, signer):
        if action in record.statement.actions and alive(state, record, now):
            yield Allowed(record.links)


def grants(state: State, signer: Fingerprint) -> tuple[GrantRecord, ...]:
    """Return the grants that name a key, dead ones too."""
    return state.grants_of.get(signer, ())


def alive(state: State, record: GrantRecord, now: int) -> bool:
    """Tell whether no link of a chain is revoked, not yet or no longer valid, or issued by a revoked key."""
    return all(is_live(state, link, now) for link in record.links)


def cosignatures_missing(state: State, signer: Fingerprint, sha512: bytes | None) -> int:
    """Count the root principals that still have to sign, for the threshold of the root in force."""
    if state.root is None:
        return 1
    if root_acts_alone(state) and signer in state.root_keys and signer not in state.revoked_keys:
        return 0
    return threshold_missing(state, state.root, state.root_keys, signers(state, signer, sha512))


def root_acts_alone(state: State) -> bool:
    """Tell whether one root principal's signature is the root's."""
    return state.root is not None and state.root.threshold == 1


def threshold_missing(state: State, root: Root, keys: dict[Fingerprint, str], signed: Iterable[Fingerprint]) -> int:
    """Count what a root version's threshold lacks: distinct principals, not keys (trust.md, Approvals)."""
    present = {keys[key] for key in signed if key in keys and key not in state.revoked_keys}
    return max(0, root.threshold - len(present))


def signers(state: State, signer: Fingerprint, sha512: bytes | None) -> list[Fingerprint]:
    """Return everybody who signed a payload, the submitter first."""
    further = state.approvals.get(sha512, ()) if sha512 is not None else ()
    return [signer, *(approval.signer for approval in further)]


def approvals_missing(
    state: State, allowed: Allowed, signer: Fingerprint, action: Action, over: Over, now: int, sha512: bytes | None
) -> int:
    """Count the approvals that rules still demand, by distinct principals that may give them (trust.md, Approvals)."""
    needed = max([rule.approvals for rule in rules(state, action, over)], default=0)
    return max(0, needed - len(approvers(state, allowed, signer, over, now, sha512))) if needed else 0


def approvers(
    state: State, allowed: Allowed, signer: Fingerprint, over: Over, now: int, sha512: bytes | None
) -> tuple[Fingerprint, ...]:
    """Give the keys whose approvals of a payload count over something, one of each principal."""
    involved = involved_in(state, allowed, signer)
    counted: set[str] = set()
    found = []
    for key in signers(state, signer, sha512)[1:]:
        # Who approves has a name by the root's hand (`fields`), and is one person under it.
        names = names_of(state, key)
        if not names & counted and not all_names_of(state, key) & involved and may_approve(state, key, over, now):
            counted |= names
            found.append(key)
    return tuple(found)


def involved_in(state: State, allowed: Allowed, signer: Fingerprint) -> frozenset[str]:
    """Name who may not approve an act: its submitter, and the issuers below the root of the chain that it stands on.

    Each as they are in that chain and as the root knows them: what others call them elsewhere does not count, else
    who may name keys at all could make two people one, and keep the one from approving for the other.
    """
    chain = allowed.chain
    names = set(root_names_of(state, signer))
    if chain:
        names.add(state.grants[chain[-1].id].principal)
    for above, link in pairwise(chain):
        names |= {state.grants[above.id].principal, *root_names_of(state, Fingerprint(link.by))}
    return frozenset(names)


def may_approve(state: State, key: Fingerprint, over: Over, now: int) -> bool:
    """Tell whether a grant, which is straight from the root (`fields`), lets a live key approve this."""
    return key not in state.revoked_keys and any(
        "approve" in record.statement.actions and alive(state, record, now) and over.within(record.statement.select)
        for record in grants(state, key)
    )


def rules(state: State, action: Action, over: Over) -> list[Rule]:
    """Return the rules of the root in force that bind an act."""
    root = state.root
    if root is None or not root.rules:
        return []
    return [rule for rule in root.rules if action in rule.actions and over.touches(rule.select)]


def note_missing(state: State, action: Action, over: Over, note: str | None) -> bool:
    """Tell whether a rule asks for a ticket or a reason that a statement does not give."""
    return not (note or "").strip() and any(rule.note_required for rule in rules(state, action, over))


def names_of(state: State, key: Fingerprint) -> frozenset[str]:
    """Return the names of a key by the root's own hand; where there is none, those that issuers below it gave."""
    return root_names_of(state, key) or all_names_of(state, key)


def root_names_of(state: State, key: Fingerprint) -> frozenset[str]:
    """Return the names of a key by the root's own hand."""
    names = {record.principal for record in grants(state, key) if record.statement.parent is None}
    if key in state.root_keys:
        names.add(state.root_keys[key])
    return frozenset(names)


def all_names_of(state: State, key: Fingerprint) -> frozenset[str]:
    """Return every principal name that anybody gave a key."""
    names = {record.principal for record in grants(state, key)}
    if key in state.root_keys:
        names.add(state.root_keys[key])
    return frozenset(names)


def principal_of(state: State, key: Fingerprint) -> str:
    """Name a key's holder: by root, as ``issuer/name``, by its device, or by its fingerprint."""
    if key in state.root_keys:
        return state.root_keys[key]
    held = grants(state, key)
    if held:
        # The newest name, but the root's before any that others gave: they could name any key.
        return next((one for one in reversed(held) if one.statement.parent is None), held[-1]).principal
    device = state.device_of(key)
    return state.devices[device].statement.name if device is not None else key


def holds(record: GrantRecord | Grant, key: Fingerprint) -> bool:
    """Tell whether a grant names a key."""
    grant = record.statement if isinstance(record, GrantRecord) else record
    return any(fields.fingerprint(text) == key for text in grant.to.keys)
