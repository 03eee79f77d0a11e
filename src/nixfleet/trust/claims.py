"""Claiming a coordinator: a code that only its operator can read, and its log key pinned by fingerprint.

The code never travels: who claims proves it by an HMAC (RFC 2104) over what is claimed, so that nobody between the
two can put another root, another log key or another cache key in its place. It must never be logged but by the
coordinator that made it, nor put into an error's text.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final, Self

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.claiming import Claim, ClaimOffer
from nixfleet.model.ids import FINGERPRINT
from nixfleet.model.wire import Signed
from nixfleet.trust import sshsig
from nixfleet.trust.sshsig import SecretKey
from nixfleet.trust.statements import strict_decode, strict_encode

NAMESPACE_CLAIM: Final = "nixfleet-claim-v1"
_CODE_BYTES: Final = 16
_CODE: Final = re.compile(r"[a-z2-7]{26}", re.ASCII)
TEXT_CHARS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class ClaimString:
    """What a coordinator without a fleet prints: a one-time code, and the fingerprint of its log key."""

    code: str = field(repr=False)
    fingerprint: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it as it was printed. Raises: UserError, which never quotes the code."""
        code, _, fingerprint = text.strip().partition(".")
        if len(text) > TEXT_CHARS_MAX or not _CODE.fullmatch(code) or not re.fullmatch(FINGERPRINT, fingerprint):
            raise UserError("that is no claim string: copy it whole, as the coordinator's own log shows it")
        return cls(code, fingerprint)

    @property
    def text(self) -> str:
        """The string that an admin copies; secret until it is used."""
        return f"{self.code}.{self.fingerprint}"


def new_code() -> str:
    """Make a code of 128 random bits: nobody guesses it, on the wire or from a proof."""
    return base64.b32encode(secrets.token_bytes(_CODE_BYTES)).decode().rstrip("=").lower()


def make_offer(log_key: SecretKey, cache_key: bytes) -> Signed:
    """Sign the public keys that a root has to name; `cache_key` are the 32 bytes of the cache's."""
    offer = ClaimOffer(v=1, log_key=log_key.public.text, cache_key=base64.b64encode(cache_key).decode())
    payload = strict_encode(offer)
    return Signed(payload=payload, signature=log_key.sign(NAMESPACE_CLAIM, payload))


def open_offer(signed: Signed, fingerprint: str) -> ClaimOffer:
    """Read an offer by the log key with this fingerprint: that of the claim string. Raises: Untrusted."""
    offer = strict_decode(signed.payload, ClaimOffer)
    named = sshsig.parse_public_key(offer.log_key).fingerprint
    if named != fingerprint:
        raise Untrusted(
            f"the coordinator that answers has the log key {named}, the claim string is of {fingerprint}:"
            " another one answers at this address, or somebody on the way does"
        )
    signer = sshsig.verify(signed.signature, signed.payload, NAMESPACE_CLAIM)
    if signer.fingerprint != fingerprint:
        raise Untrusted("the coordinator's offer is not signed by its log key")
    if offer.v != 1:
        raise Untrusted(f"the coordinator's offer is of version {offer.v}, newer than this software: update it")
    return offer


def make_claim(code: str, offer: Signed, payload: bytes, signature: bytes) -> Claim:
    """Claim a coordinator by its offer with a root and its signature."""
    return Claim(payload=payload, signature=signature, proof=_proof(code, offer.payload, payload, signature))


def proves(code: str, offer: Signed, claim: Claim) -> bool:
    """Tell whether who sends a claim knows the code, and has sent just this claim on just this offer."""
    return hmac.compare_digest(claim.proof, _proof(code, offer.payload, claim.payload, claim.signature))


def _proof(code: str, *parts: bytes) -> bytes:
    text = NAMESPACE_CLAIM.encode() + b"".join(hashlib.sha256(part).digest() for part in parts)
    return hmac.new(code.encode(), text, hashlib.sha256).digest()
