"""Who this device is: its id, its key, the fleet it is pinned to, and the installation it is bound to.

Written once and never changed silently: a key path that settings change later is an error, and another machine-id
(a cloned disk) makes a new identity that must be enrolled, instead of two machines that fight over one.
The secret key is read from its file when needed; it must never enter the record, a log line or an error.
"""

import os
import secrets
from pathlib import Path

import msgspec

from nixfleet.agent.host import Host
from nixfleet.agent.journal import load
from nixfleet.agent.settings import Settings, pinned
from nixfleet.config import write_atomic
from nixfleet.errors import UserError
from nixfleet.model.device import JoinToken
from nixfleet.model.statements import LogState
from nixfleet.trust import token as tokens
from nixfleet.trust.sshsig import SecretKey

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
OWN_KEY = "device_key"
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


def establish(host: Host, settings: Settings) -> tuple[Identity, SecretKey, JoinToken | None]:
    """Read the identity, or make it on first start; the token is given as long as its file is there.

    Raises:
        UserError: nothing pins a fleet, a file cannot be read, or settings contradict what was recorded.

    """
    folder = Path(settings.state_dir)
    token = read_token(host, settings)
    found = load(folder / "identity.json", Identity)
    if found is None:
        found = _first(host, settings, token)
        write_atomic(folder / "identity.json", msgspec.json.encode(found))
    _check_unchanged(found, settings)
    if found.machine_id and not host.machine_id():
        # No id is no other id: a file that is late or lost must not cost the device its membership.
        raise UserError("/etc/machine-id is missing or empty: whether this is the machine that joined cannot be told")
    if found.machine_id and found.machine_id != host.machine_id():
        found = _cloned(host, folder, found)
        write_atomic(folder / "identity.json", msgspec.json.encode(found))
    return found, read_key(host, found), token


def pin(folder: Path, found: Identity, state: LogState | None) -> Identity:
    """Record a verified state of the log that is newer than the pinned one. Raises: UserError."""
    if state is None or state.size <= found.pin.size:
        return found
    found = msgspec.structs.replace(found, pin=state)
    write_atomic(folder / "identity.json", msgspec.json.encode(found))
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
    place = _key_place(host, identity.key_file)
    try:
        return SecretKey.from_openssh(place.read_text())
    except OSError as error:
        raise UserError(
            f"{identity.key_file}: {error.strerror or error}; it is the key this device is known by"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{identity.key_file}: not an OpenSSH private key") from error
    except UserError as error:
        raise UserError(f"{identity.key_file}: {error}") from error


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
    key_file = settings.key_file or HOST_KEY
    if token is not None and settings.key_file is None:
        # Images clone host keys: a device that joins by token makes a key of its own.
        key_file = str(Path(settings.state_dir) / OWN_KEY)
        _make_key(Path(key_file))
    return Identity(
        device=secrets.token_hex(16),
        fleet=fleet,
        pin=state,
        key_file=key_file,
        machine_id=host.machine_id(),
        urls=urls,
    )


def _check_unchanged(found: Identity, settings: Settings) -> None:
    if settings.key_file is not None and settings.key_file != found.key_file:
        raise UserError(
            f"agent.toml names the key {settings.key_file}, but this device is known by {found.key_file};"
            f" change it back, or move {settings.state_dir} away and join anew"
        )
    if settings.fleet is not None and settings.fleet != found.fleet:
        raise UserError(
            f"agent.toml names the fleet {settings.fleet[:12]}…, but this device belongs to {found.fleet[:12]}…;"
            f" change it back, or move {settings.state_dir} away and join anew"
        )


def _cloned(host: Host, folder: Path, found: Identity) -> Identity:
    """Become somebody else: the disk was copied into another machine, and the first one keeps its identity."""
    key_file = found.key_file
    if Path(key_file).parent == folder:
        key_file = str(folder / f"{OWN_KEY}-{secrets.token_hex(4)}")
        _make_key(Path(key_file))
    return msgspec.structs.replace(
        found,
        device=secrets.token_hex(16),
        key_file=key_file,
        machine_id=host.machine_id(),
        clone_of=found.device,
    )


def _make_key(path: Path) -> None:
    if not os.path.lexists(path):
        write_atomic(path, SecretKey.generate().to_openssh().encode())


def _key_place(host: Host, key_file: str) -> Path:
    """Find the key's file; only the host key moves with a test's root, a state folder is given as it is."""
    return host.at(key_file) if key_file == HOST_KEY else Path(key_file)
