"""Give a coordinator that runs an old backup the entries back that it once had; agents, consoles and CLI all do.

It must never offer what was not verified here, nor end in a loop: each answer has to bring the coordinator further.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from nixfleet.client.api import Client
from nixfleet.client.faults import Unknown
from nixfleet.model.wire import Entry, HeldLines, HeldPayload, Offer, OfferAnswer
from nixfleet.trust.replay import State

_PAGE_BYTES: Final = 512 << 10
"""Leaves and payloads of one request; base64 makes a third more of them, and 1 MiB is taken from anybody."""
_PAGE: Final = 1_000
_ROUNDS: Final = 10_000


class Held(Protocol):
    """A verified copy of the log, as far as giving back needs it."""

    @property
    def size(self) -> int:
        """How many entries are held."""

    @property
    def checkpoint(self) -> bytes:
        """The newest verified checkpoint."""

    @property
    def state(self) -> State:
        """What the log says, with its tree."""

    def leaf(self, index: int) -> bytes:
        """Read a leaf."""

    def payload(self, index: int) -> bytes | None:
        """Read a payload, None when it is not held."""

    def lines(self, release: str) -> tuple[str, ...] | None:
        """Read a release's device lines, None when they are not held."""


async def give_back(client: Client, held: Held) -> OfferAnswer:
    """Offer everything that the coordinator lacks and that is held here; gives what it lacks still.

    Raises: Untrusted when its log is no beginning of ours, Unreachable.
    """
    if not held.checkpoint:
        return OfferAnswer(size=0)
    try:
        answer = await client.offer(Offer(checkpoint=held.checkpoint, start=held.size))
    except Unknown:
        return OfferAnswer(size=0)  # one of before offers were taken
    answer = await _leaves(client, held, answer)
    answer = await _payloads(client, held, answer)
    if answer.goal:
        answer = await client.offer(Offer(checkpoint=held.checkpoint, start=0))
    for release in answer.lines:
        # Anybody may answer for a coordinator: what the log does not know is nothing to give away.
        if release in held.state.releases and (lines := held.lines(release)):
            its = (HeldLines(release=release, lines=lines),)
            answer = await client.offer(Offer(checkpoint=held.checkpoint, start=0, lines=its))
    return answer


async def _leaves(client: Client, held: Held, answer: OfferAnswer) -> OfferAnswer:
    """Offer leaves, with the payloads held, from where the coordinator stands; with none, the proof for a new goal."""
    before = -1
    while answer.goal and before < answer.size <= held.size:
        before = answer.size
        entries = tuple(_page(held, answer.size))
        proof = held.state.tree.consistency(answer.size + len(entries), held.size)
        answer = await client.offer(
            Offer(checkpoint=held.checkpoint, start=answer.size, entries=entries, proof=tuple(proof))
        )
    return answer


def _page(held: Held, start: int) -> Iterator[Entry]:
    size = 0
    for index in range(start, min(held.size, start + _PAGE)):
        entry = Entry(leaf=held.leaf(index), payload=held.payload(index))
        size += len(entry.leaf) + len(entry.payload or b"")
        if size > _PAGE_BYTES and index > start:
            return
        yield entry


async def _payloads(client: Client, held: Held, answer: OfferAnswer) -> OfferAnswer:
    """Offer the payloads that lack and are held here, through all that the coordinator lists."""
    start = 0
    for _ in range(_ROUNDS):
        if not answer.goal:
            break
        answer = await client.offer(Offer(checkpoint=held.checkpoint, start=start))
        lacks = sorted({index for index in answer.lacks if start <= index < held.size})
        if not lacks:
            break
        for payloads in _parts([(index, held.payload(index)) for index in lacks]):
            answer = await client.offer(Offer(checkpoint=held.checkpoint, start=0, payloads=payloads))
        start = lacks[-1] + 1
    return answer


def _parts(found: Sequence[tuple[int, bytes | None]]) -> Iterator[tuple[HeldPayload, ...]]:
    """Part payloads into requests of a bounded size."""
    part: list[HeldPayload] = []
    size = 0
    for index, payload in found:
        if payload is None:
            continue
        if part and size + len(payload) > _PAGE_BYTES:
            yield tuple(part)
            part, size = [], 0
        part.append(HeldPayload(index=index, payload=payload))
        size += len(payload)
    if part:
        yield tuple(part)
