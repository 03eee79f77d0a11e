"""One entry judged by replay and described; pure, so that who follows sees what the one that appends saw."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

import msgspec

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import FleetId, Tags
from nixfleet.model.statements import Control, Device, Release, Rollout, Root, Statement
from nixfleet.model.wire import Submission
from nixfleet.server.store import EntryRow, LineRow
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf, LeafType, holds, type_of
from nixfleet.trust.lines import LineTree
from nixfleet.trust.replay import DeviceRecord, State, Unknown, Valid, Verdict, Void, Waiting, replay, selected
from nixfleet.trust.sshsig import PublicKey
from nixfleet.trust.statements import digest, parse
from nixfleet.trust.view import open_in_force
from nixfleet.trust.words import entry_view


@dataclass(frozen=True, slots=True)
class Judged:
    """An entry as judged by replay; `log_time` is unix seconds."""

    row: EntryRow
    log_time: int
    statement: Statement
    verdict: Verdict
    before: Device | None = None
    """The device's statement before this one."""
    reach: Mapping[str, Tags] = field(default_factory=dict)
    """Of a rollout: the active devices that it matches at its index, with the tags they have there."""


def judge(state: State, index: int, leaf: Leaf, payload: bytes) -> Judged:
    """Replay one entry on a state, which moves on, and describe it. Raises: Malformed."""
    statement = parse(payload)
    signature = sshsig.parse(leaf.sshsig)
    kind = type_of(signature.namespace)
    record = state.devices.get(statement.device) if isinstance(statement, Device) else None
    data = leaf.pack()
    verdict = replay(state, index, leaf, payload)
    view = entry_view(index, data, payload, verdict, state)
    sha256 = digest(payload)
    row = EntryRow(index, data, sha256, payload, kind, subject_of(statement, kind, sha256), msgspec.json.encode(view))
    return _judged(state, row, leaf, statement, verdict, record)


MEND = (
    "the database was changed or is damaged: put a backup back ('nixfleet coordinator restore'); devices and consoles"
    " give back what came after it"
)


def follow(state: State, row: EntryRow) -> Judged:
    """Replay a stored entry on a state, which moves on; what was said of it then stands.

    Raises: Untrusted, in words that follow "entry N", when it is not what a coordinator appended.
    """
    if row.index != state.size:
        raise Untrusted("is missing")
    if not isinstance(row.payload, bytes) or not isinstance(row.leaf, bytes) or not holds(row.leaf, row.payload):
        raise Untrusted("has another payload than the one that was signed")
    leaf, statement = Leaf.unpack(row.leaf), parse(row.payload)
    kind, sha256 = type_of(sshsig.parse(leaf.sshsig).namespace), digest(row.payload)
    if (row.kind, row.sha256, row.subject) != (kind, sha256, subject_of(statement, kind, sha256)):
        raise Untrusted("is filed under another kind or digest than its own")
    record = state.devices.get(statement.device) if isinstance(statement, Device) else None
    verdict = replay(state, row.index, row.leaf, row.payload)
    return _judged(state, row, leaf, statement, verdict, record)


def _judged(
    state: State, row: EntryRow, leaf: Leaf, statement: Statement, verdict: Verdict, record: DeviceRecord | None
) -> Judged:
    before = None if record is None else record.statement
    # Now, while the state is that of the entry's index: what comes after it in a batch must not move anybody.
    reach = selected(state, statement.select) if isinstance(statement, Rollout) and row.kind == "rollout" else {}
    return Judged(row, leaf.log_time, statement, verdict, before, reach)


def reason_against(verdict: Verdict) -> str:
    """Say why a statement may not enter the log, or nothing."""
    match verdict:
        case Valid() | Waiting():
            return ""
        case Void(reason=reason):
            return reason
        case Unknown():
            return "this coordinator is too old for the fleet's protocol: update it first"
        case _:
            assert_never(verdict)


def subject_of(statement: Statement, kind: LeafType, sha256: str) -> str:
    """Say in 64 characters what an entry is about, so that it can be chosen without its payload."""
    if kind == "approve":
        return sha256
    match statement:
        case Device(device=device):
            return device
        case Control(rollout=rollout):
            return rollout
        case _:
            return sha256


def check_lines(statement: Statement, submission: Submission) -> None:
    """Compare a release's device lines with the root that its statement signs; an approval of one brings none.

    Raises: UserError, Malformed.
    """
    approves = type_of(sshsig.parse(submission.signature).namespace) == "approve"
    targets = statement.targets if isinstance(statement, Release) and not approves else None
    if targets is None:
        if submission.lines:
            raise UserError("target lines belong to a release that names their root")
        return
    tree = LineTree.from_texts(submission.lines)
    if tree.targets != targets:
        raise UserError("the target lines are not those whose root the release names")


def line_rows(entry: Judged, submission: Submission) -> list[LineRow]:
    """Make the rows of a release's device lines, in their order."""
    return rows_of(entry.row.sha256, LineTree.from_texts(submission.lines)) if submission.lines else []


def rows_of(release: str, tree: LineTree) -> list[LineRow]:
    """Make the rows of a release's device lines."""
    pairs = zip(tree.devices, tree.texts, strict=True)
    return [LineRow(release, place, device, line) for place, (device, line) in enumerate(pairs)]


def check_head(state: State, note: bytes, name: str, suspect: str) -> None:
    """Compare a replayed log with the newest checkpoint beside it, whose key may have gone since. Raises: Untrusted.

    It shows what no signature does: a log time that was changed, and entries that were cut off at the end. `suspect`
    names the first entry that has no effect, or nothing.
    """
    try:
        head = open_in_force(note, state)
    except Untrusted as error:
        raise Untrusted(f"the newest checkpoint in {name} does not hold ({error}); {MEND}") from error
    if head.size > state.size:
        raise Untrusted(f"{name} has {state.size} entries of the {head.size} that were appended; {MEND}")
    if state.tree.root(head.size) != head.root:
        raise Untrusted(f"the entries in {name} are not those that were appended{suspect and f' ({suspect})'}; {MEND}")


def first_entry(root_payload: bytes, signature: bytes, log_key: PublicKey, now: int) -> tuple[EntryRow, str]:
    """Judge a fleet's first entry, and give its row and the fleet id. Raises: Untrusted, Malformed, UserError."""
    statement = parse(root_payload)
    if not isinstance(statement, Root):
        raise UserError("a fleet begins with a root statement")
    if sshsig.parse_public_key(statement.log.key) != log_key:
        raise UserError("the root statement names another log key")
    fleet = FleetId(digest(root_payload))
    leaf = Leaf(now, sshsig.message_digest(root_payload), signature)
    entry = judge(State(fleet=fleet), 0, leaf, root_payload)
    reason = reason_against(entry.verdict)
    if reason:
        raise Untrusted(f"the root statement does not hold: {reason}")
    return entry.row, fleet
