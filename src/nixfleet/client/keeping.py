"""Keep the device lines of releases beside a copy of the log: they stand in no log, and go with the coordinator.

It must never keep lines that are not those whose root the release signs.
"""

from nixfleet.client.api import Client
from nixfleet.client.faults import Unknown
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Refused, UserError
from nixfleet.model.statements import TargetLine, Targets
from nixfleet.model.views import ReleaseView
from nixfleet.trust.lines import LineTree


async def keep_lines(client: Client, mirror: Mirror) -> int:
    """Fetch and keep the lines of every release that are not held yet; gives of how many releases.

    Releases whose lines this person may not read in full are left out. Raises: Unreachable, UserError.
    """
    kept = 0
    for digest, record in list(mirror.state.releases.items()):
        targets = record.statement.targets
        if targets is None or mirror.lines(digest) is not None:
            continue
        try:
            texts = texts_of(await client.release(digest), targets)
        except (Unknown, Refused):
            continue
        if texts:
            mirror.keep_lines(digest, texts)
            kept += 1
    return kept


def texts_of(shown: ReleaseView, targets: Targets) -> tuple[str, ...]:
    """Write the lines as they were signed; nothing when they are not those."""
    try:
        tree = LineTree(
            [
                TargetLine(
                    device=line.device, path=line.path, system=line.system, digest=line.digest, nar_size=line.nar_size
                )
                for line in shown.lines
            ]
        )
    except UserError:
        return ()
    return tree.texts if tree.targets == targets else ()
