"""Devices grouped by identical change: a fleet of like machines, each with a system of its own, says it in one line."""

from collections.abc import Iterable

import msgspec

from nixfleet.model.ids import store_name
from nixfleet.preview.closures import Shelf
from nixfleet.preview.diff import SystemDiff, system_diff
from nixfleet.preview.packages import package_of


class ChangePreview(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that go through the very same change; `diff` None while nothing is known of the systems' contents.

    `old` and `new` are the systems of the first of them.
    """

    devices: tuple[str, ...]
    old: str
    new: str
    nixos: tuple[str, str]
    diff: SystemDiff | None = None


def changes_of(named: Iterable[tuple[str, str, str]], shelf: Shelf) -> tuple[ChangePreview, ...]:
    """Group (name, system before, system after): by packages where they are known, else by the systems' names.

    The change of the most devices comes first.
    """
    diffs: dict[tuple[str, str], SystemDiff | None] = {}
    groups: dict[object, list[tuple[str, str, str]]] = {}
    for name, old, new in named:
        if (old, new) not in diffs:
            known = old in shelf.known and new in shelf.known
            diffs[old, new] = system_diff(old, new, shelf) if known else None
        groups.setdefault(_same(name, old, new, diffs[old, new]), []).append((name, old, new))
    ordered = sorted(groups.values(), key=lambda members: -len(members))
    return tuple(_change(members, diffs[members[0][1:]]) for members in ordered)


def _change(members: list[tuple[str, str, str]], diff: SystemDiff | None) -> ChangePreview:
    _, old, new = members[0]
    return ChangePreview(
        devices=tuple(name for name, _, _ in members),
        old=old,
        new=new,
        nixos=(package_of(old).version, package_of(new).version),
        diff=diff,
    )


def _same(name: str, old: str, new: str, diff: SystemDiff | None) -> object:
    """Give what is equal for devices that go through the same change, though each has a system of its own."""
    if diff is None:
        return version_for(name, old), version_for(name, new)
    changes = (*diff.changed, *diff.added, *diff.removed)
    packages = tuple((_plain(change.name), change.old, change.new) for change in changes)
    return diff.nixos, diff.kernel, diff.systemd, diff.reboot, packages


def version_for(name: str, path: str) -> str:
    """Give a system's version where its name is the device's own and a version, else its whole name."""
    return store_name(path).removeprefix(f"nixos-system-{name}-")


def _plain(name: str) -> str:
    """Take the host's name out of its system's: else no two hosts would ever change alike."""
    return "nixos-system" if name.startswith("nixos-system-") else name
