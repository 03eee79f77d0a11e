"""What the made-up fleet's caches know, and previews of it as they would come: at once, then better."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import msgspec
from tests.tui.console_fleet import MIB, NEW, OLD, fleet_devices, release_with_lines, system

from nixfleet.model.statements import Wave
from nixfleet.preview.closures import StoreObject
from nixfleet.preview.plan import Asked, Preview, Reading, Target, preview
from nixfleet.tui.ports import Deployment
from nixfleet.tui.preview import filled

_PACKAGES = {
    OLD: ("linux-6.12.30", "initrd-linux-6.12.30", "systemd-257.5", "openssl-3.4.1", "bash-5.2p37", "telnet-1.0"),
    NEW: ("linux-6.12.34", "initrd-linux-6.12.34", "systemd-257.5", "openssl-3.4.2", "bash-5.2p37", "ripgrep-14.1.1"),
}
_MIB = {"linux": 118, "initrd-linux": 31, "systemd": 41, "openssl": 9, "bash": 2, "telnet": 1, "ripgrep": 6}
_OWN = {"kiosk": {OLD: "chromium-136.0", NEW: "chromium-137.0"}, "nas": {OLD: "zfs-2.3.1", NEW: "zfs-2.3.3"}}
"""What a role has beside: web servers have nothing of their own."""


@dataclass
class Foresees:
    """How previews come in: where `held` is set the last one waits for it; `broken` ends them."""

    held: asyncio.Event | None = None
    broken: Exception | None = None


def known() -> dict[str, StoreObject]:
    """Give what caches say of both systems of every role."""
    found: dict[str, StoreObject] = {}
    for role in ("kiosk", "nas", "web"):
        for version, names in _PACKAGES.items():
            own = _OWN.get(role, {}).get(version)
            paths = [_path(name) for name in (*names, *([own] if own else []))]
            for path in paths:
                size = _MIB.get(path[44:].rpartition("-")[0], 240) * MIB
                found[path] = StoreObject(path=path, nar_bytes=size, file_bytes=size // 4)
            top = system(role, version)
            found[top] = StoreObject(path=top, nar_bytes=MIB, file_bytes=MIB // 4, references=tuple(paths))
    return found


def _path(name: str) -> str:
    return system("", name).replace("nixos-system--", "")


async def foresee(how: Foresees, deployment: Deployment) -> AsyncGenerator[Preview, None]:
    """Foresee a deployment: the waves drawn, then half of the caches read, then all."""
    devices = fleet_devices()
    form = filled(release_with_lines(deployment.release, devices), deployment, devices)
    asked = msgspec.structs.replace(form.asked, rollout="" if deployment.devices else "ab" * 32)
    async for one in _steps(how, asked):
        yield one


async def foresee_back(how: Foresees, rollout: str) -> AsyncGenerator[Preview, None]:
    """Foresee the way back of every device that runs a rollout's system."""
    targets = tuple(
        Target(device=one.id, name=one.name, tags=one.tags, path=system(one.tags["role"], OLD))
        for one in fleet_devices()
        if one.rollout == rollout and one.outcome == "confirmed"
    )
    asked = Asked(
        kind="rollback",
        release="",
        targets=targets,
        waves=(Wave(members=1), Wave(members="100%")),
        max_in_flight=1,
        soak_s=300,
        rollout="cd" * 32,
    )
    async for one in _steps(how, asked):
        yield one


async def _steps(how: Foresees, asked: Asked) -> AsyncGenerator[Preview, None]:
    views = {one.id: one for one in fleet_devices()}
    yield preview(asked, views, {}, Reading(state="reading"))
    if how.broken is not None:
        raise how.broken
    facts = known()
    if how.held is not None:
        some = dict(list(facts.items())[:5])
        yield preview(asked, views, some, Reading(state="reading", paths=len(some)))
        await how.held.wait()
    yield preview(asked, views, facts, Reading(state="done", paths=len(facts)))
