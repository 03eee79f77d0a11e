"""The append-only Merkle tree of the log (RFC 6962 section 2; RFC 9162 section 2.1 for the verifiers).

Hashes and roots are 32 raw bytes (SHA-256). It must never hash a leaf as a node: the prefixes keep them apart.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from nixfleet.errors import Untrusted
from nixfleet.model.ids import MAX_INT

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
_HASH_BYTES: Final = 32
_sha256: Final = hashlib.sha256


def leaf_hash(leaf: bytes) -> bytes:
    """Hash a leaf's content (RFC 6962: prefix 0x00)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees into their parent (RFC 6962: prefix 0x01)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def _fold(peaks: Sequence[bytes | bytearray]) -> bytes:
    """Join the roots of complete subtrees, largest first, into the root over all of them."""
    if not peaks:
        return EMPTY_ROOT
    root = bytes(peaks[-1])
    for peak in peaks[-2::-1]:
        root = _sha256(b"\x01" + peak + root).digest()
    return root


class Tree:
    """A growing tree that answers for every size it ever had, in O(log n) and 64 bytes a leaf."""

    __slots__ = ("_asked", "_levels")

    def __init__(self) -> None:
        # _levels[k] holds the hashes of all complete subtrees of 2^k leaves, one after the other.
        self._levels: list[bytearray] = [bytearray()]
        # Statements signed together name one base, so its root is asked for many times in a row.
        self._asked = (0, EMPTY_ROOT)

    @property
    def size(self) -> int:
        """How many leaves the tree has."""
        return len(self._levels[0]) // _HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Add a leaf by its content."""
        self.append_hash(leaf_hash(leaf))

    def append_hash(self, digest: bytes) -> None:
        """Add a leaf by its leaf hash."""
        assert len(digest) == _HASH_BYTES
        index, level = self.size, 0
        while True:
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += digest
            if not index & 1:
                return
            digest = node_hash(self._at(level, index - 1), digest)
            index >>= 1
            level += 1

    def _at(self, level: int, index: int) -> bytes:
        return bytes(self._levels[level][index * _HASH_BYTES : (index + 1) * _HASH_BYTES])

    def _range(self, start: int, end: int) -> bytes:
        """Hash leaves [start, end), where start is a multiple of the largest power of two in the range."""
        peaks: list[bytearray] = []
        levels = self._levels  # the loop is hot: every statement names a base, whose root is computed
        while start < end:
            level = (end - start).bit_length() - 1
            at = (start >> level) * _HASH_BYTES
            peaks.append(levels[level][at : at + _HASH_BYTES])
            start += 1 << level
        return _fold(peaks)

    def root(self, size: int | None = None) -> bytes:
        """Return the root now, or as it was at an earlier size."""
        size = self.size if size is None else size
        assert 0 <= size <= self.size
        if self._asked[0] != size:
            self._asked = (size, self._range(0, size))
        return self._asked[1]

    def frontier(self) -> "Frontier":
        """Return what is needed to go on from here without the tree."""
        peaks, start = [], 0
        for level in reversed(range(self.size.bit_length())):
            if self.size >> level & 1:
                peaks.append(self._at(level, start >> level))
                start += 1 << level
        return Frontier(self.size, tuple(peaks))

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Prove that the leaf at `index` is in the tree of `size` leaves (RFC 6962 section 2.1.1)."""
        assert 0 <= index < size <= self.size
        proof: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                proof.append(self._range(middle, end))
                end = middle
            else:
                proof.append(self._range(start, middle))
                start = middle
        proof.reverse()
        return proof

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Prove that the tree of `new` leaves extends the one of `old` (RFC 6962 section 2.1.2)."""
        assert 0 <= old <= new <= self.size
        if old in {0, new}:
            return []
        proof: list[bytes] = []
        start, end, whole = 0, new, True
        while old != end:
            middle = start + _split(end - start)
            if old <= middle:
                proof.append(self._range(middle, end))
                end = middle
            else:
                proof.append(self._range(start, middle))
                start, whole = middle, False
        if not whole:  # the verifier knows the old root itself, not this part of it
            proof.append(self._range(start, end))
        proof.reverse()
        return proof


def _split(count: int) -> int:
    """Return the largest power of two below `count` (RFC 6962: k < n ≤ 2k)."""
    return 1 << ((count - 1).bit_length() - 1)


@dataclass(frozen=True, slots=True)
class Frontier:
    """What is needed to append and to know the root: the complete subtrees' roots, largest first; immutable."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.peaks) == self.size.bit_count()

    def append(self, leaf: bytes) -> Self:
        """Return the frontier with one more leaf, given by its content."""
        return self.append_hash(leaf_hash(leaf))

    def append_hash(self, digest: bytes) -> Self:
        """Return the frontier with one more leaf, given by its leaf hash."""
        peaks = list(self.peaks)
        size = self.size
        while size & 1:
            digest = node_hash(peaks.pop(), digest)
            size >>= 1
        peaks.append(digest)
        return type(self)(self.size + 1, tuple(peaks))

    def root(self) -> bytes:
        """Return the root over all leaves so far."""
        return _fold(self.peaks)


def verify_inclusion(digest: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that a leaf hash stands at `index` under `root` (RFC 9162 section 2.1.3.2). Raises: Untrusted."""
    if not 0 <= index < size <= MAX_INT:
        raise Untrusted(f"no leaf {index} in a tree of {size}")
    computed = digest
    for sibling, on_left in _climb(index, size - 1, proof):
        computed = node_hash(sibling, computed) if on_left else node_hash(computed, sibling)
    if computed != root:
        raise Untrusted("the inclusion proof does not lead to the root")


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the new tree extends the old one (RFC 9162 section 2.1.4.2). Raises: Untrusted."""
    if not 0 <= old_size <= new_size <= MAX_INT:
        raise Untrusted(f"a log of {new_size} entries does not extend one of {old_size}")
    if old_size in {0, new_size}:
        # Every tree extends the empty one; a tree extends itself: neither needs a proof.
        expected = new_root if old_size == new_size else EMPTY_ROOT
        if proof or old_root != expected or (new_size == 0 and new_root != EMPTY_ROOT):
            raise Untrusted("the log was rewritten: its root does not fit the one known before")
        return
    # Where the old tree is one complete subtree, the proof leaves out its root.
    path = [old_root, *proof] if old_size.bit_count() == 1 else list(proof)
    if not path or len(path[0]) != _HASH_BYTES:
        raise Untrusted("the consistency proof does not begin with a hash")
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place >>= 1
        last >>= 1
    old = new = path[0]
    for sibling, on_left in _climb(place, last, path[1:]):
        if on_left:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
        else:
            new = node_hash(new, sibling)
    if old != old_root or new != new_root:
        raise Untrusted("the log was rewritten: its root does not extend the one known before")


def _climb(place: int, last: int, proof: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Walk from a node to the root: yield each sibling and whether it stands on the left (RFC 9162)."""
    for sibling in proof:
        if last == 0:
            raise Untrusted("a proof is too long")
        if len(sibling) != _HASH_BYTES:
            raise Untrusted("a proof has a malformed hash")
        on_left = bool(place & 1) or place == last
        yield sibling, on_left
        # At the right edge, levels without a sibling are skipped: there the node is its own parent.
        while on_left and place and not place & 1:
            place >>= 1
            last >>= 1
        place >>= 1
        last >>= 1
    if last != 0:
        raise Untrusted("a proof is too short")
