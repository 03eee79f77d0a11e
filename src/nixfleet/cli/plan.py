"""Whom a rollout would not reach, said before anything is signed; its options are `cli.shaping`'s."""

from collections.abc import Collection
from typing import Final

import click

from nixfleet.cli.options import Globals
from nixfleet.cli.session import Fleet, now
from nixfleet.client.acts import rollout_of
from nixfleet.client.reaching import unreached, unreached_words
from nixfleet.rollout.asking import Order

_NOT_YET: Final = "0" * 64
"""Stands for a release that is about to be made."""


def check_reach(
    given: Globals, fleet: Fleet, plan: Order, members: Collection[str] | None, release: str | None = None
) -> None:
    """Say, before anything is sent or signed, which of these devices it would not reach for lack of a right.

    None is every device that the plan selects. Without `release` the signer publishes one first.
    Raises: Refused when it would reach nobody.
    """
    made = rollout_of(fleet.admin.head(given.note), fleet.state, plan.wishes, release=release or _NOT_YET)
    told = unreached_words(fleet.state, unreached(fleet.state, made, now(), members))
    if told and not given.quiet:
        click.echo(f"! {told}", err=True)
