"""What a deployment is asked for by a form, worked out from the records at hand before anything is signed; pure."""

from collections.abc import Iterable

import msgspec

from nixfleet.errors import UserError
from nixfleet.model.ids import Tags, matches
from nixfleet.model.views import DeviceView, ReleaseLineView, ReleaseView
from nixfleet.preview.plan import NO_FALLBACK, Asked, Preview, Target, preview
from nixfleet.rollout.asking import Shape, check_fallback, filled_up
from nixfleet.trust.fields import unchecked_gate
from nixfleet.tui.ports import Deployment
from nixfleet.tui.starting import label


class Filled(msgspec.Struct, frozen=True, kw_only=True):
    """A form that is filled in: what is wanted, for which devices, and what is known of it before caches are read."""

    deployment: Deployment
    devices: tuple[DeviceView, ...]
    asked: Asked
    shape: Shape
    shown: Preview


def filled(release: ReleaseView, deployment: Deployment, devices: Iterable[DeviceView]) -> Filled:
    """Work out who gets what. Raises: UserError when nobody, or not each named device, would get anything."""
    fault = unchecked_gate(deployment.order.wishes.waves or ())
    if fault:
        raise UserError(fault)
    select = deployment.order.wishes.select or {}
    named = [device for device in devices if not deployment.devices or device.id in deployment.devices]
    chosen = [device for device in named if device.state == "active" and matches(select, device.tags)]
    getting = [
        (device, line) for device in chosen if (line := line_for(release.lines, device.id, device.tags)) is not None
    ]
    got = {device.id for device, _ in getting}
    for device in sorted((one for one in named if one.id not in got), key=lambda one: one.name):
        # Of a tag's devices those count that get something; who names one means it.
        if deployment.devices:
            raise UserError(
                f"{release.name} has no line for {device.name}"
                if device.state == "active"
                else f"{device.name} is {device.state}"
            )
    if not getting:
        raise UserError(f"{release.name} has no line for any active device of these")
    members = tuple(device for device, _ in sorted(getting, key=lambda pair: pair[0].name))
    check_fallback(deployment.order, [one.name for one in members if not falls_back(one)], label)
    shape = filled_up(deployment.order.wishes, len(members))
    asked = _asked(release.name, shape, getting)
    shown = preview(asked, {device.id: device for device in members}, {})
    return Filled(deployment=deployment, devices=members, asked=asked, shape=shape, shown=shown)


def falls_back(device: DeviceView) -> bool:
    """Tell whether a device may come back by itself when a boot fails; only its own word says that it cannot."""
    return device.facts is None or device.facts.boot_fallback != NO_FALLBACK


def _asked(release: str, shape: Shape, getting: list[tuple[DeviceView, ReleaseLineView]]) -> Asked:
    """Ask by the defaults; what the root's rules demand beyond is known once the rollout is drafted."""
    return Asked(
        release=release,
        targets=tuple(
            Target(device=device.id, name=device.name, tags=device.tags, path=line.path, nar_bytes=line.nar_size)
            for device, line in getting
        ),
        waves=shape.waves,
        max_in_flight=shape.max_in_flight,
        soak_s=shape.soak_s,
    )


def line_for(lines: Iterable[ReleaseLineView], device: str, tags: Tags) -> ReleaseLineView | None:
    """Find what a device gets of a release: its own line, or the first selector that matches."""
    for line in lines:
        if line.device == device or (line.select is not None and matches(line.select, tags)):
            return line
    return None
