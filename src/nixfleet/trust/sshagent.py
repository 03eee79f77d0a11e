"""What is asked of an ssh-agent (draft-miller-ssh-agent): which keys it holds, and a signature of one.

Its answers are data of a stranger: bounded in size and time. It must never verify a signature; who asked for it does.
"""

import socket
import time
from typing import Final

from nixfleet.errors import Unreachable, Untrusted, UserError
from nixfleet.trust.sshkeys import PublicKey
from nixfleet.trust.sshwire import Reader, string, u32

# Sections 3 and 6.1.
_REQUEST_IDENTITIES: Final = 11
_IDENTITIES_ANSWER: Final = 12
_SIGN_REQUEST: Final = 13
_SIGN_RESPONSE: Final = 14
_ANSWER_BYTES_MAX: Final = 256 << 10
_IDENTITIES_MAX: Final = 2048
_LIST_LIMIT_S: Final = 10.0


def keys(socket_path: str) -> list[PublicKey]:
    """List the agent's keys of our two types, in its order. Raises: Unreachable, Untrusted."""
    kind, answer = _ask(socket_path, bytes([_REQUEST_IDENTITIES]), _LIST_LIMIT_S)
    if kind != _IDENTITIES_ANSWER:
        raise Unreachable(f"ssh-agent at {socket_path} does not list its keys; it may be locked (ssh-add -X)")
    count = answer.u32()
    if count > _IDENTITIES_MAX:
        raise Untrusted(f"ssh-agent lists more than {_IDENTITIES_MAX} keys")
    found: list[PublicKey] = []
    for _ in range(count):
        blob = answer.string()
        answer.string()  # the comment
        try:
            found.append(PublicKey.from_blob(blob))
        except Untrusted:
            continue  # another type: RSA, ECDSA, certificates
    answer.end()
    return found


def sign(socket_path: str, key: PublicKey, data: bytes, limit_s: float) -> bytes:
    """Have the agent sign; the signature as it comes. Raises: UserError when it will not, Unreachable, Untrusted."""
    request = bytes([_SIGN_REQUEST]) + string(key.blob) + string(data) + u32(0)
    kind, answer = _ask(socket_path, request, limit_s)
    if kind != _SIGN_RESPONSE:
        raise UserError(
            f"ssh-agent would not sign with {key.fingerprint}:"
            " it no longer holds the key, is locked, or was not confirmed"
        )
    signature = answer.string()
    answer.end()
    return signature


def _ask(socket_path: str, request: bytes, limit_s: float) -> tuple[int, Reader]:
    """Send one request and return the answer's type and body, all within `limit_s`."""
    deadline = time.monotonic() + limit_s
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(limit_s)
            connection.connect(socket_path)
            connection.sendall(string(request))
            length = int.from_bytes(_receive(connection, 4, deadline), "big")
            if not 0 < length <= _ANSWER_BYTES_MAX:
                raise Untrusted(f"ssh-agent answers with {length} bytes, more or less than it may")
            answer = _receive(connection, length, deadline)
    except TimeoutError as error:
        raise Unreachable(f"ssh-agent at {socket_path} did not answer within {limit_s:.0f} s") from error
    except (OSError, ValueError) as error:
        raise Unreachable(f"ssh-agent at {socket_path} cannot be reached: {error}") from error
    return answer[0], Reader(answer[1:], "an answer of ssh-agent")


def _receive(connection: socket.socket, count: int, deadline: float) -> bytes:
    """Read exactly `count` bytes before the deadline, however slowly they drip."""
    parts = bytearray()
    while len(parts) < count:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        part = connection.recv(count - len(parts))
        if not part:
            raise ConnectionError("it hung up in the middle of an answer")
        parts += part
    return bytes(parts)
