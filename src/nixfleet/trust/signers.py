"""Where an admin's signature comes from: ssh-agent, ssh-keygen, a sealed file, or a key in memory.

With `sshagent` and `passphrase` the only IO in `trust`. Every signer verifies its own signature before it returns it,
so that a confused agent is found here and not in the log. It must never see a passphrase of a key that ssh-keygen or
an agent guards.
"""

import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from nixfleet.errors import Unreachable, Untrusted, UserError
from nixfleet.trust import opensshkey, sshagent, sshsig
from nixfleet.trust.sealed import is_sealed, seal, sealed_public, unseal
from nixfleet.trust.sshsig import PublicKey, SecretKey, Touchless, parse_public_key

__all__ = [
    "AgentSigner",
    "KeygenSigner",
    "MemorySigner",
    "SealedSigner",
    "Signer",
    "find_signer",
    "is_sealed",
    "public_key_of",
    "seal",
    "sealed_public",
    "unseal",
]

_SIGN_LIMIT_S: Final = 120.0
"""Long enough for a touch, a PIN or a confirmation."""
_KEYGEN_LIMIT_S: Final = 300.0
_KEY_FILE_BYTES_MAX: Final = 64 << 10


class Signer(Protocol):
    """Whatever can sign with one key."""

    @property
    def key(self) -> PublicKey:
        """The public key of every signature it makes."""

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Return an SSHSIG blob over the payload; may wait for a person."""


def _checked(blob: bytes, key: PublicKey, namespace: str, payload: bytes) -> bytes:
    """Return a signature that verifies under the key asked for. Raises: Untrusted."""
    try:
        signer = sshsig.verify(blob, payload, namespace)
    except Touchless as error:
        raise Untrusted(
            f"{error}, which nobody accepts: it is a 'no-touch-required' key; use one made without that option"
        ) from error
    if signer != key:
        raise Untrusted(f"signed with {signer.fingerprint} where {key.fingerprint} was asked for")
    return blob


@dataclass(frozen=True, slots=True)
class MemorySigner:
    """Signs with a key in memory."""

    secret: SecretKey

    @property
    def key(self) -> PublicKey:
        """The public key of every signature it makes."""
        return self.secret.public

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Return an SSHSIG blob over the payload."""
        return _checked(self.secret.sign(namespace, payload), self.key, namespace, payload)


@dataclass(slots=True)
class SealedSigner:
    """Signs with a sealed key file, opened once, at the first signature; a session's reads need no passphrase."""

    path: Path
    key: PublicKey
    """As the file says it without its passphrase; opening proves it."""
    data: bytes = field(repr=False)
    passphrase: Callable[[], str] | None = field(repr=False)
    _opened: SecretKey | None = field(default=None, init=False, repr=False)

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Return an SSHSIG blob; may ask for the passphrase. Raises: UserError when that does not open the file."""
        if self._opened is None:
            if self.passphrase is None:
                raise UserError(
                    f"{self.path} is sealed and there is no terminal to ask for its passphrase: name a file with it in"
                    " NIXFLEET_PASSPHRASE_FILE, or as the context's passphrase_file"
                )
            try:
                self._opened = unseal(self.data, self.passphrase())
            except UserError as error:
                raise UserError(f"{self.path}: {error}") from error
        return _checked(self._opened.sign(namespace, payload), self.key, namespace, payload)


@dataclass(frozen=True, slots=True)
class AgentSigner:
    """Signs through an ssh-agent; security keys and confirmations are the agent's to ask for."""

    key: PublicKey
    socket_path: str
    limit_s: float = field(default=_SIGN_LIMIT_S, kw_only=True)

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Return an SSHSIG blob. Raises: UserError when the agent will not, Unreachable, Untrusted."""
        data = sshsig.to_sign(namespace, sshsig.message_digest(payload))
        signature = sshagent.sign(self.socket_path, self.key, data, self.limit_s)
        return _checked(sshsig.pack(self.key, namespace, signature), self.key, namespace, payload)


@dataclass(frozen=True, slots=True, init=False)
class KeygenSigner:
    """Signs by running `ssh-keygen -Y sign`, which asks for passphrase, PIN and touch on the terminal itself."""

    path: Path
    key: PublicKey

    def __init__(self, path: Path) -> None:
        # Frozen: fields are set once, here.
        object.__setattr__(self, "path", path.absolute())
        object.__setattr__(self, "key", _public_of(path, _read_key_file(path)))

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Return an SSHSIG blob. Raises: UserError when ssh-keygen fails, Unreachable after five minutes."""
        # A file, not standard input: with that, ssh-keygen asks no passphrase on the terminal.
        with tempfile.TemporaryDirectory(prefix="nixfleet-sign-") as folder:
            message = Path(folder) / "payload"
            message.write_bytes(payload)
            argv = ["ssh-keygen", "-Y", "sign", "-q", "-n", namespace, "-f", str(self.path), str(message)]
            self._run(argv)
            try:
                with Path(f"{message}.sig").open(encoding="ascii") as file:
                    armored = file.read(_KEY_FILE_BYTES_MAX)
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"ssh-keygen left no signature: {error}") from error
        return _checked(sshsig.dearmor(armored), self.key, namespace, payload)

    def _private(self) -> Path:
        """Give the private key file; ssh-keygen looks for it beside a public one."""
        return self.path.with_suffix("") if self.path.suffix == ".pub" else self.path

    def _is_encrypted(self) -> bool:
        try:
            data = _read_key_file(self._private())
        except UserError:
            return False  # ssh-keygen said what is wrong with the file
        return opensshkey.is_encrypted(data.decode("ascii", "replace"))

    def _run(self, argv: list[str]) -> None:
        # On a terminal its prompts ("confirm user presence") must show; elsewhere its words explain a failure.
        told = None if os.isatty(2) else subprocess.PIPE
        try:
            done = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=told, timeout=_KEYGEN_LIMIT_S, check=False)
        except FileNotFoundError as error:
            raise UserError(
                "ssh-keygen is not installed: install OpenSSH's client, or add the key to ssh-agent"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"ssh-keygen did not sign within {_KEYGEN_LIMIT_S:.0f} s") from error
        if done.returncode:
            if self._is_encrypted() and not _has_terminal():
                raise UserError(
                    f"{self.path} is protected by a passphrase, and there is no terminal to ask for it:"
                    f" run 'ssh-add {self._private()}' first, and keep SSH_AUTH_SOCK set here"
                )
            lines = (done.stderr or b"").decode(errors="replace").split("\n")
            why = "; ".join(line.strip() for line in lines[-6:] if line.strip())[:500]
            raise UserError(f"ssh-keygen could not sign with {self.path}: {why or f'exit {done.returncode}'}")


def _has_terminal() -> bool:
    """Tell whether ssh-keygen has a terminal to ask on: it opens /dev/tty, whatever the standard streams are."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _read_key_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UserError(f"cannot read the key file {path}: {error.strerror}") from error
    if len(data) > _KEY_FILE_BYTES_MAX:
        raise UserError(f"{path} is no key file: it is larger than {_KEY_FILE_BYTES_MAX} bytes")
    return data


def public_key_of(path: Path) -> PublicKey:
    """Read the public key of a `.pub`, private or sealed key file. Raises: UserError that names the file."""
    return _public_of(path, _read_key_file(path))


def _public_of(path: Path, data: bytes) -> PublicKey:
    """Return the public key of a `.pub`, private or sealed key file. Raises: UserError that names the file."""
    try:
        if is_sealed(data):
            return sealed_public(data)
        text = data.decode("ascii", "replace")
        return opensshkey.read_public(text) if opensshkey.is_private_key(text) else parse_public_key(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def find_signer(
    key: PublicKey | None,
    *,
    key_file: Path | None,
    ssh_auth_sock: str | None,
    passphrase: Callable[[], str] | None,
) -> Signer:
    """Choose how to sign with `key` (or with the file's, or the agent's only one).

    A sealed file is opened with `passphrase` at the first signature; else an agent that holds the key signs; else
    ssh-keygen with the private key file. Raises: UserError that says what to do when there is no way.
    """
    if key_file is None:
        return _from_agent(key, ssh_auth_sock)
    data = _read_key_file(key_file)
    public = _public_of(key_file, data)
    if key is not None and public != key:
        raise UserError(f"{key_file} holds {public.fingerprint}, but {key.fingerprint} is needed")
    if is_sealed(data):
        return SealedSigner(key_file, public, data, passphrase)
    if ssh_auth_sock and public in _keys_or_none(ssh_auth_sock):
        return AgentSigner(public, ssh_auth_sock)
    if opensshkey.is_private_key(data.decode("ascii", "replace")):
        return KeygenSigner(key_file)
    private = key_file.with_suffix("")
    if key_file.suffix == ".pub" and private.is_file():
        return KeygenSigner(key_file)  # ssh-keygen itself looks for the private key beside it
    raise UserError(
        f"ssh-agent holds no key {public.fingerprint}: run ssh-add, or pass --key with the private key file"
    )


def _from_agent(key: PublicKey | None, ssh_auth_sock: str | None) -> Signer:
    if not ssh_auth_sock:
        raise UserError("no key to sign with: start ssh-agent and run ssh-add, or pass --key FILE")
    try:
        held = sshagent.keys(ssh_auth_sock)
    except (Unreachable, Untrusted) as error:
        raise UserError(f"{error}; start ssh-agent and run ssh-add, or pass --key FILE") from error
    if key is not None:
        if key not in held:
            raise UserError(f"ssh-agent holds no key {key.fingerprint}: run ssh-add, or pass --key FILE")
        return AgentSigner(key, ssh_auth_sock)
    if not held:
        raise UserError("ssh-agent holds no ed25519 key: run ssh-add, or pass --key FILE")
    if len(held) > 1:
        listed = ", ".join(each.fingerprint for each in held[:5])
        raise UserError(f"ssh-agent holds several keys ({listed}): say which with --key FILE.pub")
    return AgentSigner(held[0], ssh_auth_sock)


def _keys_or_none(ssh_auth_sock: str) -> list[PublicKey]:
    """List an agent's keys, none where it does not answer: there is still the file."""
    try:
        return sshagent.keys(ssh_auth_sock)
    except (Unreachable, Untrusted):
        return []
