"""What a console reads and acts through: a client, the verified log, and a signer, put together in one place."""

from collections.abc import Callable
from pathlib import Path

from nixfleet.client.admin import Admin
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.model.ids import Fingerprint
from nixfleet.trust.signers import Signer
from nixfleet.tui.acting import AdminActs
from nixfleet.tui.adapter import ClientSource, MirrorVerifier
from nixfleet.tui.authority import LogAuthority
from nixfleet.tui.ports import Ports


def ports_of(
    client: Client, mirror: Mirror, signer: Signer, *, clock: Callable[[], int], exports: Path, memory: Path
) -> Ports:
    """Give what stands behind a console; `clock` gives unix seconds, `exports` is where exported entries go.

    `memory` is the file in which previews keep what caches told of paths.
    """
    admin, fingerprint = Admin(client, mirror, signer, clock), Fingerprint(signer.key.fingerprint)
    return Ports(
        source=ClientSource(client, mirror, memory),
        acts=AdminActs(client, admin, signer=fingerprint, clock=clock, memory=memory),
        verifier=MirrorVerifier(client, mirror, exports=exports),
        authority=LogAuthority(mirror, signer=fingerprint, clock=clock),
    )
