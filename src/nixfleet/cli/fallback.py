"""Reboots where a boot that fails cannot fall back: to be asked for in so many words."""

from collections.abc import Collection

from nixfleet.cli.session import Fleet
from nixfleet.cli.shaping import Plan
from nixfleet.errors import UserError
from nixfleet.model.text import counted

_SHOWN = 5


async def check_fallback(fleet: Fleet, plan: Plan, devices: Collection[str]) -> None:
    """Check that nobody is rebooted who could not come back by itself, unless that is accepted.

    What a boot loader can do is the device's own word, by way of the coordinator. Raises: UserError.
    """
    if plan.reboot == "never" or plan.accept_no_fallback:
        return
    views = [view for view in await fleet.client.devices() if view.id in devices]
    names = sorted(view.name for view in views if view.facts is not None and view.facts.boot_fallback == "none")
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise UserError(
            f"{counted(len(names), 'device')} cannot fall back when a boot fails ({', '.join(names[:_SHOWN])}{more});"
            " leave them out, or add --accept-no-fallback"
        )
