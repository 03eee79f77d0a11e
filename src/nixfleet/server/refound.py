"""Take a log that was lost for good up in a new data folder: the entries that were saved, and a root of the next epoch.

It must never begin a log that its own keys do not sign, nor leave out an entry that is there (trust.md, Starting).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nixfleet.errors import Refused, Untrusted, UserError
from nixfleet.model.ids import FleetId
from nixfleet.server.coordinator.judging import judge, rows_of
from nixfleet.server.setup import lay_down
from nixfleet.server.store import HEAD, EntryRow, LineRow, MarkRow, Store
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.lines import LineTree
from nixfleet.trust.note import Checkpoint, origin, sign_checkpoint
from nixfleet.trust.replay import State, Valid, Waiting
from nixfleet.trust.sshsig import SecretKey
from nixfleet.trust.statements import parse

_CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class Saved:
    """What is left of a log: its entries in order, and device lines by release."""

    fleet: str
    entries: Sequence[tuple[bytes, bytes | None]]
    lines: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Refounding:
    """The next epoch's root and the signatures over it, the first by its signer; `at` in unix seconds."""

    payload: bytes
    signatures: Sequence[bytes]
    at: int


def refound(
    data_dir: Path,
    saved: Saved,
    root: Refounding,
    log_key: SecretKey,
    cache_key: str,
    database_url: str | None = None,
) -> int:
    """Make the data folder of the next epoch, all or nothing; gives the number of entries.

    Raises:
        UserError: the folder holds a fleet, an entry's content is not held, or the root names another log key.
        Refused: the root does not hold, or waits for more signatures.

    """
    state = State(FleetId(saved.fleet))
    rows = [_again(state, index, leaf, payload) for index, (leaf, payload) in enumerate(saved.entries)]
    rows += _new(state, rows, root)
    if state.root is None or sshsig.parse_public_key(state.root.log.key) != log_key.public:
        raise UserError("the root that is to be in force names another log key")
    checkpoint = Checkpoint(origin(state.fleet, state.root.log.epoch), state.size, state.tree.root())
    head = MarkRow(HEAD, sign_checkpoint(checkpoint, log_key), root.at)
    lines = [row for release, texts in saved.lines.items() for row in rows_of(release, LineTree.from_texts(texts))]

    async def write(store: Store) -> None:
        await _write(store, rows, lines, head)

    lay_down(data_dir, log_key, cache_key, write, database_url)
    return len(rows)


async def _write(store: Store, rows: list[EntryRow], lines: list[LineRow], head: MarkRow) -> None:
    for start in range(0, len(rows), _CHUNK):
        await store.log.append(rows[start : start + _CHUNK])
    await store.log.append([], lines, head)


def _again(state: State, index: int, leaf: bytes, payload: bytes | None) -> EntryRow:
    if payload is None:
        raise UserError(f"the content of entry {index} is not held here: use a copy that has it ('log restore DIR')")
    return judge(state, index, Leaf.unpack(leaf), payload).row


def _new(state: State, saved: list[EntryRow], root: Refounding) -> list[EntryRow]:
    """Append the root and its co-signatures. Raises: Refused unless that completes it."""
    log_time = max(root.at, *(Leaf.unpack(row.leaf).log_time for row in saved))
    rows = []
    for signature in root.signatures:
        leaf = Leaf(log_time, sshsig.message_digest(root.payload), signature)
        entry = judge(state, state.size, leaf, root.payload)
        rows.append(entry.row)
        if not isinstance(entry.verdict, Valid | Waiting):
            raise Refused(f"the new root does not hold: {getattr(entry.verdict, 'reason', 'it is too new')}")
    waits = [one.waits for one in state.pending.get(sshsig.message_digest(root.payload), ())]
    if waits:
        raise Refused(f"{waits[0]}: name their keys with --with KEY, each a file or one in ssh-agent")
    if state.root != parse(root.payload):
        raise Untrusted("what was signed is no root")
    return rows
