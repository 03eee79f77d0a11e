"""Who this device is: its id, its key, the fleet it is pinned to, and the installation it is bound to.

Written once and never changed silently: a key path that settings change later is an error, and another machine-id
(a cloned disk) makes a new identity that must be enrolled, instead of two machines that fight over one.
The secret key is read from its file when needed; it must never enter the record, a log line or an error.
"""

import os
import secrets
import shutil
from pathlib import Path

import msgspec

from nixfleet.agent.host import Host
from nixfleet.agent.journal import load
from nixfleet.agent.settings import Settings, pinned
from nixfleet.config import sync_folder, write_atomic
from nixfleet.errors import UserError
from nixfleet.model.device import JoinToken
from nixfleet.model.statements import LogState
from nixfleet.trust import token as tokens
from nixfleet.trust.sshsig import SecretKey

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
OWN_KEY = "device_key"
IDENTITY = "identity.json"
REPLACING = "replacing.json"
MAX_TOKEN_BYTES = 16 << 10


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The recorded identity."""

    v: int = 1
    device: str
    """128 random bits as hex."""
    fleet: str
    pin: LogState
    """A state of the log that every later one must extend."""
    key_file: str
    machine_id: str = ""
    urls: tuple[str, ...] = ()
    """Addresses out of the token."""
    clone_of: str = ""
    """The device id that this disk had before it was found in another machine."""
    key: str = ""
    """The key's fingerprint when it was chosen; empty where an older agent wrote this."""
    overruled: str = ""
    """The fleet that agent.toml named when root on this device joined another one; empty when it named none."""
    next_key_file: str = ""
    """A new key that the log is to have in place of the present one (`agent.rekey`); empty when there is none."""


def establish(
    host: Host, settings: Settings, given: JoinToken | None = None
) -> tuple[Identity, SecretKey, JoinToken | None]:
    """Read the identity, or make it on first start; the token is `given`, or read as long as its file is there.

    Raises:
        UserError: nothing pins a fleet, a file cannot be read, or settings contradict what was recorded.

    """
    folder = Path(settings.state_dir)
    token = given or read_token(host, settings)
    finish_replacing(folder)
    found = load(folder / IDENTITY, Identity)
    if found is None:
        found = _first(host, settings, token)
        write(folder, found)
    _check_unchanged(found, settings)
    if found.machine_id and not host.machine_id():
        # No id is no other id: a file that is late or lost must not cost the device its membership.
        raise UserError("/etc/machine-id is missing or empty: whether this is the machine that joined cannot be told")
    if found.machine_id and found.machine_id != host.machine_id():
        found = _cloned(host, settings, found)
        write(folder, found)
    return found, read_key(host, found), token


def write(folder: Path, found: Identity) -> None:
    """Record who this device is. Raises: UserError."""
    write_atomic(folder / IDENTITY, msgspec.json.encode(found))


def pin(folder: Path, found: Identity, state: LogState | None) -> Identity:
    """Record a verified state of the log that is newer than the pinned one. Raises: UserError."""
    if state is None or state.size <= found.pin.size:
        return found
    found = msgspec.structs.replace(found, pin=state)
    write(folder, found)
    return found


def effective(settings: Settings, identity: Identity) -> Settings:
    """Fill in what the identity recorded, so that a new system's settings are compared with what is in force."""
    return msgspec.structs.replace(settings, fleet=identity.fleet, key_file=identity.key_file)


def read_token(host: Host, settings: Settings) -> JoinToken | None:
    """Read the token file; after joining it may be gone. Raises: UserError, which never quotes the token."""
    if settings.token_file is None:
        return None
    try:
        data = host.at(settings.token_file).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{settings.token_file}: {error.strerror or error}") from error
    if len(data) > MAX_TOKEN_BYTES:
        raise UserError(f"{settings.token_file}: larger than {MAX_TOKEN_BYTES} bytes")
    try:
        return tokens.read(data.decode("ascii", "replace"))
    except UserError as error:
        raise UserError(f"{settings.token_file}: {error}") from error


def read_key(host: Host, identity: Identity) -> SecretKey:
    """Read the device's secret key. Raises: UserError, which names the file and nothing of its content."""
    return read_key_file(host, identity.key_file)


def read_key_file(host: Host, key_file: str) -> SecretKey:
    """Read a secret key's file. Raises: UserError, which names the file and nothing of its content."""
    try:
        return SecretKey.from_openssh(_key_place(host, key_file).read_text())
    except OSError as error:
        raise UserError(f"{key_file}: {error.strerror or error}; it is the key this device is known by") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{key_file}: not an OpenSSH private key") from error
    except UserError as error:
        raise UserError(f"{key_file}: {error}") from error


def _first(host: Host, settings: Settings, token: JoinToken | None) -> Identity:
    pin = pinned(settings)
    urls: tuple[str, ...] = ()
    if settings.fleet is not None and token is not None and token.fleet != settings.fleet:
        raise UserError("the token is of another fleet than agent.toml names; remove one of the two")
    if settings.fleet is not None and pin is not None:
        fleet, state = settings.fleet, LogState(size=pin[0], root=pin[1])
    elif token is not None:
        fleet, state, urls = token.fleet, token.log, token.urls
    else:
        # A device never trusts on first use (trust.md, Log).
        raise UserError("no fleet is pinned: set token_file, or fleet and checkpoint (and urls), in agent.toml")
    return made(host, settings, fleet, state, urls, by_token=token is not None)


def made(
    host: Host, settings: Settings, fleet: str, pin: LogState, urls: tuple[str, ...], *, by_token: bool
) -> Identity:
    """Make a new identity, and the key it needs. Raises: UserError."""
    key_file = settings.key_file or HOST_KEY
    if by_token and settings.key_file is None:
        # Images clone host keys: a device that joins by token makes a key of its own.
        key_file = new_key(Path(settings.state_dir))
    return Identity(
        device=secrets.token_hex(16),
        fleet=fleet,
        pin=pin,
        key_file=key_file,
        machine_id=host.machine_id(),
        urls=urls,
        key=read_key_file(host, key_file).public.fingerprint,
    )


def _check_unchanged(found: Identity, settings: Settings) -> None:
    if settings.key_file is not None and settings.key_file != found.key_file:
        raise UserError(
            f"agent.toml names the key {settings.key_file}, but this device is known by {found.key_file};"
            " change it back, or join anew with 'nixfleet agent join --replace'"
        )
    # Root's word on the device counts for more than what agent.toml said then; what it says since is a contradiction.
    if settings.fleet not in {None, found.fleet, found.overruled}:
        raise UserError(
            f"agent.toml names the fleet {settings.fleet[:12]}…, but this device belongs to {found.fleet[:12]}…;"
            " change it back, or join anew with 'nixfleet agent join --replace'"
        )


def _cloned(host: Host, settings: Settings, found: Identity) -> Identity:
    """Become somebody else: the disk was copied into another machine, and the first one keeps its identity.

    The host key was copied with the disk, so the new device has a key of its own whatever it had; a path that
    agent.toml names stays, but not with the first machine's key in it. Raises: UserError.
    """
    key_file = settings.key_file or new_key(Path(settings.state_dir))
    key = read_key_file(host, key_file).public.fingerprint
    if key == found.key:
        raise UserError(
            f"this disk was copied from another machine, and {key_file} holds that one's key: put another key there"
            f" (ssh-keygen -t ed25519 -f {key_file}), or take key_file out of agent.toml"
        )
    return msgspec.structs.replace(
        found,
        device=secrets.token_hex(16),
        key_file=key_file,
        machine_id=host.machine_id(),
        clone_of=found.device,
        key=key,
        next_key_file="",
    )


def new_key(folder: Path) -> str:
    """Make a key in the state folder, under a name that none has there yet; give its path. Raises: UserError."""
    path = folder / OWN_KEY
    while os.path.lexists(path):
        path = folder / f"{OWN_KEY}-{secrets.token_hex(4)}"
    write_atomic(path, SecretKey.generate().to_openssh().encode())
    return str(path)


def replace_by(folder: Path, new: Identity) -> None:
    """Let this device be another one from now on; what it had as the old one is put aside. Raises: UserError."""
    # Once this is written every start goes on from here: no crash leaves the old one's memory with the new one.
    write_atomic(folder / REPLACING, msgspec.json.encode(new))
    finish_replacing(folder)


def finish_replacing(folder: Path) -> None:
    """Go on with a replacement that was begun; every step may be done twice. Raises: UserError."""
    new = load(folder / REPLACING, Identity)
    if new is None:
        return
    old = readable(folder)
    try:
        if old is None or old.device != new.device:
            _put_aside(folder, old)
        write(folder, new)
        (folder / REPLACING).unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be changed: {error.strerror or error}") from error


def readable(folder: Path) -> Identity | None:
    """Read who this device was, for one that is about to be another: None where that is damaged, too."""
    try:
        return load(folder / IDENTITY, Identity)
    except UserError:
        return None


def _put_aside(folder: Path, old: Identity | None) -> None:
    """Move the memory of the device that this one was into a folder of its own; only the last such is kept."""
    own = [Path(old.key_file).name] if old is not None and Path(old.key_file).parent == folder else []
    there = [name for name in ("log", "journal.json", "waits", *own) if (folder / name).exists()]
    if old is None and (folder / IDENTITY).exists():
        there.append(IDENTITY)
    aside = folder / f"before-{old.device[:8] if old is not None else 'unreadable'}"
    if old is None and not there:
        return
    for other in folder.glob("before-*"):
        if other != aside:
            shutil.rmtree(other, ignore_errors=True)
    aside.mkdir(mode=0o700, exist_ok=True)
    if old is not None:
        write(aside, old)
    for name in there:
        if (aside / name).is_dir():
            shutil.rmtree(aside / name, ignore_errors=True)
        (folder / name).replace(aside / name)
    sync_folder(aside)


def _key_place(host: Host, key_file: str) -> Path:
    """Find the key's file; only the host key moves with a test's root, a state folder is given as it is."""
    return host.at(key_file) if key_file == HOST_KEY else Path(key_file)
