"""How hard a change is to confirm, from what it would touch; pure, the same rule for every act (console.md, Keys)."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from nixfleet.model.text import clean, counted
from nixfleet.model.views import DeviceView
from nixfleet.preview.plan import Preview
from nixfleet.tui.view.text import Line, Span

Level = Literal["yes", "count", "name"]
MANY = 10
"""More devices than this want the count typed."""


class Confirm(msgspec.Struct, frozen=True, kw_only=True):
    """A question: `level` says what answers it, `expect` what must be typed."""

    title: str
    lines: tuple[Line, ...]
    level: Level
    expect: str = ""
    verb: str = "yes"


def is_production(device: DeviceView) -> bool:
    """Tell whether a tag calls a device production."""
    return any(value.casefold() in {"prod", "production"} for value in device.tags.values())


def question(
    title: str,
    devices: Sequence[DeviceView],
    lines: Sequence[Line] = (),
    *,
    verb: str,
    reboot: bool = False,
    forever: str = "",
) -> Confirm:
    """Choose the level: `forever` is the name to type for what cannot be undone."""
    touched = blast_radius(devices)
    radius = (*lines, *(((), *touched) if lines and touched else touched))
    if forever:
        return Confirm(title=title, lines=radius, level="name", expect=forever, verb=verb)
    if len(devices) > MANY or reboot or any(is_production(device) for device in devices):
        return Confirm(title=title, lines=radius, level="count", expect=str(len(devices)), verb=verb)
    return Confirm(title=title, lines=radius, level="yes", verb=verb)


def foreseen(
    title: str, devices: Sequence[DeviceView], preview: Preview, lines: Sequence[Line], *, verb: str
) -> Confirm:
    """Ask with what a preview says, which names who is away itself; a reboot that it finds wants the count typed."""
    asked = question(title, devices, verb=verb, reboot=any(one.reboot for one in preview.devices))
    production = sum(is_production(device) for device in devices)
    serious: tuple[Line, ...] = (
        ((Span(f"{production:>5}  ", "strong"), Span("in production", "warn")),) if production else ()
    )
    return msgspec.structs.replace(asked, lines=(*lines, *serious))


def blast_radius(devices: Sequence[DeviceView]) -> tuple[Line, ...]:
    """Say which devices an act touches: how many, where, which are away."""
    if not devices:
        return ()
    names = ", ".join(clean(device.name) for device in devices[:6])
    more = f" and {len(devices) - 6} more" if len(devices) > 6 else ""
    away = sum(not device.online for device in devices)
    production = sum(is_production(device) for device in devices)
    lines: list[Line] = [(Span(counted(len(devices), "device"), "strong"), Span(f"  {names}{more}"))]
    if production:
        lines.append((Span(f"{production} in production", "warn"),))
    if away:
        lines.append((Span(f"{away} not connected: they get it when they are back", "dim"),))
    return tuple(lines)
