"""The preview of a rollout: who is in which wave, what each device would fetch, whether it fits, reboots, can go back.

One function for command line and console alike. Whatever is not known is said to be unknown, never left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from nixfleet.model.ids import Tags
from nixfleet.model.statements import Wave
from nixfleet.model.views import DeviceView
from nixfleet.preview.closures import Known, Shelf
from nixfleet.preview.diff import reboot_reasons
from nixfleet.preview.groups import ChangePreview, changes_of
from nixfleet.query import status_of
from nixfleet.rollout import Member, assigned

NAMED_MOST = 20
"""A wave of more devices is not named one by one."""
NO_FALLBACK = "none"
"""The fact of a boot loader that cannot go back by itself (rollouts-and-agent.md, Reboot)."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A device and what it would get; `path` empty: that is not known, as where a rollback leads."""

    device: str
    name: str
    tags: Tags
    path: str
    nar_bytes: int = 0


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout that somebody is about to sign; `rollout` is its digest, once it is written, which draws the waves.

    `needs` says of devices (ids) what right the signer lacks there, and who has it.
    """

    kind: Literal["deploy", "rollback"] = "deploy"
    release: str
    targets: tuple[Target, ...]
    waves: tuple[Wave, ...]
    max_in_flight: int
    soak_s: int
    rollout: str = ""
    needs: Mapping[str, str] = {}


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How far the caches are read: not at all, still, to their end; paths known so far, and what kept it from more."""

    state: Literal["none", "reading", "done"] = "none"
    paths: int = 0
    notes: tuple[str, ...] = ()


class DevicePreview(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollout would do to one device; None is unknown, `wave` 0 not drawn yet.

    `fits` compares what it lacks with its free space, `falls_back` tells whether its boot loader can go back by itself.
    """

    device: str
    name: str
    wave: int
    system: str
    intended: str
    same: bool
    online: bool
    seen_at: int
    status: str = ""
    """The one word that sums it up now, as in lists and queries."""
    download_bytes: int | None = None
    disk_bytes: int | None = None
    at_most: bool = False
    at_least: bool = False
    store_free_bytes: int | None = None
    fits: bool | None = None
    reboot: tuple[str, ...] | None = None
    falls_back: bool | None = None
    needs: str = ""


class WavePreview(msgspec.Struct, frozen=True, kw_only=True):
    """A wave: how it is defined, how many devices it takes, and their names where they are certain and few."""

    number: int
    members: str
    gate: str
    devices: int
    names: tuple[str, ...] = ()


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout as it would go; sums are over the devices that it changes, and None while nothing is known."""

    kind: str
    release: str
    devices: tuple[DevicePreview, ...]
    waves: tuple[WavePreview, ...]
    changes: tuple[ChangePreview, ...]
    max_in_flight: int
    soak_s: int
    drawn: bool
    download_bytes: int | None = None
    disk_bytes: int | None = None
    at_most: bool = False
    at_least: bool = False
    reading: Reading = Reading()


def roots_of(asked: Asked, views: Mapping[str, DeviceView]) -> tuple[str, ...]:
    """List the systems whose closures tell what would happen: the new ones first, then those that devices report."""
    news = [target.path for target in asked.targets if target.path]
    olds = [path for target in asked.targets for path in held_by(views.get(target.device))]
    return tuple(dict.fromkeys((*news, *olds)))


def held_by(view: DeviceView | None) -> tuple[str, ...]:
    """List the systems that a device reports to have: the running one, the booted one, the one before."""
    if view is None:
        return ()
    return tuple(dict.fromkeys(path for path in (view.system, view.booted, view.previous) if path))


def preview(asked: Asked, views: Mapping[str, DeviceView], known: Known, reading: Reading = Reading()) -> Preview:  # noqa: B008  immutable
    """Work out what a rollout would do, from what devices report (`views` by id) and what is known of store paths."""
    shelf = Shelf(known)
    drawn = _drawn(asked)
    wave_of = {device: number for number, wave in enumerate(drawn, 1) for device in wave}
    certain = bool(asked.rollout) or len(asked.waves) == 1
    devices = tuple(
        _device(target, views.get(target.device), shelf, wave_of[target.device] if certain else 0, asked)
        for target in sorted(asked.targets, key=lambda one: (one.name, one.device))
    )
    changing = [one for one in devices if not one.same]
    loads = [one.download_bytes for one in changing if one.download_bytes is not None]
    stores = [one.disk_bytes for one in changing if one.disk_bytes is not None]
    return Preview(
        kind=asked.kind,
        release=asked.release,
        devices=devices,
        waves=tuple(_waves(asked, drawn)),
        changes=changes_of([(one.name, one.system, one.intended) for one in changing], shelf),
        max_in_flight=asked.max_in_flight,
        soak_s=asked.soak_s,
        drawn=certain,
        download_bytes=sum(loads) if loads or not changing else None,
        disk_bytes=sum(stores) if stores or not changing else None,
        at_most=any(one.at_most for one in changing),
        at_least=any(one.at_least or one.download_bytes is None for one in changing),
        reading=reading,
    )


def _drawn(asked: Asked) -> tuple[tuple[str, ...], ...]:
    members = [Member(device=target.device, name=target.name, tags=target.tags) for target in asked.targets]
    return assigned(asked.rollout, asked.waves, members)


def _waves(asked: Asked, drawn: Sequence[Sequence[str]]) -> Iterable[WavePreview]:
    """Count the waves; before the digest is there only those are named that no count can take devices from."""
    names = {target.device: target.name for target in asked.targets}
    certain = True
    for number, (wave, devices) in enumerate(zip(asked.waves, drawn, strict=True), 1):
        certain = certain and (bool(asked.rollout) or isinstance(wave.members, dict) or len(asked.waves) == 1)
        yield WavePreview(
            number=number,
            members=_members(wave),
            gate=wave.gate,
            devices=len(devices),
            names=tuple(names[device] for device in devices) if certain and len(devices) <= NAMED_MOST else (),
        )


def _members(wave: Wave) -> str:
    if isinstance(wave.members, dict):
        return " ".join(f"{tag}={','.join(values)}" for tag, values in sorted(wave.members.items()))
    return str(wave.members)


def _device(target: Target, view: DeviceView | None, shelf: Shelf, wave: int, asked: Asked) -> DevicePreview:
    """Say what would happen to one device."""
    base = DevicePreview(
        device=target.device,
        name=target.name,
        wave=wave,
        system=view.system if view is not None else "",
        intended=target.path,
        same=view is not None and bool(target.path) and view.system == target.path,
        online=view is not None and view.online,
        seen_at=view.seen_at if view is not None else 0,
        status=status_of(view) if view is not None else "",
        store_free_bytes=view.facts.store_free_bytes if view is not None and view.facts is not None else None,
        falls_back=view.facts.boot_fallback != NO_FALLBACK if view is not None and view.facts is not None else None,
        needs=asked.needs.get(target.device, ""),
    )
    if not target.path:
        return base
    if base.same:
        return msgspec.structs.replace(base, download_bytes=0, disk_bytes=0, fits=True, reboot=())
    held = held_by(view)
    booted = view.booted if view is not None else ""
    if target.path in held or asked.kind == "rollback":
        # Complete there: a device keeps the systems that it can go back to (rollouts-and-agent.md, Preflight).
        reboot = reboot_reasons(booted or base.system, target.path, shelf.known)
        return msgspec.structs.replace(base, download_bytes=0, disk_bytes=0, fits=True, reboot=reboot)
    return _sized(base, target, held, shelf, booted)


def _sized(base: DevicePreview, target: Target, held: Sequence[str], shelf: Shelf, booted: str) -> DevicePreview:
    """Add what a device lacks; of a system of which nothing is known its signed size is the most it can take."""
    free_bytes = base.store_free_bytes
    if target.path not in shelf.known:
        room = target.nar_bytes or None
        enough = room is not None and free_bytes is not None and room <= free_bytes
        return msgspec.structs.replace(base, disk_bytes=room, at_most=room is not None, fits=True if enough else None)
    need = shelf.need(target.path, held)
    fits = None if free_bytes is None else need.disk_bytes <= free_bytes
    if fits is False and _has_more(held, shelf):
        fits = None  # it may have much of it already, as part of what no cache knows
    return msgspec.structs.replace(
        base,
        download_bytes=need.download_bytes,
        disk_bytes=need.disk_bytes,
        at_most=need.at_most or not held,
        at_least=need.at_least,
        fits=None if fits and need.at_least else fits,
        reboot=reboot_reasons(booted or base.system, target.path, shelf.known),
    )


def _has_more(held: Sequence[str], shelf: Shelf) -> bool:
    return not held or any(closure.partial for closure in map(shelf.closure, held))
