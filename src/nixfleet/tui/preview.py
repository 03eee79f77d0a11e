"""What a deployment is asked for by a form, worked out from the records at hand before anything is signed; pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from nixfleet.errors import UserError
from nixfleet.model.ids import NAME, TAG_VALUE, Selector, Tags, matches
from nixfleet.model.statements import Wave
from nixfleet.model.typed import parse_duration
from nixfleet.model.views import DeviceView, ReleaseLineView, ReleaseView
from nixfleet.preview.plan import Asked, Preview, Target, preview
from nixfleet.rollout import DEFAULT_SOAK_S, default_in_flight, default_waves
from nixfleet.tui.ports import Deployment

MAX_WAVES: Final = 64
_WAVE: Final = re.compile(r"(100|[1-9][0-9]?)%|[1-9][0-9]{0,5}")
_NAME: Final = re.compile(NAME)
_VALUE: Final = re.compile(TAG_VALUE)


class Filled(msgspec.Struct, frozen=True, kw_only=True):
    """A form that is filled in: what is wanted, for which devices, and what is known of it before caches are read."""

    deployment: Deployment
    devices: tuple[DeviceView, ...]
    asked: Asked
    shown: Preview


def read_form(release: str, on: str, waves: str, soak: str, note: str, ids: Mapping[str, str]) -> Deployment:
    """Read the form's fields; `ids` gives device ids by name.

    `on` is device names, or ``tag=value,value``; empty is everything the release has a line for. Raises: UserError.
    """
    select, devices = _read_on(on, ids)
    steps = tuple(waves.replace(",", " ").split())
    bad = next((step for step in steps if not _WAVE.fullmatch(step)), None)
    if bad is not None:
        raise UserError(f"a wave is a number of devices or a percentage, not {bad!r}")
    if len(steps) > MAX_WAVES:
        raise UserError(f"a rollout has at most {MAX_WAVES} waves")
    return Deployment(
        release=release,
        select=select,
        devices=devices,
        waves=steps,
        soak_s=parse_duration(soak.strip()) if soak.strip() else None,
        note=note.strip(),
    )


def filled(release: ReleaseView, deployment: Deployment, devices: Iterable[DeviceView]) -> Filled:
    """Work out who gets what. Raises: UserError when nobody, or not each named device, would get anything."""
    named = [device for device in devices if not deployment.devices or device.id in deployment.devices]
    chosen = [device for device in named if device.state == "active" and matches(deployment.select, device.tags)]
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
    asked = _asked(release.name, deployment, getting)
    shown = preview(asked, {device.id: device for device in members}, {})
    return Filled(deployment=deployment, devices=members, asked=asked, shown=shown)


def _asked(release: str, deployment: Deployment, getting: list[tuple[DeviceView, ReleaseLineView]]) -> Asked:
    """Ask by the defaults; what the root's rules demand beyond is known once the rollout is drafted."""
    count = len(getting)
    return Asked(
        release=release,
        targets=tuple(
            Target(device=device.id, name=device.name, tags=device.tags, path=line.path, nar_bytes=line.nar_size)
            for device, line in getting
        ),
        waves=tuple(map(wave_of, deployment.waves)) or default_waves(count),
        max_in_flight=default_in_flight(count),
        soak_s=DEFAULT_SOAK_S if deployment.soak_s is None else deployment.soak_s,
    )


def wave_of(text: str) -> Wave:
    """Read a wave that the form has accepted."""
    return Wave(members=text if text.endswith("%") else int(text))


def line_for(lines: Iterable[ReleaseLineView], device: str, tags: Tags) -> ReleaseLineView | None:
    """Find what a device gets of a release: its own line, or the first selector that matches."""
    for line in lines:
        if line.device == device or (line.select is not None and matches(line.select, tags)):
            return line
    return None


def _read_on(on: str, ids: Mapping[str, str]) -> tuple[Selector, tuple[str, ...]]:
    select: Selector = {}
    devices: list[str] = []
    for word in on.split():
        tag, equals, values = word.partition("=")
        if not equals:
            if word not in ids:
                raise UserError(f"no device is called {word!r}; tags are written tag=value")
            devices.append(ids[word])
            continue
        parts = tuple(values.split(","))
        if not _NAME.match(tag) or not all(_VALUE.match(part) for part in parts):
            raise UserError(f"write tag=value or tag=one,other, not {word!r}")
        select[tag] = parts
    if select and devices:
        raise UserError("name devices or tags, not both")
    return select, tuple(dict.fromkeys(devices))
