"""A long secret at rest: sealed with a passphrase (Argon2id), in chunks (XSalsa20-Poly1305) that need little memory.

A JSON line with the parameters, then chunks, each with its length before it. The nonce of a chunk is a digest of that
line, its number and whether it is the last, under a key that this file's salt makes its own: no chunk can be left out,
swapped or cut off. It must never give out bytes that were not authenticated, nor derive with parameters out of bounds.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Final, Literal

import msgspec
import nacl.exceptions
import nacl.pwhash.argon2id
import nacl.secret
import nacl.utils

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.reading import UNREADABLE
from nixfleet.trust.sealed import derive

CHUNK_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 1_024
_OPS: Final = 4
_MEMORY_BYTES: Final = nacl.pwhash.argon2id.MEMLIMIT_INTERACTIVE
"""64 MiB: a backup is made every day on a server that may be small."""
_LENGTH: Final = struct.Struct(">I")
_NONCE: Final = struct.Struct(">15sBQ")

Read = Callable[[int], bytes]
"""Give at most so many bytes, none at the end."""


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["nixfleet-sealed-stream-v1"]
    kdf: Literal["argon2id"]
    ops: Annotated[int, msgspec.Meta(ge=1, le=10)]
    memory_bytes: Annotated[int, msgspec.Meta(ge=8 << 20, le=1 << 30)]
    salt: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class _Box:
    """Seals and opens chunks of one file."""

    def __init__(self, line: bytes, head: _Head, passphrase: str) -> None:
        secret = derive(passphrase, bytes.fromhex(head.salt), head.ops, head.memory_bytes)
        self._box = nacl.secret.SecretBox(secret)
        self._file = hashlib.sha256(line).digest()[:15]

    def seal(self, number: int, data: bytes, *, last: bool) -> bytes:
        """Seal a chunk, with its length before it."""
        sealed = self._box.encrypt(data, _NONCE.pack(self._file, last, number)).ciphertext
        return _LENGTH.pack(len(sealed)) + sealed

    def open(self, number: int, data: bytes, *, last: bool) -> bytes | None:
        """Open a chunk; None when it is not that one."""
        try:
            return self._box.decrypt(data, _NONCE.pack(self._file, last, number))
        except (nacl.exceptions.CryptoError, ValueError):
            return None


def seal_stream(parts: Iterable[bytes], passphrase: str) -> Iterator[bytes]:
    """Seal bytes as they come. Raises: UserError for an empty passphrase."""
    salt = nacl.utils.random(nacl.pwhash.argon2id.SALTBYTES)
    head = _Head("nixfleet-sealed-stream-v1", "argon2id", _OPS, _MEMORY_BYTES, salt.hex())
    line = msgspec.json.encode(head) + b"\n"
    box = _Box(line, head, passphrase)
    yield line
    number, held = 0, bytearray()
    for part in parts:
        held += part
        while len(held) > CHUNK_BYTES:
            yield box.seal(number, bytes(held[:CHUNK_BYTES]), last=False)
            del held[:CHUNK_BYTES]
            number += 1
    yield box.seal(number, bytes(held), last=True)


def open_stream(read: Read, passphrase: str) -> Iterator[bytes]:
    """Open what was sealed, chunk by chunk.

    Raises: UserError for what is no sealed file or another passphrase; Untrusted for one that is damaged or cut short.
    """
    box = _box(read, passphrase)
    number, last = 0, False
    while not last:
        size = _LENGTH.unpack(_exactly(read, _LENGTH.size))[0]
        if size > CHUNK_BYTES + nacl.secret.SecretBox.MACBYTES:
            raise Untrusted("the sealed file is damaged: a chunk is larger than any")
        data = _exactly(read, size)
        opened = box.open(number, data, last=False)
        if opened is None:
            last, opened = True, box.open(number, data, last=True)
        if opened is None:
            if not number:
                raise UserError("the passphrase does not open this file, or its beginning is damaged")
            raise Untrusted(f"the sealed file is damaged in chunk {number}")
        yield opened
        number += 1
    if read(1):
        raise Untrusted("the sealed file goes on after its end")


def _box(read: Read, passphrase: str) -> _Box:
    line = bytearray()
    while not line.endswith(b"\n"):
        more = read(1)
        line += more
        if not more or len(line) > _HEAD_BYTES:
            raise UserError("this is no sealed file of nixfleet's")
    try:
        head = msgspec.json.decode(bytes(line), type=_Head)
    except UNREADABLE as error:
        raise UserError("this is no sealed file of nixfleet's") from error
    return _Box(bytes(line), head, passphrase)


def _exactly(read: Read, size: int) -> bytes:
    """Read so many bytes. Raises: Untrusted at the end."""
    parts = []
    while size:
        part = read(size)
        if not part:
            raise Untrusted("the sealed file ends early: it was cut short")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
