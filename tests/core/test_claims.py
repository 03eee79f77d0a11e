"""Claiming: the string, the signed offer, and a proof that nobody between the two can turn to their own use."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import key

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.wire import Signed
from nixfleet.trust.claims import (
    NAMESPACE_CLAIM,
    ClaimString,
    make_claim,
    make_offer,
    new_code,
    open_offer,
    proves,
)

LOG, CACHE = key("log"), key("cache")
OFFER = make_offer(LOG, CACHE.public.raw)


def test_string_is_read_as_it_was_printed_and_shown_nowhere() -> None:
    """A claim string comes back whole, white space around it aside; its repr has no code."""
    made = ClaimString(new_code(), LOG.public.fingerprint)
    assert made == ClaimString.parse(f" {made.text}\n")
    assert made.code not in repr(made)
    assert new_code() != new_code()


@pytest.mark.parametrize(
    "text", ["", "x", f".{LOG.public.fingerprint}", "a" * 26, f"{'a' * 26}.SHA256:x", f"{'a' * 300}"]
)
def test_damaged_string_is_refused_without_quoting_it(text: str) -> None:
    """What is no claim string is told so, and never repeated."""
    with pytest.raises(UserError, match="no claim string") as caught:
        ClaimString.parse(text)
    assert not text or text not in str(caught.value)


def test_offer_is_taken_from_the_pinned_log_key_alone() -> None:
    """Another log key, the right one's offer changed, and one that another key signed are all turned away."""
    assert open_offer(OFFER, LOG.public.fingerprint).log_key == LOG.public.text
    thief = key("thief")
    with pytest.raises(Untrusted, match="somebody on the way"):
        open_offer(make_offer(thief, CACHE.public.raw), LOG.public.fingerprint)
    swapped = OFFER.payload.replace(
        msgspec.json.encode(open_offer(OFFER, LOG.public.fingerprint).cache_key),
        msgspec.json.encode(open_offer(make_offer(thief, thief.public.raw), thief.public.fingerprint).cache_key),
    )
    assert swapped != OFFER.payload
    for signature in (OFFER.signature, thief.sign(NAMESPACE_CLAIM, swapped), LOG.sign("nixfleet-report-v1", swapped)):
        with pytest.raises(Untrusted):
            open_offer(Signed(payload=swapped, signature=signature), LOG.public.fingerprint)


@given(st.binary(max_size=200))
def test_no_bytes_but_an_offer_pass_for_one(data: bytes) -> None:
    """Whatever comes in its place is untrusted, and raises nothing else."""
    with pytest.raises(Untrusted):
        open_offer(Signed(payload=data, signature=OFFER.signature), LOG.public.fingerprint)


def test_proof_is_for_one_code_one_offer_and_one_root() -> None:
    """A proof that somebody sees on the way is worth nothing for another root, signature or coordinator."""
    code = new_code()
    claim = make_claim(code, OFFER, b"root", b"signature")
    assert proves(code, OFFER, claim)
    others = [
        (new_code(), OFFER, claim),
        (code, make_offer(key("thief"), CACHE.public.raw), claim),
        (code, OFFER, msgspec.structs.replace(claim, payload=b"other")),
        (code, OFFER, msgspec.structs.replace(claim, signature=b"other")),
        (code, OFFER, msgspec.structs.replace(claim, proof=bytes(32))),
    ]
    assert not any(proves(*other) for other in others)
