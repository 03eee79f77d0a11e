"""What a release brings to which device: its lines, read from the store once and kept while they are in use."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nixfleet.errors import Unreachable, Untrusted
from nixfleet.model.ids import Digest, Tags
from nixfleet.model.statements import Release, TargetLine
from nixfleet.model.wire import LineAnswer
from nixfleet.server.coordinator.judging import rows_of
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.faults import Unknown
from nixfleet.server.store import Store
from nixfleet.trust.lines import LineTree, decode_line
from nixfleet.trust.replay import closure_for

_log = logging.getLogger(__name__)

_KEPT = 16


class LinesLack(Unreachable):
    """A release's device lines are in no log, and went with the database."""


def _lacking(digest: str) -> str:
    return (
        f"this coordinator ran an old backup and lacks the device lines of release {digest[:12]}: 'nixfleet log"
        " restore' on the machine that published it brings them back; or deploy anew"
    )


@dataclass(frozen=True, slots=True)
class Systems:
    """The store paths alone that a release brings: kept for every rollout there ever was; `paths` by device."""

    statement: Release
    paths: Mapping[str, str]

    @property
    def by_device(self) -> bool:
        """Whether the release has device lines."""
        return self.statement.targets is not None

    def path_for(self, device: str, tags: Tags) -> str | None:
        """Give what a device gets, None when the release has nothing for it; the first matching selector wins."""
        if self.by_device:
            return self.paths.get(device)
        closure = closure_for(self.statement, tags)
        return None if closure is None else closure.path


@dataclass(frozen=True, slots=True)
class ReleaseLines:
    """A release with its lines; `tree` and `lines` belong to releases with targets."""

    digest: str
    statement: Release
    tree: LineTree | None
    lines: dict[str, TargetLine]
    systems: Systems

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
        self.lacks: set[str] = set()
        """Releases whose device lines went with an old backup's newer part: lines stand in no log."""

    async def look(self) -> None:
        """Find out whose device lines lack."""
        lined = await self._store.log.lined()
        releases = self._log.state.releases.items()
        self.lacks = {str(one) for one, record in releases if record.statement.targets is not None} - lined
        for digest in sorted(self.lacks):
            _log.warning("%s", _lacking(digest))

    async def give(self, digest: str, texts: Sequence[str]) -> bool:
        """Take lines that lack; False for lines that nobody asked for. Raises: Untrusted, UserError, Malformed."""
        record = self._log.state.releases.get(Digest(digest))
        if digest not in self.lacks or record is None:
            return False
        tree = LineTree.from_texts(texts)
        if tree.targets != record.statement.targets:
            raise Untrusted(f"these are not the lines of release {digest[:12]}")
        await self._store.log.add_lines(rows_of(digest, tree))
        self.lacks.discard(digest)
        return True

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
            texts = await self._store.log.lines(digest)
            if not texts:
                self.lacks.add(digest)
                raise LinesLack(_lacking(digest))
            tree = LineTree.from_texts(texts)
            lines = {line.device: line for line in (decode_line(text.encode()) for text in tree.texts)}
        systems = Systems(record.statement, {device: line.path for device, line in lines.items()})
        read = self._kept[digest] = ReleaseLines(digest, record.statement, tree, lines, systems)
        return read
