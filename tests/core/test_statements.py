"""Strict reading: one file of payloads and verdicts, the same on every supported Python."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect
from tests.factories import Fleet, device_id, fingerprint, key

from nixfleet.model.device import EnrollRequest, JoinToken, Report, Session
from nixfleet.model.ids import MAX_INT, MAX_NESTING, MAX_PAYLOAD_BYTES
from nixfleet.model.statements import Device, Root, Statement, TargetLine, Wire
from nixfleet.trust.statements import (
    Malformed,
    _read,
    _scan,
    _statement_decoder,
    digest,
    encode,
    namespace_of,
    parse,
    strict_decode,
)

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors" / "statements.json").read_text())


def bytes_of(vector: dict[str, Any]) -> bytes:
    """Return a vector's payload: text, or base64 where text cannot say it, repeated where it is long."""
    if "base64" in vector:
        return base64.b64decode(vector["base64"])
    text: str = vector["text"] + vector.get("fill", "") * vector.get("times", 0) + vector.get("end", "")
    return text.encode()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_vector(vector: dict[str, Any]) -> None:
    """Every payload of the vector file gets the verdict that stands beside it."""
    payload = bytes_of(vector)
    if vector["verdict"] == "valid":
        assert vector["digest"] == digest(payload)
        assert vector["namespace"] == namespace_of(parse(payload))
        assert parse(payload) == parse(encode(parse(payload)))
    else:
        with pytest.raises(Malformed) as caught:
            parse(payload)
        assert vector["says"] in str(caught.value)


def samples() -> list[bytes]:
    """Make a payload of every type."""
    fleet = Fleet()
    fleet.grant("ops", "deploy", select={"env": ["prod"]})
    fleet.revoke(key_name="someone")
    fleet.device("web-01", tags={"env": "prod"})
    release, _ = fleet.release("a")
    fleet.control(fleet.rollout(release), "pause")
    return [payload for _, payload in fleet.entries]


SAMPLES = samples()


@pytest.mark.parametrize("payload", SAMPLES, ids=lambda payload: type(parse(payload)).__name__)
def test_every_type_reads_back(payload: bytes) -> None:
    """What the strict writer wrote, the strict reader reads, and writes again to the same bytes."""
    assert payload == encode(parse(payload))


def signed_types(kind: type[Wire] = Wire) -> list[type[Wire]]:
    """List every type whose bytes are read strictly."""
    return [kind, *(below for one in kind.__subclasses__() for below in signed_types(one))]


def leaves_of(kind: inspect.Type, depth: int = 0) -> Iterator[tuple[int, inspect.Type]]:
    """Walk to the types that a type is made of in the end, each with how many levels are around it."""
    match kind:
        case inspect.StructType(fields=fields):
            for field in fields:
                yield from leaves_of(field.type, depth + 1)
        case inspect.UnionType(types=types):
            for one in types:
                yield from leaves_of(one, depth)
        case inspect.VarTupleType(item_type=item):
            yield from leaves_of(item, depth + 1)
        case inspect.DictType(key_type=key_type, value_type=value_type):
            yield from leaves_of(key_type, depth + 1)
            yield from leaves_of(value_type, depth + 1)
        case _:
            yield depth, kind


SIGNED_TYPES = signed_types()
assert {Root, TargetLine, Report, EnrollRequest, Session, JoinToken} <= set(SIGNED_TYPES)


@pytest.mark.parametrize("kind", SIGNED_TYPES, ids=lambda kind: kind.__name__)
def test_no_signed_type_can_hold_what_the_scan_refuses(kind: type[Wire]) -> None:
    """Of any signed type, what its writer writes is strict: bounded integers, no floats, few levels."""
    for depth, leaf in leaves_of(inspect.type_info(kind)):
        assert depth <= MAX_NESTING
        match leaf:
            case inspect.IntType(ge=least, le=most):
                assert least is not None
                assert most is not None
                assert -MAX_INT <= least <= most <= MAX_INT
            case _:
                allowed = inspect.StrType | inspect.BoolType | inspect.NoneType | inspect.LiteralType | inspect.EnumType
                assert isinstance(leaf, allowed)


EDITS = (
    (b":", b": "), (b",", b" ,"), (b"1", b"1.0"), (b"1", b"1e0"), (b"1", b"-0"), (b"0", b"9007199254740992"),
    (b"1", b"999999999999999999"), (b"e", b"\\u0065"), (b"prod", b"\\ud800"), (b"prod", "pr\u00f6d".encode()),
    (b"prod", b"pr\xff"), (b"{", b"\xef\xbb\xbf{"), (b'"v":1', b'"v":1,"v":1'), (b'"env":', b'"env":"a","env":'),
    (b"}", b',"more":1}'), (b"[", b"[" * 17), (b'"', b""), (b"null", b"NaN"), (b'"v":1', b'"v":1,"note":null'),
)  # fmt: skip


@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.sampled_from(EDITS), st.integers(0, 8)), max_size=3))
@settings(max_examples=300)
def test_a_payload_as_we_write_it_is_judged_as_by_the_scan(
    payload: bytes, edits: list[tuple[tuple[bytes, bytes], int]]
) -> None:
    """The short way for what our writer writes gives no other verdict than the long one."""
    for (old, new), place in edits:
        parts = payload.split(old)
        cut = min(place, len(parts) - 1)
        payload = old.join(parts[:cut]) + (new if cut else b"") + old.join(parts[cut:])
    assert outcome(lambda: scanned(payload)) == outcome(
        lambda: _read(payload, _statement_decoder, "statement", MAX_PAYLOAD_BYTES)
    )


def scanned(payload: bytes) -> Statement:
    """Read a statement the long way."""
    _scan(payload)
    return _statement_decoder.decode(payload)


def outcome(read: Callable[[], Statement]) -> Statement | None:
    """Give what a reader reads, None for what it refuses."""
    try:
        return read()
    except (Malformed, msgspec.MsgspecError):
        return None


@given(st.binary(max_size=300))
def test_parse_is_total(payload: bytes) -> None:
    """Random bytes are malformed, never a crash."""
    with pytest.raises(Malformed):
        parse(payload)


@given(st.sampled_from(SAMPLES), st.data())
def test_a_changed_byte_is_refused_or_means_something_else(payload: bytes, data: st.DataObject) -> None:
    """Damage never crashes the reader, and never yields the same statement in silence but for white space."""
    place = data.draw(st.integers(0, len(payload) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != payload[place]))
    changed = payload[:place] + bytes([byte]) + payload[place + 1 :]
    try:
        statement = parse(changed)
    except Malformed:
        return
    assert statement != parse(payload)
    assert digest(changed) != digest(payload)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=3),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    )
)
def test_json_that_is_no_statement_is_malformed(value: object) -> None:
    """Well-formed JSON of another shape is refused with a reason."""
    with pytest.raises(Malformed):
        parse(json.dumps(value).encode())


def test_the_writer_refuses_what_no_reader_accepts() -> None:
    """A statement that breaks a bound is not signed in the first place."""
    device = parse(SAMPLES[3])
    assert isinstance(device, Device)
    with pytest.raises(Malformed, match="name"):
        encode(msgspec.structs.replace(device, name="Not A Name"))
    with pytest.raises(Malformed, match="until"):
        encode(msgspec.structs.replace(device, until=5))
    with pytest.raises(Malformed, match="newer"):
        encode(msgspec.structs.replace(device, v=2))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threshold": 2}, "threshold of 2"),
        ({"rules": ({"select": {}, "actions": ["deploy"], "approvals": 1},)}, "above 1"),
        ({"version": 2}, "root 1"),
        ({"principals": [{"name": "a", "keys": [key("a").public.text] * 2}]}, "twice"),
        ({"principals": [{"name": "a", "keys": [key("log").public.text]}]}, "log key"),
        ({"principals": [{"name": "a", "keys": ["ssh-ed25519 " + "A" * 68]}]}, "key"),
        ({"urls": ["ftp://x"]}, "urls"),
        ({"principals": []}, "principals"),
    ],
)
def test_a_root_against_itself_is_malformed(changes: dict[str, object], says: str) -> None:
    """Each rule between a root's fields has its sentence."""
    plain = json.loads(SAMPLES[0]) | changes
    with pytest.raises(Malformed, match=says):
        parse(json.dumps(plain).encode())


def test_a_namespace_names_the_subject_of_device_and_control() -> None:
    """An agent can tell from the leaf alone whether it needs the payload."""
    statements: list[Statement] = [parse(payload) for payload in SAMPLES]
    namespaces = [namespace_of(statement) for statement in statements]
    assert f"nixfleet-device-v1@{device_id('web-01')}" == namespaces[3]
    assert f"nixfleet-control-v1@{digest(SAMPLES[5])[:32]}" == namespaces[6]
    assert "nixfleet-root-v1" == namespaces[0]


def test_other_signed_structs_are_read_by_the_same_rules() -> None:
    """`strict_decode` bounds size and refuses doubled keys for any struct."""
    assert isinstance(strict_decode(SAMPLES[0], Root), Root)
    with pytest.raises(Malformed, match="larger than 10 bytes"):
        strict_decode(SAMPLES[0], Root, max_bytes=10)
    assert fingerprint("admin") in SAMPLES[0].decode()


@pytest.mark.parametrize(
    ("text", "fill", "end"),
    [
        (b"[" * 17 + b'"', b'\\"', b""),
        (b"[" * 17, b'"', b""),
        (b"[" * 17, b'"\\', b""),
        (b"[" * 17 + b'"', b"\\", b""),
        (b"[" * 17, b'"', b"\\"),
        (b"[" * 17 + b'"', b"a", b""),
        (b"", b"[", b""),
        (b"", b"[]", b""),
        (b"", b'{"a":', b""),
        (b"[", b'"[",', b'""]'),
        (b"[", b"[],", b"[]]"),
        (b"{", b'"a":1,', b"}"),
        (b"", b"9", b""),
        (b"", b" ", b""),
        (b'"', b"\\ud800", b'"'),
        (b'{"type":"', b"a", b'"}'),
    ],
)
def test_the_worst_payload_is_refused_at_once(text: bytes, fill: bytes, end: bytes) -> None:
    """64 KiB that anybody may send cost milliseconds of the processor, however they are made."""
    payload = text + fill * ((65_536 - len(text) - len(end)) // len(fill)) + end
    assert len(payload) > 65_000
    assert min(_cost_s(payload) for _ in range(5)) < 0.25


def _cost_s(payload: bytes) -> float:
    """Time one refusal in seconds of the processor; the least of several leaves a collection of garbage out."""
    begun = time.process_time()
    with pytest.raises(Malformed):
        parse(payload)
    return time.process_time() - begun


@given(st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b"a"]), max_size=60).map(b"".join))
def test_levels_are_counted_outside_of_strings(middle: bytes) -> None:
    """Whatever a string holds, brackets in it are no levels, and those around it are."""
    text = json.dumps("[" * 20 + middle.decode()).encode()
    with pytest.raises(Malformed, match="malformed statement"):
        parse(b"[" * 15 + text + b"]" * 15)
    with pytest.raises(Malformed, match="nests deeper than 16"):
        parse(b"[" * 17 + text + b"]" * 17)
