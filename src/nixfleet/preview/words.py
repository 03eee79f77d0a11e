"""A preview, and a difference of systems, in lines of words: the same ones on the command line and in the console."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec

from nixfleet.model.ids import store_name
from nixfleet.model.text import age, clean, counted, size
from nixfleet.model.typed import duration
from nixfleet.preview.diff import PackageChange, SystemDiff
from nixfleet.preview.groups import ChangePreview, version_for
from nixfleet.preview.plan import DevicePreview, Preview

Tone = Literal["plain", "dim", "strong", "warn", "bad"]
NAMES: Final = 4
"""So many devices of a line are named."""
CHANGES: Final = 6
ILL: Final = ("failed", "reverted", "refused", "unhealthy")
"""What a device is that had better be looked at before it gets something new."""
WAVES: Final = 6


class Said(msgspec.Struct, frozen=True):
    """A line: how many devices it is about (None: no number before it), what is said of them, and how it sounds."""

    count: int | None
    text: str
    tone: Tone = "plain"


def said_of(preview: Preview, now: int) -> tuple[Said, ...]:
    """Put a preview in words, the most important first; `now` is unix seconds."""
    changing = [one for one in preview.devices if not one.same]
    return (
        *_waves(preview),
        *_changes(preview),
        *_same(preview),
        *_bytes(preview, changing),
        *(_reboots(changing) if preview.reading.state == "done" or preview.download_bytes is not None else ()),
        *_space(changing),
        *_away(preview.devices, now),
        *_ill(preview.devices),
        *_rights(preview.devices),
        *(Said(None, note, "warn") for note in preview.reading.notes),
    )


def _waves(preview: Preview) -> Iterator[Said]:
    total, waves = len(preview.devices), preview.waves
    how = f"at most {preview.max_in_flight:,} at once"
    soak = f", soak {duration(preview.soak_s)}" if len(waves) > 1 and preview.soak_s else ""
    yield Said(None, f"{counted(total, 'device')} in {counted(len(waves), 'wave')}, {how}{soak}", "strong")
    if len(waves) < 2:
        return
    for wave in waves[:WAVES]:
        gate = ", opened by hand" if wave.gate == "signed" else ""
        canary = wave.number == 1 and wave.devices == 1
        named = f": {_names(wave.names)}" if wave.names else ", drawn when it is signed" if canary else ""
        # Nothing soaks in a wave without devices, so it opens the next one at once: most likely a tag is misspelt.
        empty = ", so it holds nothing back" if not wave.devices and wave.number < len(waves) else ""
        tone: Tone = "warn" if empty else "dim"
        yield Said(wave.devices, f"in wave {wave.number} ({wave.members}){gate}{named}{empty}", tone)
    if len(waves) > WAVES:
        rest = waves[WAVES:]
        yield Said(sum(wave.devices for wave in rest), f"in {counted(len(rest), 'further wave')}", "dim")


def _changes(preview: Preview) -> Iterator[Said]:
    for number, change in enumerate(preview.changes[:CHANGES]):
        yield Said(len(change.devices), change_words(change), "plain" if number else "strong")
    rest = preview.changes[CHANGES:]
    if rest:
        yield Said(sum(len(change.devices) for change in rest), f"by {counted(len(rest), 'further change')}", "dim")


def change_words(change: ChangePreview) -> str:
    """Say in a line what changes: NixOS, kernel, systemd, and how many packages beside."""
    if not change.new:
        return "what it returns to is not in its newest report"
    if change.diff is None:
        return _renamed(change)
    return headline(change.diff)


def _renamed(change: ChangePreview) -> str:
    """Say what changes by the systems' names alone; of many hosts, each with a system of its own, by the versions."""
    old, new = store_name(change.old), store_name(change.new)
    if not old:
        return f"nothing known → {new}"
    if len(change.devices) > 1:
        before, after = (version_for(change.devices[0], path) for path in (change.old, change.new))
        if before != old and after != new:
            return f"nixos {before} → {after}" if before != after else f"nixos {after}, rebuilt"
    return f"{old} → {new}" if old != new else f"{new}, rebuilt"


def headline(diff: SystemDiff) -> str:
    """Say in a line what is different: NixOS, kernel and systemd by their versions, the rest by number."""
    named = [
        f"{name} {old or 'none'} → {new or 'none'}"
        for name, (old, new) in (("nixos", diff.nixos), ("kernel", diff.kernel), ("systemd", diff.systemd))
        if old != new
    ]
    counts = [
        f"{number:,} {word}"
        for number, word in (
            (len(diff.changed), "updated"),
            (len(diff.added), "added"),
            (len(diff.removed), "removed"),
            (diff.rebuilt, "rebuilt"),
        )
        if number
    ]
    packages = f"packages: {', '.join(counts)}" if counts else ""
    return "; ".join(part for part in (", ".join(named), packages) if part) or "the same packages"


def _same(preview: Preview) -> Iterator[Said]:
    same = sum(one.same for one in preview.devices)
    if same:
        yield Said(same, "already there", "dim")


def _bytes(preview: Preview, changing: Sequence[DevicePreview]) -> Iterator[Said]:
    if preview.reading.state == "reading":
        paths = preview.reading.paths
        yield Said(
            None, f"reading the caches … {counted(paths, 'path')} so far" if paths else "reading the caches …", "dim"
        )
    if not changing:
        return
    loads = [one.download_bytes for one in changing if one.download_bytes is not None]
    if preview.download_bytes is None or not loads:
        if preview.reading.state == "none" and preview.disk_bytes:
            yield Said(None, f"at most {size(preview.disk_bytes)} on disk, less what devices already have", "dim")
        if preview.reading.state == "done":
            yield Said(None, "how much they fetch is not known: no cache that can be read knows these systems", "warn")
        return
    if not preview.download_bytes and not preview.at_least:
        yield Said(None, "nothing to fetch: the devices have it", "strong")
        return
    bound = bound_words(preview)
    least, most = min(loads), max(loads)
    each = (
        "" if len(loads) < 2 else f", {size(most)} each" if least == most else f", {size(least)} to {size(most)} each"
    )
    disk = f"; {size(preview.disk_bytes)} on disk" if preview.disk_bytes is not None else ""
    yield Said(None, f"{bound}{size(preview.download_bytes)} to fetch in sum{each}{disk}", "strong")


def bound_words(one: Preview | DevicePreview) -> str:
    """Say how exact bytes are: nothing, ``at most``, ``at least``, or ``about`` where both hold."""
    if one.at_most and one.at_least:
        return "about "
    return "at most " if one.at_most else "at least " if one.at_least else ""


def _reboots(changing: Sequence[DevicePreview]) -> Iterator[Said]:
    reboot = [one for one in changing if one.reboot]
    by_reason: dict[tuple[str, ...], list[str]] = {}
    for one in reboot:
        by_reason.setdefault(one.reboot or (), []).append(one.name)
    for reasons, names in sorted(by_reason.items(), key=lambda pair: -len(pair[1]))[:CHANGES]:
        yield Said(
            len(names),
            f"need a reboot ({', '.join(reasons)})"
            if len(names) > 1
            else f"needs a reboot ({', '.join(reasons)}): {_names(names)}",
            "warn",
        )
    stuck = [one.name for one in reboot if one.falls_back is False]
    if stuck:
        yield Said(len(stuck), f"cannot fall back at boot: {_names(stuck)}", "bad")
    unknown = [one.name for one in changing if one.reboot is None]
    if unknown:
        yield Said(len(unknown), f"may need a reboot; their contents are not known: {_names(unknown)}", "dim")


def _space(changing: Sequence[DevicePreview]) -> Iterator[Said]:
    full = [one for one in changing if one.fits is False]
    for one in full[:NAMES]:
        short = f"{size(one.disk_bytes or 0)} needed, {size(one.store_free_bytes or 0)} free"
        yield Said(None, f"{clean(one.name)} has not the space: {short}", "bad")
    if len(full) > NAMES:
        yield Said(len(full) - NAMES, "more have not the space", "bad")
    maybe = [
        one.name
        for one in changing
        if one.fits is None and one.disk_bytes is not None and one.disk_bytes > (one.store_free_bytes or one.disk_bytes)
    ]
    if maybe:
        yield Said(len(maybe), f"may lack the space: {_names(maybe)}", "warn")


def _away(devices: Sequence[DevicePreview], now: int) -> Iterator[Said]:
    """Name who is not connected, since when: who went last comes first, within a minute by name."""
    minutes = {one.device: max(0, now - one.seen_at) // 60 for one in devices if not one.online}
    away = sorted((one for one in devices if not one.online), key=lambda one: (minutes[one.device], one.name))
    if away:
        names = [f"{one.name} ({age(max(0, now - one.seen_at)) if one.seen_at else 'never seen'})" for one in away]
        yield Said(len(away), f"not connected, and get it when they are back: {_names(names)}", "warn")


def _ill(devices: Sequence[DevicePreview]) -> Iterator[Said]:
    ill = [one.name for one in devices if one.status in ILL]
    if ill:
        yield Said(len(ill), f"failed or unhealthy now: {_names(ill)}", "warn")


def _rights(devices: Sequence[DevicePreview]) -> Iterator[Said]:
    by_need: dict[str, list[str]] = {}
    for one in devices:
        if one.needs:
            by_need.setdefault(one.needs, []).append(one.name)
    for need, names in sorted(by_need.items(), key=lambda pair: -len(pair[1]))[:CHANGES]:
        yield Said(len(names), f"will refuse: {_names(names)}: {need}", "bad")


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES:,} more" if len(names) > NAMES else ""
    return ", ".join(clean(name) for name in names[:NAMES]) + more


def changes_lines(changes: Sequence[ChangePreview], notes: Iterable[str] = ()) -> Iterator[Said]:
    """Put differences in words, each with the devices it is of; what could not be read comes last."""
    for change in changes:
        yield Said(len(change.devices), _names(change.devices), "strong")
        if change.old == change.new:
            yield Said(None, "the same system", "dim")
        elif change.diff is None:
            yield Said(None, change_words(change))
            yield Said(None, "what is in them is not known: no cache that can be read has both", "warn")
        else:
            yield from diff_lines(change.diff)
    yield from (Said(None, note, "warn") for note in notes)


def diff_lines(diff: SystemDiff) -> Iterator[Said]:
    """Put a difference of two systems in words: what changed by package, then added, removed, sizes, reboot."""
    bound = "at least " if diff.partial else ""
    yield Said(None, headline(diff), "strong")
    for title, changes in (("updated", diff.changed), ("added", diff.added), ("removed", diff.removed)):
        if changes:
            yield Said(len(changes), title, "dim")
            yield from (Said(None, f"  {package_words(change)}") for change in changes)
    if diff.rebuilt:
        yield Said(diff.rebuilt, "rebuilt, of the same version", "dim")
    delta = diff.new_bytes - diff.old_bytes
    yield Said(None, f"closure: {bound}{size(diff.old_bytes)} → {size(diff.new_bytes)} ({signed_size(delta)})")
    yield Said(None, f"to fetch from the one to the other: {bound}{size(diff.fetch_bytes)}")
    if diff.reboot is None:
        yield Said(None, "whether it takes a reboot is not known", "warn")
    elif diff.reboot:
        yield Said(None, f"takes a reboot: {', '.join(diff.reboot)}", "warn")
    else:
        yield Said(None, "takes no reboot", "dim")


def package_words(change: PackageChange) -> str:
    """Write a package's change: name, versions, and by how much it grows or shrinks."""
    sides = [_versions(side) for side in (change.old, change.new) if side]
    versions = " → ".join(sides) if sides != ["-"] else ""
    grown = f"  {signed_size(change.delta_bytes)}" if change.delta_bytes else ""
    return f"{clean(change.name)} {clean(versions)}".rstrip() + grown


def _versions(versions: Iterable[str]) -> str:
    return ", ".join(version or "-" for version in versions)


def signed_size(delta: int) -> str:
    """Write a change of size with its sign."""
    return f"+{size(delta)}" if delta > 0 else f"-{size(-delta)}" if delta < 0 else "±0 B"
