"""``nixfleet access``: who may do what."""

import click

from nixfleet.cli.access_grants import explain, grant, list_grants, revoke
from nixfleet.cli.access_root import root
from nixfleet.cli.options import Group


@click.group(cls=Group)
def access() -> None:
    """Say who may do what, and see who may."""


for each in (grant, list_grants, explain, revoke, root):
    access.add_command(each)
