"""``nixfleet access``: who may do what."""

import click

from nixfleet.cli.access_root import root
from nixfleet.cli.options import Group


@click.group(cls=Group)
def access() -> None:
    """Say who may do what, and see who may."""


access.add_command(root)
