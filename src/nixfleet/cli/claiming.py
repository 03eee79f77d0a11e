"""``nixfleet init --claim``: begin a fleet on a server whose coordinator waits for it, with one string from its log."""

from dataclasses import dataclass

import click

from nixfleet.cli.options import Globals
from nixfleet.cli.session import TIMEOUT_S, client_of, keeper_of, now, until_served
from nixfleet.client.claiming import claim_with, read_offer, root_of
from nixfleet.client.mirror import Mirror
from nixfleet.config import Context, mirror_dir, put_context
from nixfleet.errors import NixfleetError
from nixfleet.model.statements import Principal
from nixfleet.trust.claims import ClaimString
from nixfleet.trust.signers import Signer


@dataclass(frozen=True, kw_only=True)
class Founding:
    """A fleet to begin: its name and addresses, who signs and how the context names that key, the root's people."""

    name: str
    urls: tuple[str, ...]
    signer: Signer
    key: str
    principals: tuple[Principal, ...]


async def claim_fleet(given: Globals, founding: Founding, claim: ClaimString) -> str:
    """Begin a fleet on the coordinator of a claim string, verify its log, and make it the current one; give its id.

    Raises: Untrusted when another coordinator answers, Refused for a wrong code, UserError, Unreachable.
    """
    signer = founding.signer
    async with client_of(founding.urls, "", None, given.timeout_s) as client:
        signed, offer = await read_offer(client, claim)
        root = root_of(
            offer,
            name=founding.name,
            by=signer.key.fingerprint,
            at=now(),
            urls=founding.urls,
            principals=founding.principals,
        )
        fleet = await claim_with(client, claim, signed, root, signer)
    context = Context(fleet=fleet, urls=founding.urls, key=founding.key)
    try:
        async with client_of(founding.urls, fleet, None, given.timeout_s) as client:
            await until_served(client, founding.name, given, TIMEOUT_S)
            await keeper_of(given, context, signer).attach(client)
            await Mirror.open(mirror_dir(fleet, given.env), fleet).catch_up(client)
    except NixfleetError:
        known = f"nixfleet context add {founding.urls[0]} --fleet {fleet} --name {founding.name}"
        click.echo(f"the claim was sent, and the log is not verified yet; later: '{known}'", err=True)
        raise
    put_context(founding.name, context, env=given.env)
    return fleet
