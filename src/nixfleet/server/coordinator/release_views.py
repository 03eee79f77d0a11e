"""Releases as people see them, and the names that rollouts go by."""

from collections.abc import Iterable

import msgspec

from nixfleet.errors import UserError
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Rollout, TargetLine
from nixfleet.model.text import clean
from nixfleet.model.views import ReleaseLineView, ReleaseView
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.releases import Releases
from nixfleet.server.faults import Unknown
from nixfleet.trust.lines import LineTree
from nixfleet.trust.replay import ReleaseRecord, principal_of
from nixfleet.trust.replay.reach import EVERYTHING, Reach

_PREFIX_MIN = 6


class ReleaseViews:
    """Makes views of releases."""

    def __init__(self, log: LogKeeper, lines: Releases) -> None:
        self._log = log
        self._lines = lines

    def name_of(self, rollout: Rollout) -> str:
        """Name what a rollout brings."""
        record = self._log.state.releases.get(Digest(rollout.release or ""))
        if record is not None:
            return record.statement.name
        if rollout.of is not None:
            return f"back from {self.name_of(self._log.state.rollouts[Digest(rollout.of)].statement)}"
        return (rollout.release or "")[:12]

    def all(self) -> list[ReleaseView]:
        """Show all releases, newest first, without their lines."""
        return [self.head(record) for record in reversed(self._log.state.releases.values())]

    def head(self, record: ReleaseRecord) -> ReleaseView:
        """Show a release without its lines."""
        statement = record.statement
        return ReleaseView(
            id=record.digest,
            index=record.place.index,
            name=statement.name,
            by=record.place.signer,
            principal=principal_of(self._log.state, record.place.signer),
            at=record.place.log_time,
            note=clean(statement.note or ""),
            targets=statement.targets.size if statement.targets else 0,
            source_url=clean(statement.source.url) if statement.source else "",
            source_rev=clean(statement.source.rev) if statement.source else "",
        )

    def find(self, name: str) -> ReleaseRecord:
        """Find a release by digest, its start, or the newest of a name. Raises: Unknown, UserError."""
        records = self._log.state.releases
        found = records.get(Digest(name)) or next(
            (one for one in reversed(records.values()) if one.statement.name == name), None
        )
        return found or records[Digest(by_prefix(name, records, "release"))]

    async def one(self, found: ReleaseRecord, reach: Reach = EVERYTHING) -> ReleaseView:
        """Show a release with its lines. Raises: Unreachable when they lack.

        A reader gets the lines of the devices that it may read of; of its own release, and by selector, all.
        """
        lines = await self._lines.get(found.digest)
        whole = reach.everything or reach.owns(self._log.state, found.place.signer)
        seen = [line for line in lines.lines.values() if whole or self._may_see(line.device, reach)]
        tree = lines.tree if len(seen) < len(lines.lines) else None
        shown = [self._line(line, tree) for line in seen]
        shown += [
            ReleaseLineView(
                select=line.select,
                path=line.closure.path,
                system=line.closure.system,
                digest=line.closure.digest,
                nar_size=line.closure.nar_size,
            )
            for line in found.statement.lines or ()
        ]
        return msgspec.structs.replace(self.head(found), lines=tuple(shown), partial=tree is not None)

    def _line(self, line: TargetLine, tree: LineTree | None) -> ReleaseLineView:
        """Show a device's line; where others are left out, `tree` proves that it is one of the release's."""
        view = ReleaseLineView(
            device=line.device,
            name=self._device_name(line.device),
            path=line.path,
            system=line.system,
            digest=line.digest,
            nar_size=line.nar_size,
        )
        if tree is None:
            return view
        proof = tree.proof(line.device)
        hashes = tuple(part.hex() for part in proof.hashes)
        return msgspec.structs.replace(view, place=proof.index, proof=hashes)

    def _may_see(self, device: str, reach: Reach) -> bool:
        statement = self._log.device(device)
        return statement is not None and reach.over(statement.tags)

    def _device_name(self, device: str) -> str:
        statement = self._log.device(device)
        return statement.name if statement else ""


def by_prefix(name: str, known: Iterable[str], what: str) -> str:
    """Find the one digest that begins so. Raises: Unknown, UserError when several do."""
    found = [digest for digest in known if len(name) >= _PREFIX_MIN and digest.startswith(name)]
    if not found:
        raise Unknown(f"there is no {what} {name[:64]!r}")
    if len(found) > 1:
        raise UserError(f"{len(found)} {what}s begin with {name}: give more digits")
    return found[0]
