"""What passes between a coordinator without a fleet and the admin who claims it; nothing of it outlives the claim."""

from typing import Annotated

import msgspec

from nixfleet.model.ids import KeyText
from nixfleet.model.statements import Wire
from nixfleet.model.wire import Bytes64K

KEY_BASE64 = r"^[A-Za-z0-9+/]{43}=$(?!\n)"


class ClaimOffer(Wire, frozen=True, kw_only=True):
    """The public keys that a coordinator has made, signed by the first of them (``nixfleet-claim-v1``).

    `cache_key` is the built-in cache's, base64 of 32 bytes: the admin names it.
    """

    v: Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    log_key: KeyText
    cache_key: Annotated[str, msgspec.Meta(pattern=KEY_BASE64)]


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Root 1 with its signature, and the proof that who sends it knows the code."""

    payload: Bytes64K
    signature: Annotated[bytes, msgspec.Meta(max_length=952)]
    proof: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """The id of the fleet that has begun."""

    fleet: str
