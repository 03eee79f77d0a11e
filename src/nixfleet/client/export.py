"""Write a log entry as the files that `ssh-keygen -Y verify` takes, so that anyone can check it without this program.

It must never export what this machine has not verified itself.
"""

from pathlib import Path

from nixfleet.client.mirror import Mirror
from nixfleet.config import write_atomic
from nixfleet.errors import UserError
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf

NOBODY = "signer"
"""Who signed, where the log knows no principal for the key."""


def export_entry(mirror: Mirror, index: int, folder: Path) -> str:
    """Write ``payload.json``, its ``.sig`` and ``allowed_signers``; give the command line that checks them there.

    Raises: UserError when the payload is not held, or the folder cannot be written; IndexError.
    """
    payload = mirror.payload(index)
    if payload is None:
        raise UserError(f"the payload of entry {index} is not held here")
    blob = Leaf.unpack(mirror.leaf(index)).sshsig
    signature = sshsig.parse(blob)
    who = mirror.entry(index).principal or NOBODY
    # ssh-keygen(1), ALLOWED SIGNERS: principals, options, key type and key.
    allowed = f'{who} namespaces="{signature.namespace}" {signature.key.text}\n'
    write_atomic(folder / "payload.json", payload, mode=0o644)
    write_atomic(folder / "payload.json.sig", sshsig.armor(blob).encode(), mode=0o644)
    write_atomic(folder / "allowed_signers", allowed.encode(), mode=0o644)
    return (
        f"ssh-keygen -Y verify -f allowed_signers -I {who} -n '{signature.namespace}' -s payload.json.sig"
        " < payload.json"
    )
