"""Strict reading and writing of everything that is signed: statements here, other structs by `strict_decode`.

A signature covers the exact bytes received, so two readers must never see two things in the same bytes:
duplicate keys, floats, lone surrogates and unknown fields are malformed (trust.md, Envelope). It must never
judge authority.
"""

import hashlib
import json
import re
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import MAX_INT, MAX_NESTING, MAX_PAYLOAD_BYTES, Digest
from nixfleet.model.statements import Control, Device, Grant, Release, Revoke, Rollout, Root, Statement, Wire
from nixfleet.trust import fields
from nixfleet.trust.leaf import LeafType, Subject

NAMESPACE_APPROVE: Final = "nixfleet-approve-v1"
_TYPES: Final[dict[type[Statement], LeafType]] = {
    Root: "root",
    Grant: "grant",
    Revoke: "revoke",
    Release: "release",
    Rollout: "rollout",
}

_T = TypeVar("_T")
_W = TypeVar("_W", bound=Wire)
_STRINGS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""JSON strings. What begins one always ends one, at the last byte if need be, and nothing is tried twice: one pass."""
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"{}[]"))
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_ESCAPED_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_statement_decoder: Final[msgspec.json.Decoder[Statement]] = msgspec.json.Decoder(Statement)
_encoder: Final = msgspec.json.Encoder()


class Malformed(Untrusted):
    """The bytes are not what the strict format allows."""


def encode(statement: Statement) -> bytes:
    """Write the bytes to sign. Raises: Malformed when no reader would accept them."""
    payload = _encoder.encode(statement)
    parse(payload)  # a strict writer is one that its own reader accepts
    return payload


def parse(payload: bytes) -> Statement:
    """Read a statement. Raises: Malformed, with the field where one is at fault."""
    statement = _read(payload, _statement_decoder, "statement", MAX_PAYLOAD_BYTES)
    fault = fields.fault_of(statement)
    if fault:
        raise Malformed(f"malformed {type_name(statement)}: {fault}")
    return statement


def strict_decode(payload: bytes, type: type[_W], *, max_bytes: int = MAX_PAYLOAD_BYTES) -> _W:  # noqa: A002 (as msgspec names it)
    """Read any signed struct by the same rules. Raises: Malformed."""
    decoder: msgspec.json.Decoder[_W] = _decoder(type)
    return _read(payload, decoder, type.__name__, max_bytes)


def strict_encode(value: Wire) -> bytes:
    """Write a signed struct so that `strict_decode` reads it back. Raises: UserError."""
    payload = _encoder.encode(value)
    try:
        strict_decode(payload, type(value))
    except Malformed as error:
        raise UserError(str(error)) from error
    return payload


def namespace_of(statement: Statement) -> str:
    """Return the SSHSIG namespace, with the subject where the leaf alone must tell it (trust.md, Envelope)."""
    match statement:
        case Device(device=device):
            return f"nixfleet-device-v1@{device}"
        case Control(rollout=rollout):
            return f"nixfleet-control-v1@{rollout[:32]}"
        case _:
            return f"nixfleet-{type_name(statement)}-v1"


def subject_named(statement: Statement) -> Subject:
    """Return what the namespace of a statement tells, as its leaf would."""
    match statement:
        case Device(device=device):
            return Subject("device", device)
        case Control(rollout=rollout):
            return Subject("control", rollout[:32])
        case _:
            return Subject(_TYPES[type(statement)], "")


def type_name(statement: Statement) -> str:
    """Return the statement's type as it is on the wire."""
    return str(statement.__struct_config__.tag)


def digest(payload: bytes) -> Digest:
    """Return the SHA-256 by which statements name each other, as hex."""
    return Digest(hashlib.sha256(payload).hexdigest())


@lru_cache(maxsize=64)
def _decoder(type_: type[_T]) -> "msgspec.json.Decoder[_T]":
    """Make a type's decoder, once: there are a dozen types."""
    return msgspec.json.Decoder(type_)


def _read(payload: bytes, decoder: "msgspec.json.Decoder[_T]", what: str, max_bytes: int) -> _T:
    """Decode strictly. Raises: Malformed."""
    if len(payload) > max_bytes:
        raise Malformed(f"a payload is larger than {max_bytes} bytes")
    try:
        value = decoder.decode(payload)
        if _encoder.encode(value) == payload:
            # What our writer writes of it is all there is: nothing stands twice, nothing can be read otherwise.
            return value
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    _scan(payload)
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"malformed {what}: {error}") from error


def _scan(payload: bytes) -> None:
    """Refuse what msgspec alone lets pass, and what two JSON readers could read differently (RFC 8259, RFC 7493)."""
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise Malformed("a payload is not UTF-8") from error
    if text.startswith("\ufeff"):
        raise Malformed("a payload starts with a byte order mark")
    if payload.count(b"{") + payload.count(b"[") > MAX_NESTING:
        _check_nesting(payload)
    try:
        value = _json.decode(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a payload is not strict JSON: {error}") from error
    if _ESCAPED_SURROGATE.search(text):
        _check_surrogates(value)


def _check_nesting(payload: bytes) -> None:
    """Refuse more than 16 levels, counted before any recursive parser runs."""
    depth = 0
    for byte in _STRINGS.sub(b"", payload).translate(None, _NOT_BRACKETS):
        if byte in b"{[":
            depth += 1
            if depth > MAX_NESTING:
                raise Malformed(f"a payload nests deeper than {MAX_NESTING}")
        else:
            depth -= 1


def _check_surrogates(value: object) -> None:
    """Refuse escapes of half a character: they have no UTF-8 form."""
    if _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise Malformed("a payload has a lone surrogate")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return members


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is not an integer")


def _int(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_INT:
        raise ValueError("a number is beyond 2^53 - 1")
    return int(text)


_json: Final = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_float=_no_float, parse_constant=_no_float, parse_int=_int
)
