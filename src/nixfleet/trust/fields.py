"""The rules between a statement's fields, which a schema cannot say; each cites trust.md, Statements.

It must never look beyond the statement itself: what needs the log is `trust.replay`.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import assert_never

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import PROTOCOL, Fingerprint, Selector
from nixfleet.model.statements import (
    Control,
    Device,
    Grant,
    Principal,
    Release,
    Revoke,
    Rollout,
    Root,
    Statement,
    Wave,
)
from nixfleet.trust.sshsig import parse_public_key


@lru_cache(maxsize=65_536)
def fingerprint(key_text: str) -> Fingerprint:
    """Return the fingerprint of a key as statements write it, without a comment. Raises: Untrusted."""
    try:
        return Fingerprint(parse_public_key(key_text).fingerprint)
    except UserError as error:
        raise Untrusted(str(error)) from error


def fault_of(statement: Statement) -> str:
    """Say what makes a well-typed statement malformed, or nothing."""
    if statement.v > PROTOCOL:
        # trust.md, Versions: void for all software until a root raises the protocol.
        return f"version {statement.v} is newer than protocol {PROTOCOL}"
    try:
        return _fault_of(statement)
    except Untrusted as error:  # a key that does not parse
        return str(error)


def _fault_of(statement: Statement) -> str:
    if not isinstance(statement, Root) and not statement.fleet:
        return "it names no fleet"
    match statement:
        case Root():
            return _root(statement)
        case Grant():
            return _grant(statement)
        case Revoke(subject=subject):
            return "" if (subject.grant is None) != (subject.key is None) else "it names not exactly one subject"
        case Device():
            return _device(statement)
        case Release():
            return _release(statement)
        case Rollout():
            return _rollout(statement)
        case Control():
            return _control(statement)
        case _:
            assert_never(statement)


def _root(root: Root) -> str:
    names = [principal.name for principal in root.principals]
    keys = [fingerprint(key) for principal in root.principals for key in principal.keys]
    if _twice(names) or _twice(keys):
        return "a principal or a key stands twice"
    if root.threshold > len(names):
        return f"a threshold of {root.threshold} with {len(names)} principals"
    if root.rules and root.threshold == 1:
        # trust.md, Approvals: whoever may lift the rules alone is not bound by them.
        return "rules need a threshold above 1"
    if not root.log.key.startswith("ssh-ed25519 "):
        return "the log key is not a plain ed25519 key"
    if fingerprint(root.log.key) in keys:
        return "the log key is also a principal's"
    if _twice(f"{cache.url} {cache.key}" for cache in root.caches):
        return "a cache stands twice"
    if (root.version == 1) != (not root.fleet):
        # trust.md, Genesis: the fleet id is the hash of root 1, which therefore cannot name it.
        return "root 1, and it alone, names no fleet"
    if root.version == 1 and (root.base.size or root.log.from_ is not None):
        return "root 1 has a past"
    return _first(_select(rule.select) or _set(rule.actions, "an action") for rule in root.rules)


def _grant(grant: Grant) -> str:
    if grant.not_before >= grant.not_after:
        return "it ends before it begins"
    if grant.max_uses is not None and grant.actions != ("enroll",):
        return "max_uses belongs to a grant whose only action is enroll"
    if "approve" in grant.actions and grant.parent is not None:
        return "approve is given by the root alone"
    if grant.parent == grant.id:
        return "it is its own parent"
    return _principal(grant.to) or _select(grant.select) or _set(grant.actions, "an action")


def _device(device: Device) -> str:
    fingerprint(device.key)
    if not device.key.startswith("ssh-ed25519 "):
        return "a device's key is a plain ed25519 key"  # nobody is there to touch it
    if (device.state == "held") != (device.until is not None):
        return "until belongs to held, and held needs it"
    if device.version == 1 and device.state == "retired":
        return "a device is not enrolled retired"
    return ""


def _release(release: Release) -> str:
    if (release.targets is None) == (release.lines is None):
        return "it has not exactly one of targets and lines"
    if _twice(f"{cache.url} {cache.key}" for cache in release.caches):
        return "a cache stands twice"
    return _first(_select(line.select) for line in release.lines or ())


def _rollout(rollout: Rollout) -> str:
    if rollout.kind == "deploy" and (rollout.release is None or rollout.of is not None):
        return "a deploy names a release and nothing else"
    if rollout.kind == "rollback" and (rollout.of is None or rollout.release is not None):
        return "a rollback names a rollout and nothing else"
    if rollout.not_before >= rollout.not_after:
        return "it ends before it begins"
    if (rollout.stop_at.count is None) == (rollout.stop_at.percent is None):
        return "stop_at has not exactly one of count and percent"
    if rollout.stop_at.percent is None and rollout.stop_at.at_least != 1:
        return "at_least belongs to a percentage"
    if rollout.window is not None and _twice(rollout.window.days):
        return "its window names a day twice"
    waves = (wave.members for wave in rollout.waves)
    selectors = _first(_select(members) for members in waves if isinstance(members, dict))
    return _select(rollout.select) or selectors or unchecked_gate(rollout.waves)


def unchecked_gate(waves: Sequence[Wave]) -> str:
    """Say that a signed gate stands where a device cannot tell whether it is before or behind it, or nothing.

    Who is in a wave by count or percentage depends on all other devices, which a device does not know: the
    coordinator could name it a member of any such wave, and so lead it past every gate behind.
    """
    members = [wave.members for wave in waves]
    counted = next((place for place, each in enumerate(members) if not isinstance(each, dict)), len(members))
    behind = any(wave.gate == "signed" for wave in waves[counted + 1 :])
    return "a signed gate may only follow waves by selector, which a device can check" if behind else ""


def _control(control: Control) -> str:
    if (control.verb == "advance") != (control.wave is not None):
        return "wave belongs to advance, and advance needs it"
    if (control.verb == "retry") != (control.devices is not None):
        return "devices belongs to retry, and retry needs it"
    if control.wave == 0:
        return "waves are numbered from 1"
    return _set(control.devices, "a device") if isinstance(control.devices, tuple) else ""


def _principal(principal: Principal) -> str:
    return _set([fingerprint(key) for key in principal.keys], "a key")


def _select(select: Selector) -> str:
    if len(select) > 64:
        return "a selector has more than 64 tags"
    return _first(_set(values, "a value") for values in select.values())


def _set(values: Iterable[str], what: str) -> str:
    return f"{what} stands twice" if _twice(values) else ""


def _twice(values: Iterable[str]) -> bool:
    listed = list(values)
    return len(set(listed)) != len(listed)


def _first(faults: Iterable[str]) -> str:
    return next((fault for fault in faults if fault), "")
