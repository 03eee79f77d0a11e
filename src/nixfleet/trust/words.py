"""Log entries in words: who did what to what, and what the replay made of it. Pure; shared by all who show a log.

It must never judge: the verdict comes from the replay, and a payload is only described, valid or not.
"""

from typing import assert_never

from nixfleet.errors import Untrusted
from nixfleet.model.ids import Digest, Fingerprint
from nixfleet.model.statements import Control, Device, Grant, Release, Revoke, Rollout, Root, Statement
from nixfleet.model.text import counted, utc
from nixfleet.model.views import EntryView
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf, subject_of
from nixfleet.trust.replay.links import select_words, tag_words
from nixfleet.trust.replay.rights import principal_of
from nixfleet.trust.replay.state import State, Unknown, Valid, Verdict, Void, Waiting
from nixfleet.trust.settled import settled
from nixfleet.trust.statements import Malformed, digest, parse

__all__ = ["describe", "entry_view", "select_words", "tag_words", "verdict_words"]

_SHORT = 12


def entry_view(index: int, leaf: bytes, payload: bytes | None, verdict: Verdict, state: State) -> EntryView:
    """Describe one entry; `state` is the replay's state after it, or any later one."""
    word, why = verdict_words(verdict)
    try:
        opened = Leaf.unpack(leaf)
        signature = sshsig.parse(opened.sshsig)
    except Untrusted:
        return EntryView(
            index=index, at=0, type="unreadable", by="", principal="", what="an unreadable entry", subject="",
            verdict=word, why=why,
        )  # fmt: skip
    signer = Fingerprint(signature.key.fingerprint)
    named = subject_of(signature.namespace)
    statement = _parsed(payload)
    if isinstance(verdict, Waiting):
        word, why = settled(state, index, opened.sha512, verdict)
    approval = named is not None and named.type == "approve"
    what, subject = describe(statement, state) if statement is not None else ("", "" if named is None else named.id)
    if approval:
        what = f"approve: {what}" if what else "approve an earlier entry"
    elif not what:
        what = "an entry of another kind" if named is None else f"{named.type} (content not held)"
    return EntryView(
        index=index,
        at=opened.log_time,
        type="unreadable" if named is None else named.type,
        by=signer,
        principal=principal_of(state, signer),
        what=what,
        subject=subject,
        verdict=word,
        why=why,
        digest="" if payload is None else digest(payload),
        note="" if statement is None or statement.note is None else statement.note,
    )


def verdict_words(verdict: Verdict) -> tuple[str, str]:
    """Give a verdict as a word and the reason."""
    match verdict:
        case Valid():
            return "valid", ""
        case Waiting(reason=reason):
            return "waiting", reason
        case Void(reason=reason):
            return "void", reason
        case Unknown(needed=True):
            return "unknown", "an earlier entry that is needed is missing or too new for this version"
        case Unknown():
            return "unknown", "its content is not held here"
        case _:
            assert_never(verdict)


def describe(statement: Statement, state: State) -> tuple[str, str]:
    """Say what a statement does, and to what: a sentence without its subject, and an id."""
    match statement:
        case Root():
            return _root(statement), f"root {statement.version}"
        case Grant():
            return _grant(statement), statement.id
        case Revoke(subject=subject):
            ended = subject.grant or subject.key or ""
            return f"revoke {'grant' if subject.grant else 'key'} {_grant_name(ended, state)}", ended
        case Device():
            return _device(statement), statement.device
        case Release():
            return f"publish release {statement.name} for {_devices_or_lines(statement)}", statement.name
        case Rollout():
            return _rollout(statement, state), statement.release or statement.of or ""
        case Control():
            return _control(statement, state), statement.rollout
        case _:
            assert_never(statement)


def _root(root: Root) -> str:
    people = ", ".join(principal.name for principal in root.principals)
    threshold = "" if root.threshold == 1 else f", {root.threshold} signatures"
    lost = root.log.from_
    taken = "" if lost is None else f", taking the lost log up after {lost.size} entries (epoch {root.log.epoch})"
    return f"{'found the fleet' if root.version == 1 else f'set root {root.version}'}: {people}{threshold}{taken}"


def _grant(grant: Grant) -> str:
    actions = " ".join(grant.actions) or "read"
    uses = "" if grant.max_uses is None else f", {counted(grant.max_uses, 'use')}"
    return f"allow {grant.to.name} to {actions} on {select_words(grant.select)}{uses}, until {utc(grant.not_after)}"


def _grant_name(ended: str, state: State) -> str:
    record = state.grants.get(ended)
    return f"{ended[:_SHORT]} ({record.statement.to.name})" if record else ended


def _device(device: Device) -> str:
    if device.state == "retired":
        return f"retire {device.name}"
    if device.state == "held":
        return f"hold {device.name} until {utc(device.until or 0)}"
    return f"{'enrol' if device.version == 1 else 'set'} {device.name} ({tag_words(device.tags) or 'no tags'})"


def _rollout(rollout: Rollout, state: State) -> str:
    onto = select_words(rollout.select)
    if rollout.kind == "rollback":
        return f"roll back {(rollout.of or '')[:_SHORT]} on {onto}"
    release = Digest(rollout.release or "")
    record = state.releases.get(release)
    named = release[:_SHORT] if record is None else record.statement.name
    if record is not None and record.statement.targets is not None and not rollout.select:
        onto = f"its {_devices_or_lines(record.statement)}"  # all that have a line are those of the release
    return f"roll out {named} to {onto} in {counted(len(rollout.waves), 'wave')}"


def _devices_or_lines(release: Release) -> str:
    """Count what a release has something for."""
    if release.targets is not None:
        return counted(release.targets.size, "device")
    return counted(len(release.lines or ()), "line")


def _control(control: Control, state: State) -> str:
    onto = f"rollout {control.rollout[:_SHORT]}"
    match control.verb:
        case "advance":
            return f"open wave {control.wave} of {onto}"
        case "retry":
            if isinstance(control.devices, tuple):
                names = [state.devices[one].statement.name if one in state.devices else one for one in control.devices]
                shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                return f"retry {shown} in {onto}"
            return f"retry what failed in {onto}"
        case "pause" | "resume" | "cancel":
            return f"{control.verb} {onto}"
        case _:
            assert_never(control.verb)


def _parsed(payload: bytes | None) -> Statement | None:
    try:
        return None if payload is None else parse(payload)
    except Malformed:
        return None
