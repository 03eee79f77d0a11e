"""Reboots where a boot that fails cannot fall back: to be asked for in so many words."""

from collections.abc import Collection

from nixfleet.cli.session import Fleet
from nixfleet.preview.plan import NO_FALLBACK
from nixfleet.rollout import asking
from nixfleet.rollout.asking import Order


async def check_fallback(fleet: Fleet, plan: Order, devices: Collection[str]) -> None:
    """Check that nobody is rebooted who could not come back by itself, unless that is accepted.

    What a boot loader can do is the device's own word, by way of the coordinator. Raises: UserError.
    """
    if plan.wishes.reboot == "never" or plan.accept_no_fallback:
        return
    views = [view for view in await fleet.client.devices() if view.id in devices]
    stuck = [view.name for view in views if view.facts is not None and view.facts.boot_fallback == NO_FALLBACK]
    asking.check_fallback(plan, stuck)
