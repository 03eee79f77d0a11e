"""Signed HTTP requests: one fixed profile of RFC 9421 with RFC 9530 digests (trust.md, Requests).

Components ``@method @path @query content-digest``, parameters ``created keyid alg tag`` in this order, label
``sig``. Not ``@authority``: proxies rewrite it. It must never accept another profile, nor sign a statement:
the raw ed25519 key here signs an RFC 9421 base, which no SSHSIG starts with.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from nixfleet.errors import Untrusted
from nixfleet.model.ids import Fingerprint
from nixfleet.trust import base64s
from nixfleet.trust.sshsig import PublicKey, SecretKey, verify_raw

SKEW_MAX_S: Final = 300
HEADER_CHARS_MAX: Final = 1_024
TARGET_CHARS_MAX: Final = 8_192

_COMPONENTS: Final = '("@method" "@path" "@query" "content-digest")'
_INPUT: Final = re.compile(
    re.escape(f"sig={_COMPONENTS};created=")
    + r'(0|[1-9][0-9]{0,15});keyid="(SHA256:[A-Za-z0-9+/]{43})";alg="ed25519";tag="([0-9a-f]{64})"',
    re.ASCII,
)
_SIGNATURE: Final = re.compile(r"sig=:([A-Za-z0-9+/]{86}==):", re.ASCII)
_DIGEST: Final = re.compile(r"(sha-256|sha-512)=:([A-Za-z0-9+/]{43,86}={1,2}):", re.ASCII)
_METHOD: Final = re.compile(r"[A-Z]{1,16}", re.ASCII)
_TARGET: Final = re.compile(r"[!-~]*", re.ASCII)
_DIGEST_BYTES: Final = {"sha-256": 32, "sha-512": 64}

KeyOf = Callable[[Fingerprint], PublicKey | None]


class Skewed(Untrusted):
    """The request is well signed but its clock is more than 300 s off; the caller tells the server's time."""


class Foreign(Untrusted):
    """The request is signed for another fleet: it has come to an address that is not that fleet's any more."""


@dataclass(frozen=True, slots=True)
class ContentDigest:
    """What a body must hash to."""

    algorithm: str
    value: bytes

    def check(self, body: bytes) -> None:
        """Compare a whole body. Raises: Untrusted."""
        if hashlib.new(self.algorithm.replace("-", ""), body).digest() != self.value:
            raise Untrusted("the body is not the one that was signed")


@dataclass(frozen=True, slots=True)
class Head:
    """A request whose signature holds, its body not yet compared."""

    signer: Fingerprint
    digest: ContentDigest


def sign_request(
    key: SecretKey, *, method: str, path: str, query: str, body: bytes, created: int, fleet: str
) -> dict[str, str]:
    """Return the three headers that sign a request; `path` and `query` (without '?') as sent, percent-encoded."""
    digest = f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
    params = f'{_COMPONENTS};created={created};keyid="{key.public.fingerprint}";alg="ed25519";tag="{fleet}"'
    signature = base64.b64encode(key.sign_raw(_base(method, path, query, digest, params))).decode()
    return {"Content-Digest": digest, "Signature-Input": f"sig={params}", "Signature": f"sig=:{signature}:"}


def verify_head(
    headers: Mapping[str, str], *, method: str, path: str, query: str, now: int, fleet: str, key_of: KeyOf
) -> Head:
    """Judge a request by its head alone, before anything is spent on its body, which is to be checked after.

    Raises: Untrusted; Foreign when it is for another fleet; Skewed when only the clock is off.
    """
    found = _three_headers(headers)
    params = _INPUT.fullmatch(found["signature-input"])
    signature = _SIGNATURE.fullmatch(found["signature"])
    if params is None or signature is None:
        raise Untrusted("the request's signature is not of the one profile that is accepted")
    digest = _parse_digest(found["content-digest"])
    if params[3] != fleet:
        raise Foreign("the request is signed for another fleet")
    signer = Fingerprint(params[2])
    key = key_of(signer)
    if key is None or key.fingerprint != signer:
        raise Untrusted(f"the request is signed by a key that may not ask here ({signer})")
    signed_params = found["signature-input"].removeprefix("sig=")
    verify_raw(
        key,
        _base(method, path, query, found["content-digest"], signed_params),
        base64s.decode(signature[1], "the request's signature"),
    )
    # After the signature: only a key we know learns that its clock is the trouble.
    if abs(now - int(params[1])) > SKEW_MAX_S:
        raise Skewed(f"the request's clock is {abs(now - int(params[1]))} s off; at most {SKEW_MAX_S} s are allowed")
    return Head(signer, digest)


def _three_headers(headers: Mapping[str, str]) -> dict[str, str]:
    wanted = ("signature-input", "signature", "content-digest")
    found: dict[str, str] = {}
    for name, value in headers.items():
        lowered = name.lower()
        if lowered in wanted:
            if lowered in found or len(value) > HEADER_CHARS_MAX:
                raise Untrusted(f"the request's header {lowered} stands twice or is too long")
            found[lowered] = value
    for name in wanted:
        if name not in found:
            raise Untrusted(f"the request is not signed: it has no header {name}")
    return found


def _parse_digest(text: str) -> ContentDigest:
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise Untrusted("the content digest is neither sha-256 nor sha-512")
    value = base64s.decode(match[2], "the content digest")
    if len(value) != _DIGEST_BYTES[match[1]]:
        raise Untrusted("the content digest has a wrong length")
    return ContentDigest(match[1], value)


def _base(method: str, path: str, query: str, digest: str, params: str) -> bytes:
    """Build the signature base (RFC 9421 section 2.5); no part can hold a newline."""
    target_fits = len(path) + len(query) <= TARGET_CHARS_MAX and _TARGET.fullmatch(path) and _TARGET.fullmatch(query)
    if not _METHOD.fullmatch(method) or not path.startswith("/") or not target_fits:
        raise Untrusted("the request's method, path or query is malformed or too long")
    lines = (
        f'"@method": {method}',
        f'"@path": {path}',
        f'"@query": ?{query}',
        f'"content-digest": {digest}',
        f'"@signature-params": {params}',
    )
    return "\n".join(lines).encode()
