"""Systems as people tell them apart: NixOS's release and how old it is, not hashes; pure.

It must never decide anything: two systems of one version may differ, and a page of a device has the whole path.
"""

import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

from nixfleet.model.text import clean
from nixfleet.preview.packages import package_of
from nixfleet.tui.view.text import ago, store_name, system_change, system_short

_VERSION: Final = re.compile(r"([0-9]{2}\.[0-9]{2})\.([0-9]{8})(?:\.[0-9a-f]{7,40})?(?:\.dirty)?", re.ASCII)
"""As `lib.version` of nixpkgs in a flake has it: release, the day of its commit, the commit."""


class Nixos(NamedTuple):
    """What a system's version tells: its release, the day of its nixpkgs (``20260902``), and when that was."""

    release: str
    day: str
    at: int


def nixos_of(path: str) -> Nixos | None:
    """Read release and day out of a system's name; None where it tells no day."""
    found = _VERSION.fullmatch(package_of(path).version)
    if found is None:
        return None
    try:
        day = datetime.strptime(found[2], "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return None
    return Nixos(found[1], found[2], int(day.timestamp()))


def system_words(path: str, now: int) -> str:
    """Name a system by release and age, ``25.05, 12w old``; without a day by its version; else by hash and name."""
    nixos = nixos_of(path)
    if nixos is not None:
        return f"{nixos.release}, {ago(nixos.at, now)} old" if nixos.at <= now else f"{nixos.release}.{nixos.day}"
    is_system = store_name(path).startswith("nixos-system-")
    version = package_of(path).version if is_system else ""
    return clean(version) or system_short(path)


def change_words(old: str, new: str, cells: int) -> tuple[str, str]:
    """Name two systems beside each other: by release and day, or by what of it there is room for and differs."""
    one, two = nixos_of(old), nixos_of(new)
    if one is None or two is None or (one.release, one.day) == (two.release, two.day):
        return system_change(old, new, cells)
    told = [(f"{one.release}.{one.day}", f"{two.release}.{two.day}")]
    if one.release != two.release:
        told.append((one.release, two.release))
    elif one.day[:4] == two.day[:4]:
        told.append((f"{one.release}.{one.day}", two.day[4:]))
    return next((pair for pair in told if len(" → ".join(pair)) <= cells), system_change(old, new, cells))
