"""Claim a coordinator that has no fleet yet: prove its code, and pin its log key; nothing it says is trusted else."""

from collections.abc import Sequence

import msgspec

from nixfleet.client.acts import create_root
from nixfleet.client.admin import sign
from nixfleet.client.api import Client
from nixfleet.client.faults import Unknown
from nixfleet.client.upstream import BUILT_IN
from nixfleet.errors import Untrusted, UserError
from nixfleet.model.claiming import ClaimOffer
from nixfleet.model.statements import CacheRef, Principal, Root
from nixfleet.model.wire import Signed
from nixfleet.trust.claims import ClaimString, make_claim, open_offer
from nixfleet.trust.signers import Signer
from nixfleet.trust.statements import digest


async def read_offer(client: Client, claim: ClaimString) -> tuple[Signed, ClaimOffer]:
    """Ask for the coordinator's public keys, and hold them against the claim string.

    Raises: Untrusted when another coordinator answers, UserError when this one has a fleet, Unreachable.
    """
    try:
        signed = await client.claim_offer()
    except Unknown as error:
        raise UserError(
            f"the coordinator at {client.url} has a fleet already: get to know it by 'nixfleet context add"
            f" {client.url} --fleet ID'; if that is not yours, somebody else claimed it"
        ) from error
    return signed, open_offer(signed, claim.fingerprint)


def root_of(
    offer: ClaimOffer, *, name: str, by: str, at: int, urls: Sequence[str], principals: Sequence[Principal]
) -> Root:
    """Build root 1 of a fleet called `name` on a coordinator's own keys; the founding note is the fleet's name."""
    cache = CacheRef(url=BUILT_IN, key=f"{name}-1:{offer.cache_key}")
    made = create_root(by=by, at=at, urls=urls, principals=principals, log_key=offer.log_key, caches=(cache,))
    return msgspec.structs.replace(made, note=name)


async def claim_with(client: Client, claim: ClaimString, offer: Signed, root: Root, signer: Signer) -> str:
    """Sign a root and claim the coordinator with it; gives the fleet's id, which the log has to show then.

    An answer that is lost on the way is no failure: whether the fleet has begun is for the log to tell.
    Raises: Refused for a wrong code, Untrusted, UserError; Unreachable while too many wrong codes were tried.
    """
    payload, signature = sign(signer, root)
    fleet = digest(payload)
    try:
        claimed = await client.claim(make_claim(claim.code, offer, payload, signature))
    except Unknown:
        return fleet  # claimed: by us, when the answer to an earlier sending was lost
    if claimed.fleet != fleet:
        raise Untrusted(f"{client.url} says that another fleet has begun than the one you signed")
    return fleet
