"""The agent's link against whoever answers for its coordinator: what is given to whom."""

from pathlib import Path

import pytest
from tests.factories import Fleet, device_id, key
from tests.httpd import Answer, Asked, httpd, refusal

from nixfleet.agent.link import Link, NotAdmitted
from nixfleet.client.mirror import Mirror
from nixfleet.model.wire import Entry, Sync
from nixfleet.trust.note import Checkpoint, origin, sign_checkpoint

NAME = "web-01"


class Unknowing:
    """A coordinator, or somebody in its place, that knows no device; it keeps what it is offered."""

    def __init__(self, checkpoint: bytes) -> None:
        """Show this checkpoint."""
        self.checkpoint = checkpoint
        self.offered: list[bytes] = []

    def __call__(self, asked: Asked) -> Answer:
        """Answer one request."""
        if asked.path == "/v1/checkpoint":
            return Answer(self.checkpoint, kind="text/plain")
        if asked.path == "/v1/log/offers":
            self.offered.append(asked.body)
            return Answer(b'{"size": 1, "goal": 3}')
        return refusal("untrusted", "the key is not known here", status=401)


def checkpoint(fleet: Fleet, size: int, by: str = "", *, of: Fleet | None = None) -> bytes:
    """Sign a checkpoint over the first entries, by the log key or another one, of this history or another."""
    root = (of or fleet).tree.root(size)
    signer = key(by) if by else fleet.log_key
    return sign_checkpoint(Checkpoint(origin(fleet.fleet, fleet.epoch), size, root), signer)


@pytest.mark.parametrize(
    ("who", "gets"),
    [("an old backup", True), ("somebody on the way", False), ("a fork", False), ("the present", False)],
)
async def test_what_was_lost_is_told_to_a_true_old_backup_alone(tmp_path: Path, who: str, *, gets: bool) -> None:
    """A device that is not known offers its log to a coordinator that proves to have had a part of it, to none else."""
    fleet, fork = Fleet(), Fleet()
    for name in (NAME, "web-02"):
        fleet.device(name)
    fork.device("web-09")
    mirror = Mirror.open(tmp_path / "log", fleet.fleet, device=device_id(NAME))
    mirror.extend(fleet.checkpoint, 0, [Entry(leaf=leaf, payload=payload) for leaf, payload in fleet.entries])
    shown = {
        "an old backup": checkpoint(fleet, 2),
        "somebody on the way": checkpoint(fleet, 2, "mallory"),
        "a fork": checkpoint(fleet, 2, of=fork),
        "the present": checkpoint(fleet, 3),
    }
    server = Unknowing(shown[who])

    async def nothing(_: Sync) -> None:
        """Begin no update."""

    async with httpd(server) as served:
        link = Link(
            mirror=mirror,
            urls=(served.url,),
            clock=lambda: fleet.now,
            poll_s=60,
            key=lambda: key(NAME),
            admit=lambda link: link.sync(),
            synced=nothing,
            distrusted=lambda: None,
        )
        try:
            with pytest.raises(NotAdmitted, match="does not admit this device"):
                await link.session()
        finally:
            await link.close()
    assert gets == bool(server.offered)
