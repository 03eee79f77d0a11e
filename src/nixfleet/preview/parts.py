"""The parts of a system that only a reboot brings, and how a change of one is said: for previews and devices alike."""

from collections.abc import Iterable
from typing import Final, Literal

from nixfleet.preview.packages import package_of

Part = Literal["kernel", "initrd", "modules", "systemd"]
PARTS: Final[tuple[Part, ...]] = ("kernel", "initrd", "modules", "systemd")
"""What only a reboot replaces whole; NixOS itself compares the first three (switch-to-configuration)."""


def changed(part: str, before: Iterable[str], after: Iterable[str]) -> str:
    """Say what of a part became what, by the store paths on both sides: with the versions, where those differ."""
    before = tuple(before)
    olds, news = versions(before), versions(after)
    if not olds or olds == news:
        return f"{part} {'rebuilt' if before else 'new'}"
    return f"{part} {olds} → {news}"


def versions(paths: Iterable[str]) -> str:
    """Write the versions among some paths, of which one without any has the empty one."""
    return "/".join(sorted({package_of(path).version for path in paths}))
