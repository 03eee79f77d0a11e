"""Signed notes and log checkpoints (C2SP signed-note and tlog-checkpoint), ed25519 signatures only.

Every note names its kind on its first line (a checkpoint: the log's origin), since one log key signs several.
It must never return a text that the expected key did not sign.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nixfleet.errors import Untrusted
from nixfleet.model.ids import MAX_INT, MAX_NOTE_BYTES
from nixfleet.trust import base64s
from nixfleet.trust.sshsig import PublicKey, SecretKey, verify_raw

_SIGNATURES_MAX: Final = 100
_KEY_NAME_CHARS_MAX: Final = 256
_ALGORITHM_ED25519: Final = b"\x01"
_KEY_HASH_BYTES: Final = 4
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_SIGNATURE_PREFIX: Final = "\u2014 "  # an em dash and a space


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's state: its origin, how many leaves it has, and the 32-byte root over them."""

    origin: str
    size: int
    root: bytes


def origin(fleet: str, epoch: int) -> str:
    """Name a fleet's log; a fleet id is 64 hex digits, a new epoch starts a new log."""
    return f"nixfleet/{fleet}/{epoch}"


def sign_checkpoint(checkpoint: Checkpoint, key: SecretKey) -> bytes:
    """Write and sign a checkpoint; the key's name is the origin."""
    root = base64.b64encode(checkpoint.root).decode()
    return sign_note(f"{checkpoint.origin}\n{checkpoint.size}\n{root}\n", key, checkpoint.origin)


def open_checkpoint(data: bytes, key: PublicKey, origin: str) -> Checkpoint:
    """Verify and parse the checkpoint of one log; extension lines are signed, and ignored. Raises: Untrusted."""
    lines = open_note(data, key, origin).split("\n")
    # tlog-checkpoint: origin, size, root, then extension lines, none of them empty.
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise Untrusted("a checkpoint is malformed")
    if lines[0] != origin:
        raise Untrusted(f"a checkpoint is of another log: {lines[0][:120]!r}")
    if not _SIZE.fullmatch(lines[1]) or int(lines[1]) > MAX_INT:
        raise Untrusted("a checkpoint has a malformed size")
    root = base64s.decode(lines[2], "a checkpoint's root")
    if len(root) != 32:
        raise Untrusted("a checkpoint's root is not 32 bytes")
    return Checkpoint(origin, int(lines[1]), root)


def sign_note(text: str, key: SecretKey, name: str) -> bytes:
    """Sign a text that ends in a newline, under a key name without spaces or '+'; at most 16 KiB in all."""
    assert text.endswith("\n")
    assert _is_plain(text)
    assert _is_key_name(name)
    signature = base64.b64encode(_key_hash(name, key.public) + key.sign_raw(text.encode())).decode()
    note = f"{text}\n{_SIGNATURE_PREFIX}{name} {signature}\n".encode()
    assert len(note) <= MAX_NOTE_BYTES
    return note


def open_note(data: bytes, key: PublicKey, name: str) -> str:
    """Return the text of a note that `key` signed under `name`, other signatures aside. Raises: Untrusted."""
    text, signatures = _split(data)
    wanted = _key_hash(name, key)
    signed = False
    for signer, key_hash, signature in signatures:
        if signer == name and key_hash == wanted:
            # signed-note: a failing signature of a known key condemns the note, even beside a good one.
            verify_raw(key, text.encode(), signature)
            signed = True
    if not signed:
        raise Untrusted(f"the note is not signed by the key {name} expects ({key.fingerprint})")
    return text


def _split(data: bytes) -> tuple[str, Iterator[tuple[str, bytes, bytes]]]:
    """Split a note into its text and its signatures, which are parsed as they are asked for."""
    if len(data) > MAX_NOTE_BYTES:
        raise Untrusted(f"a note is larger than {MAX_NOTE_BYTES} bytes")
    try:
        note = data.decode()
    except UnicodeDecodeError as error:
        raise Untrusted("a note is not UTF-8") from error
    # The last empty line divides: the text may hold empty lines, the signatures may not.
    text, divider, block = note.rpartition("\n\n")
    lines = block.split("\n")
    if not divider or not _is_plain(note) or lines.pop() or not 0 < len(lines) <= _SIGNATURES_MAX:
        raise Untrusted("a note is malformed")
    return text + "\n", (_signature(line) for line in lines)


def _signature(line: str) -> tuple[str, bytes, bytes]:
    """Parse `— name base64(4-byte key hash ‖ signature)`."""
    name, divider, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
    if not line.startswith(_SIGNATURE_PREFIX) or not divider or not _is_key_name(name):
        raise Untrusted("a note has a malformed signature line")
    signature = base64s.decode(encoded, "a note's signature")
    if len(signature) <= _KEY_HASH_BYTES:
        raise Untrusted("a note has a signature that is too short")
    return name, signature[:_KEY_HASH_BYTES], signature[_KEY_HASH_BYTES:]


def _key_hash(name: str, key: PublicKey) -> bytes:
    """Return a key's short id (signed-note: SHA-256(name ‖ newline ‖ algorithm ‖ key), first four bytes)."""
    return hashlib.sha256(name.encode() + b"\n" + _ALGORITHM_ED25519 + key.raw).digest()[:_KEY_HASH_BYTES]


def _is_plain(text: str) -> bool:
    """Tell whether a note has no ASCII control characters but newlines (signed-note)."""
    return all(char >= " " or char == "\n" for char in text)


def _is_key_name(name: str) -> bool:
    """Tell whether a key name is non-empty and has neither spaces of any kind nor '+' (signed-note)."""
    return 0 < len(name) <= _KEY_NAME_CHARS_MAX and "+" not in name and not any(map(str.isspace, name))
