"""Write log entries as the files that `ssh-keygen -Y verify` takes, so that anyone can check them without this program.

It must never export what this machine has not verified itself.
"""

import shlex
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
    allowed, check = _entry(mirror, index, folder, "payload.json")
    write_atomic(folder / "allowed_signers", allowed.encode(), mode=0o644)
    return check


def export_log(mirror: Mirror, folder: Path) -> str:
    """Write every entry as such files under ``entries``, the checkpoint, and ``verify.sh``; give the command to run.

    Raises: UserError.
    """
    allowed: dict[str, None] = {}
    checks = []
    for index in range(mirror.size):
        line, check = _entry(mirror, index, folder, f"entries/{index:06}.json")
        allowed[line] = None
        checks.append(check)
    script = [
        "#!/bin/sh",
        "# Each line checks one entry's signature; the first that does not hold ends it.",
        "set -e",
        'cd "$(dirname "$0")"',
        *checks,
        "",
    ]
    write_atomic(folder / "allowed_signers", "".join(allowed).encode(), mode=0o644)
    write_atomic(folder / "checkpoint", mirror.checkpoint, mode=0o644)
    write_atomic(folder / "verify.sh", "\n".join(script).encode(), mode=0o755)
    return "sh verify.sh"


def _entry(mirror: Mirror, index: int, folder: Path, name: str) -> tuple[str, str]:
    """Write payload and signature; give the line for ``allowed_signers``, and the command that checks them."""
    payload = mirror.payload(index)
    if payload is None:
        raise UserError(f"the payload of entry {index} is not held here")
    blob = Leaf.unpack(mirror.leaf(index)).sshsig
    signature = sshsig.parse(blob)
    who = mirror.entry(index).principal or NOBODY
    write_atomic(folder / name, payload, mode=0o644)
    write_atomic(folder / f"{name}.sig", sshsig.armor(blob).encode(), mode=0o644)
    # ssh-keygen(1), ALLOWED SIGNERS: principals, options, key type and key.
    allowed = f'{who} namespaces="{signature.namespace}" {signature.key.text}\n'
    verify = f"ssh-keygen -Y verify -f allowed_signers -I {shlex.quote(who)} -n '{signature.namespace}'"
    return allowed, f"{verify} -s {name}.sig < {name}"
