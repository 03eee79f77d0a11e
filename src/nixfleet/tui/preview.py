"""What a deployment would do, worked out from the records at hand before anything is signed; pure."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from nixfleet.errors import UserError
from nixfleet.model.ids import NAME, TAG_VALUE, Selector, Tags, matches
from nixfleet.model.text import clean, counted
from nixfleet.model.typed import parse_duration
from nixfleet.model.views import DeviceView, ReleaseLineView, ReleaseView
from nixfleet.query import status_of
from nixfleet.rollout import default_waves
from nixfleet.tui.ports import Deployment
from nixfleet.tui.view.text import Line, Span, size, store_name

MAX_WAVES: Final = 64
_WAVE: Final = re.compile(r"(100|[1-9][0-9]?)%|[1-9][0-9]{0,5}")
_NAME: Final = re.compile(NAME)
_VALUE: Final = re.compile(TAG_VALUE)


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """The devices a deployment is for, and what is to be said about it."""

    deployment: Deployment
    devices: tuple[DeviceView, ...]
    lines: tuple[Line, ...]


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


def preview(release: ReleaseView, deployment: Deployment, devices: Iterable[DeviceView]) -> Preview:
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
    return Preview(deployment=deployment, devices=members, lines=tuple(_words(deployment, getting)))


def line_for(lines: Iterable[ReleaseLineView], device: str, tags: Tags) -> ReleaseLineView | None:
    """Find what a device gets of a release: its own line, or the first selector that matches."""
    for line in lines:
        if line.device == device or (line.select is not None and matches(line.select, tags)):
            return line
    return None


def _words(deployment: Deployment, getting: list[tuple[DeviceView, ReleaseLineView]]) -> Iterable[Line]:
    waves = deployment.waves or tuple(str(wave.members) for wave in default_waves(len(getting)))
    yield (
        Span(counted(len(getting), "device"), "strong"),
        Span(f" in {counted(len(waves), 'wave')}: {', '.join(waves)}"),
    )
    same = sum(device.system == line.path for device, line in getting)
    changes = Counter(
        (store_name(device.system) or "nothing yet", store_name(line.path))
        for device, line in getting
        if device.system != line.path
    )
    most = sum(line.nar_size for device, line in getting if device.system != line.path)
    for (old, new), count in changes.most_common(4):
        what = new if old != new else f"{new}, rebuilt"
        yield (Span(f"{count:>4}  ", "strong"), Span(f"{old} → " if old != new else "", "dim"), Span(what))
    if len(changes) > 4:
        yield (Span(f"      and {counted(len(changes) - 4, 'further change')}", "dim"),)
    if same:
        yield (Span(f"{same:>4}  already there", "dim"),)
    if most:
        yield (Span(f"      {size(most)} at most, less what devices already have", "dim"),)
    away = sorted(device.name for device, _ in getting if not device.online)
    if away:
        yield (
            Span(
                f"{len(away):>4}  not connected: {', '.join(map(clean, away[:4]))}" + ("…" if len(away) > 4 else ""),
                "warn",
            ),
        )
    ill = sum(status_of(device) in {"failed", "reverted", "refused", "unhealthy"} for device, _ in getting)
    if ill:
        yield (Span(f"{ill:>4}  failed or unhealthy now", "warn"),)
    full = [
        device.name
        for device, line in getting
        if device.facts is not None and device.system != line.path and device.facts.store_free_bytes < line.nar_size
    ]
    if full:
        yield (Span(f"{len(full):>4}  may lack the space: {', '.join(map(clean, full[:4]))}", "warn"),)


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
