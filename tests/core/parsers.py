"""Every parser of `trust` and `client` that takes bytes from outside, as one call each, for the fuzzer."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from tests.factories import device_id, key

from nixfleet.client.archive import read
from nixfleet.client.sse import Parser
from nixfleet.model.device import Report
from nixfleet.model.reading import UNREADABLE
from nixfleet.model.wire import LineProof, Proof, Signed, Sync
from nixfleet.trust import knownhosts, nextepoch, note, opensshkey, sshsig, statements, token
from nixfleet.trust.claims import ClaimString
from nixfleet.trust.httpsig import verify_head
from nixfleet.trust.leaf import Leaf, subject_of
from nixfleet.trust.lines import decode_line
from nixfleet.trust.merkle import verify_consistency, verify_inclusion
from nixfleet.trust.narinfo import base32_decode, parse_narinfo
from nixfleet.trust.reports import open_enroll, open_report, open_session
from nixfleet.trust.sealed import is_sealed, sealed_public
from nixfleet.trust.sshkeys import parse_public_key

NOW: Final = 1_800_000_000
FLEET: Final = "f" * 64
"""Whose signed samples the corpora hold."""


def _text(data: bytes) -> str:
    """Give bytes as text that holds them all."""
    return data.decode("latin-1")


def _request(data: bytes) -> None:
    """Read a head: a line with method, path and query, then the headers."""
    first, *rest = _text(data).split("\n")
    method, path, query = (*first.split(" ", 2), "", "", "")[:3]
    headers = dict(line.split(": ", 1) for line in rest if ": " in line)
    verify_head(
        headers, method=method, path=path, query=query, now=NOW, fleet=FLEET, key_of=lambda _: key("web").public
    )


def _signed(opened: Callable[[Signed], object]) -> Callable[[bytes], object]:
    """Read a payload and a signature over it, four bytes of length before the first."""

    def call(data: bytes) -> object:
        end = 4 + int.from_bytes(data[:4], "big") % (len(data) + 1)
        return opened(Signed(payload=data[4:end], signature=data[end:]))

    return call


def _proof(data: bytes) -> tuple[int, int, bytes, bytes, list[bytes]]:
    """Read two numbers, two hashes, and the hashes of a proof."""
    hashes = [data[at : at + 32] for at in range(8, len(data), 32)]
    first, second = (*hashes, b"", b"")[:2]
    return int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big"), first, second, hashes[2:]


def _inclusion(data: bytes) -> None:
    index, size, leaf, root, hashes = _proof(data)
    verify_inclusion(leaf, index, size, hashes, root)


def _consistency(data: bytes) -> None:
    old, new, old_root, new_root, hashes = _proof(data)
    verify_consistency(old, old_root, new, new_root, hashes)


def _events(data: bytes) -> None:
    """Read a stream in two chunks."""
    parser, half = Parser(max_event_bytes=1_000), len(data) // 2
    parser.feed(data[:half])
    parser.feed(data[half:])


def _private_key(data: bytes) -> None:
    if opensshkey.is_private_key(_text(data)):
        opensshkey.is_encrypted(_text(data))
        opensshkey.read_seed(_text(data))


def _sealed(data: bytes) -> None:
    if is_sealed(data):
        sealed_public(data)


def parsers(folder: Path) -> dict[str, Callable[[bytes], object]]:
    """List them by the name of their corpus; `folder` is for what only comes as a file."""

    def export(data: bytes) -> object:
        (folder / "export").write_bytes(data)
        return read(folder / "export")

    return {
        "armor": lambda data: sshsig.dearmor(_text(data)),
        "claim": lambda data: ClaimString.parse(_text(data)),
        "consistency": _consistency,
        "enroll": _signed(lambda one: open_enroll(one, fleet=FLEET)),
        "epoch": lambda data: nextepoch.root_of(nextepoch.read(data, "it"), FLEET),
        "events": _events,
        "export": export,
        "inclusion": _inclusion,
        "known-hosts": lambda data: knownhosts.known_host([_text(data)], "web-01"),
        "leaf": Leaf.unpack,
        "line": decode_line,
        "narinfo": lambda data: parse_narinfo(_text(data)),
        "nix-hash": lambda data: base32_decode(_text(data)),
        "note": lambda data: note.open_checkpoint(data, key("log").public, note.origin(FLEET, 0)),
        "private-key": _private_key,
        "public-key": lambda data: parse_public_key(_text(data)),
        "report": _signed(lambda one: open_report(one, key("web").public, fleet=FLEET, device=device_id("web"))),
        "request": _request,
        "sealed": _sealed,
        "session": _signed(lambda one: open_session(one, fleet=FLEET, now=NOW)),
        "signature": sshsig.parse,
        "statement": statements.parse,
        "subject": lambda data: subject_of(_text(data)),
        "token": lambda data: token.read(_text(data)),
        **{f"wire-{shape.__name__.lower()}": partial(_decoded, shape) for shape in (Sync, LineProof, Proof, Report)},
    }


def _decoded(shape: type[msgspec.Struct], data: bytes) -> object:
    """Decode as client and coordinator do."""
    try:
        return msgspec.json.decode(data, type=shape)
    except UNREADABLE:
        return None
