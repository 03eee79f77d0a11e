"""A release's device lines under one Merkle root: each agent fetches its own line and proof (trust.md, Statements).

A leaf is a line's exact text. Lines are sorted by device and one per device, so that having none is provable too: by
the two lines between which it would stand. It must never trust a line for a device other than the one that asks, nor
anybody's word that there is none.
"""

import bisect
import itertools
from collections.abc import Sequence
from typing import Self

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import DeviceId
from nixfleet.model.statements import TargetLine, Targets
from nixfleet.model.wire import LineAbsence, LineProof
from nixfleet.trust.merkle import Tree, leaf_hash, verify_inclusion
from nixfleet.trust.statements import strict_decode, strict_encode

LINE_BYTES_MAX = 1_024
LINES_MAX = 100_000


def encode_line(line: TargetLine) -> bytes:
    """Write a line's exact bytes. Raises: UserError."""
    data = strict_encode(line)
    if len(data) > LINE_BYTES_MAX:
        raise UserError(f"a target line is larger than {LINE_BYTES_MAX} bytes")
    return data


def decode_line(data: bytes) -> TargetLine:
    """Read a line. Raises: Malformed."""
    return strict_decode(data, TargetLine, max_bytes=LINE_BYTES_MAX)


class LineTree:
    """All device lines of a release, sorted by device id, one per id."""

    def __init__(self, lines: Sequence[TargetLine]) -> None:
        """Sort and hash the lines. Raises: UserError for none, too many, or two of one device."""
        ordered = sorted(lines, key=lambda line: line.device)
        self._fill([(DeviceId(line.device), encode_line(line)) for line in ordered])

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> Self:
        """Take lines as exact texts, as submitted. Raises: UserError unless strictly sorted; Malformed."""
        encoded = [text.encode(errors="surrogatepass") for text in texts]
        tree = cls.__new__(cls)
        LineTree._fill(tree, [(DeviceId(decode_line(data).device), data) for data in encoded])
        return tree

    def _fill(self, lines: Sequence[tuple[DeviceId, bytes]]) -> None:
        if not 0 < len(lines) <= LINES_MAX:
            raise UserError(f"a release has 1 to {LINES_MAX} device lines, not {len(lines)}")
        for (before, _), (after, _) in itertools.pairwise(lines):
            if before >= after:
                raise UserError(f"the lines are not sorted by device, or have two for {after}")
        self.texts = tuple(data.decode() for _, data in lines)
        self.devices = tuple(device for device, _ in lines)
        self._index = {device: index for index, device in enumerate(self.devices)}
        self._tree = Tree()
        for _, data in lines:
            self._tree.append(data)

    @property
    def targets(self) -> Targets:
        """What the release statement carries: the number of lines and the root over them."""
        return Targets(size=len(self.texts), root=self._tree.root().hex())

    @property
    def size(self) -> int:
        """How many lines there are."""
        return len(self.texts)

    @property
    def root(self) -> bytes:
        """The 32-byte root over the lines."""
        return self._tree.root()

    def index_of(self, device: str) -> int | None:
        """Return the place of a device's line, None when it has none."""
        return self._index.get(DeviceId(device))

    def proof(self, device: str) -> LineProof:
        """Return a device's line with its place and its inclusion proof. Raises: UserError without a line."""
        index = self.index_of(device)
        if index is None:
            raise UserError(f"the release has no line for device {device}")
        return self._proven(index)

    def absence(self, device: str) -> LineAbsence:
        """Return the neighbours between which a device's line would stand. Raises: UserError when it has one."""
        if self.index_of(device) is not None:
            raise UserError(f"the release has a line for device {device}")
        place = bisect.bisect_left(self.devices, DeviceId(device))
        return LineAbsence(
            left=self._proven(place - 1) if place > 0 else None,
            right=self._proven(place) if place < self.size else None,
        )

    def _proven(self, index: int) -> LineProof:
        hashes = tuple(self._tree.inclusion(index, self.size))
        return LineProof(line=self.texts[index], index=index, size=self.size, hashes=hashes)


def verify_line(proof: LineProof, targets: Targets, device: str) -> TargetLine:
    """Return a device's own line, proven to be part of the signed release. Raises: Untrusted."""
    line = _included(proof, targets)
    if line.device != device:
        raise Untrusted(f"the line is for device {line.device}, not for this one")
    return line


def verify_absence(absence: LineAbsence, targets: Targets, device: str) -> None:
    """Accept that a release has no line for a device, proven by the lines around its place. Raises: Untrusted."""
    left, right = absence.left, absence.right
    # The place is at an end of the lines, or between two that follow each other: nothing fits in between. A release
    # has a line, so no neighbour at all is a gap too.
    after = left.index + 1 if left is not None else 0
    before = right.index if right is not None else targets.size
    if after != before:
        raise Untrusted("the lines that are to prove that there is none for this device are not next to each other")
    for proof, is_left in ((left, True), (right, False)):
        if proof is None:
            continue
        other = _included(proof, targets).device
        if not (other < device if is_left else device < other):
            raise Untrusted(f"the line for device {other} does not prove that there is none for this one")


def _included(proof: LineProof, targets: Targets) -> TargetLine:
    """Read a line that the signed release has at this place. Raises: Untrusted."""
    if proof.size != targets.size:
        raise Untrusted(f"the line's proof is for {proof.size} lines, the release has {targets.size}")
    data = proof.line.encode(errors="surrogatepass")
    verify_inclusion(leaf_hash(data), proof.index, proof.size, proof.hashes, bytes.fromhex(targets.root))
    return decode_line(data)
