"""What is different between two systems, by package; kernel and systemd called out, and whether it takes a reboot."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import msgspec

from nixfleet.model.ids import store_name
from nixfleet.preview.closures import Closure, Known, Shelf
from nixfleet.preview.packages import package_of
from nixfleet.preview.parts import PARTS, Part
from nixfleet.preview.parts import changed as part_changed
from nixfleet.preview.parts import versions as part_versions

_NO_KERNEL: Final = ("linux-firmware", "linux-headers", "linux-pam")


class PackageChange(msgspec.Struct, frozen=True, kw_only=True):
    """A package of which the versions differ; one side is empty where it was added or removed."""

    name: str
    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    delta_bytes: int = 0


class SystemDiff(msgspec.Struct, frozen=True, kw_only=True):
    """The difference of two closures; `partial`: something of one of them is not known, and may be missing here.

    `rebuilt` counts packages of the same versions and other content. `nixos`, `kernel` and `systemd` are the versions
    before and after, empty where unknown. `reboot` names what only a reboot replaces; None: it cannot be told.
    """

    old: str
    new: str
    added: tuple[PackageChange, ...] = ()
    removed: tuple[PackageChange, ...] = ()
    changed: tuple[PackageChange, ...] = ()
    rebuilt: int = 0
    old_bytes: int = 0
    new_bytes: int = 0
    fetch_bytes: int = 0
    nixos: tuple[str, str] = ("", "")
    kernel: tuple[str, str] = ("", "")
    systemd: tuple[str, str] = ("", "")
    reboot: tuple[str, ...] | None = None
    partial: bool = False


def system_diff(old: str, new: str, shelf: Shelf) -> SystemDiff:
    """Compare two systems by their store paths."""
    before, after = shelf.closure(old), shelf.closure(new)
    olds, news = _packages(before, shelf.known), _packages(after, shelf.known)
    changes = [
        PackageChange(
            name=name,
            old=_versions(olds.get(name, ())),
            new=_versions(news.get(name, ())),
            delta_bytes=_bytes(news.get(name, ()), shelf.known) - _bytes(olds.get(name, ()), shelf.known),
        )
        for name in sorted(olds.keys() | news.keys())
        if olds.get(name) != news.get(name)
    ]
    both = [change for change in changes if change.name in olds and change.name in news]
    kernel, systemd = (tuple(_part_version(path, part, shelf.known) for path in (old, new)) for part in _HEADLINES)
    return SystemDiff(
        old=old,
        new=new,
        added=tuple(change for change in changes if change.name not in olds),
        removed=tuple(change for change in changes if change.name not in news),
        changed=tuple(change for change in both if change.old != change.new),
        rebuilt=sum(change.old == change.new for change in both),
        old_bytes=before.nar_bytes,
        new_bytes=after.nar_bytes,
        fetch_bytes=shelf.need(new, (old,)).download_bytes,
        nixos=(package_of(old).version, package_of(new).version),
        kernel=(kernel[0], kernel[1]),
        systemd=(systemd[0], systemd[1]),
        reboot=reboot_reasons(old, new, shelf.known),
        partial=before.partial or after.partial,
    )


_HEADLINES: Final[tuple[Part, Part]] = ("kernel", "systemd")


def _packages(closure: Closure, known: Known) -> dict[str, frozenset[str]]:
    """Group the known paths of a closure by package."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in closure.paths:
        if path in known:
            found[package_of(path).name].add(path)
    return {name: frozenset(paths) for name, paths in found.items()}


def _versions(paths: Iterable[str]) -> tuple[str, ...]:
    """List the versions among a package's paths; a package without any has the empty one."""
    return tuple(sorted({package_of(path).version for path in paths}))


def _bytes(paths: Iterable[str], known: Known) -> int:
    return sum(known[path].nar_bytes for path in paths)


def part_of(path: str) -> Part | None:
    """Tell which part of booting a path that a system refers to is."""
    base, package = store_name(path), package_of(path)
    if base.startswith("initrd-") or base == "initrd":
        return "initrd"
    if base.startswith("kernel-modules") or package.output.startswith("modules"):
        return "modules"
    if package.name == "systemd":
        return "systemd" if package.output in {"", "out"} else None
    is_linux = package.name == "linux" or package.name.startswith("linux-")
    return "kernel" if is_linux and package.version and package.name not in _NO_KERNEL else None


def parts_of(system: str, known: Known) -> dict[Part, frozenset[str]] | None:
    """Find the parts of booting among what a system itself refers to; None when nothing is known of it."""
    found = known.get(system)
    if found is None:
        return None
    parts: dict[Part, set[str]] = defaultdict(set)
    for path in found.references:
        part = part_of(path)
        if part is not None:
            parts[part].add(path)
    return {part: frozenset(paths) for part, paths in parts.items()}


def reboot_reasons(booted: str, new: str, known: Known) -> tuple[str, ...] | None:
    """Say what of a new system only a reboot brings, seen from the booted one; None when one of them is not known."""
    before, after = parts_of(booted, known), parts_of(new, known)
    if booted == new:
        return ()
    if before is None or after is None:
        return None
    return tuple(
        part_changed(part, before.get(part, frozenset()), after[part])
        for part in PARTS
        if after.get(part) and before.get(part, frozenset()) != after[part]
    )


def _part_version(system: str, part: Part, known: Known) -> str:
    return part_versions((parts_of(system, known) or {}).get(part, ()))
