"""What a release brings to which device: its lines, read from the store once and kept while they are in use."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from nixfleet.model.ids import Digest, Tags
from nixfleet.model.statements import Closure, Release, TargetLine
from nixfleet.model.wire import LineAnswer
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.faults import Unknown
from nixfleet.server.store import Store
from nixfleet.trust.lines import LineTree, decode_line
from nixfleet.trust.replay import closure_for

_KEPT = 16


@dataclass(frozen=True, slots=True)
class ReleaseLines:
    """A release with its lines; `tree` and `lines` belong to releases with targets."""

    digest: str
    statement: Release
    tree: LineTree | None
    lines: dict[str, TargetLine]

    def line_for(self, device: str, tags: Tags) -> TargetLine | Closure | None:
        """Give what a device gets, None when the release has nothing for it; the first matching selector wins."""
        if self.statement.targets is not None:
            return self.lines.get(device)
        return closure_for(self.statement, tags)

    def answer(self, device: str) -> LineAnswer:
        """Prove a device's own target line, or that it has none. Raises: Unknown for a release without device lines."""
        if self.tree is None:
            raise Unknown("the release has no device lines")
        if self.tree.index_of(device) is None:
            return LineAnswer(absence=self.tree.absence(device))
        return LineAnswer(line=self.tree.proof(device))


class Releases:
    """The newest used releases by digest."""

    def __init__(self, store: Store, log: LogKeeper) -> None:
        self._store = store
        self._log = log
        self._kept: OrderedDict[str, ReleaseLines] = OrderedDict()
        self._reading = asyncio.Lock()

    async def get(self, digest: str) -> ReleaseLines:
        """Give a release with its lines. Raises: Unknown."""
        held = self._kept.get(digest)
        if held is None:
            async with self._reading:  # a whole fleet asks at once: it is read for the first, and found by the others
                held = self._kept.get(digest) or await self._read(digest)
        self._kept[digest] = held
        self._kept.move_to_end(digest)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return held

    async def _read(self, digest: str) -> ReleaseLines:
        record = self._log.state.releases.get(Digest(digest))
        if record is None:
            raise Unknown(f"there is no release {digest[:12]}")
        tree, lines = None, {}
        if record.statement.targets is not None:
            tree = LineTree.from_texts(await self._store.log.lines(digest))
            lines = {line.device: line for line in (decode_line(text.encode()) for text in tree.texts)}
        read = self._kept[digest] = ReleaseLines(digest, record.statement, tree, lines)
        return read
