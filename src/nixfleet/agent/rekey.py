"""A new key for this device, by the old one's signature: made beside, entered in the log, and only then used.

Whatever a crash leaves behind, the next start goes on: the new key's path is recorded before the old key signs, and
which of the two is in force is what the log says. It must never give up the old key before the log has the new one.
"""

import logging
from pathlib import Path

import msgspec

from nixfleet.agent import identity as identities
from nixfleet.agent.host import Host
from nixfleet.agent.identity import Identity
from nixfleet.agent.journal import load
from nixfleet.agent.settings import Settings
from nixfleet.errors import UserError
from nixfleet.model.statements import LogState
from nixfleet.model.wire import Submission
from nixfleet.trust import reports, statements
from nixfleet.trust.replay import State
from nixfleet.trust.sshsig import SecretKey

log = logging.getLogger("nixfleet.agent")


def begin(folder: Path, found: Identity, settings: Settings) -> Identity:
    """Make the new key and record it; one that was begun is gone on with. Raises: UserError."""
    if settings.key_file is not None:
        raise UserError(
            f"agent.toml names the key {settings.key_file}: take key_file out of it first, and this device keeps a new"
            " key in its state folder"
        )
    if found.next_key_file:
        return found
    found = msgspec.structs.replace(found, next_key_file=identities.new_key(folder))
    identities.write(folder, found)
    return found


def next_key(host: Host, found: Identity) -> SecretKey | None:
    """Read the key that is to come, None when there is none. Raises: UserError."""
    return identities.read_key_file(host, found.next_key_file) if found.next_key_file else None


def statement(state: State, base: LogState, found: Identity, old: SecretKey, new: SecretKey, *, now: int) -> Submission:
    """Write this device's next version with the new key, signed by the old one; nothing else may change."""
    before = state.devices[found.device].statement
    made = msgspec.structs.replace(
        before,
        by=old.public.fingerprint,
        at=max(now, state.last_time),
        base=base,
        note=None,
        version=before.version + 1,
        key=new.public.text,
    )
    payload = statements.encode(made)
    signature = old.sign(statements.namespace_of(made), payload)
    return Submission(payload=payload, signature=signature, proof=reports.prove_key(made, new))


def adopt(folder: Path, key: SecretKey) -> None:
    """Record that the new key is in force, then let go of the old one, unless it is ssh's. Raises: UserError."""
    found = load(folder / identities.IDENTITY, Identity)
    assert found is not None, "a device that changes its key has an identity"
    old = Path(found.key_file)
    changed = {"key_file": found.next_key_file, "key": key.public.fingerprint, "next_key_file": ""}
    identities.write(folder, msgspec.structs.replace(found, **changed))
    if old.parent == folder:
        try:
            old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s, a key that is worth nothing now, stays: %s", old, error.strerror or error)


def note(folder: Path, key: SecretKey) -> None:
    """Record the key that the log has for this device, where an admin gave it another in the same file."""
    found = load(folder / identities.IDENTITY, Identity)
    if found is not None and found.key != key.public.fingerprint:
        identities.write(folder, msgspec.structs.replace(found, key=key.public.fingerprint))
