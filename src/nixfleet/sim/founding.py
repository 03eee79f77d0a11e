"""Begin a made-up fleet: its root key, its coordinator's data, its devices and releases in the log.

Everything is signed and appended as a person would. Written past the coordinator is only what its cache tells of
systems: they are made up, and there is nothing to upload.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from nixfleet.client import acts
from nixfleet.client.acts import Head, create_root
from nixfleet.client.admin import Admin, sign
from nixfleet.client.bulk import Job
from nixfleet.client.upstream import BUILT_IN
from nixfleet.model.ids import Digest, matches
from nixfleet.model.statements import CacheRef, Device, Principal, Source, StopAt, Wave
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.server.setup import create_fleet
from nixfleet.sim.device import SimDevice
from nixfleet.sim.scenario import Release, Rollout, Scenario
from nixfleet.sim.systems import Catalog, System, first_system, released
from nixfleet.trust.narinfo import CacheKey
from nixfleet.trust.replay import State
from nixfleet.trust.signers import MemorySigner
from nixfleet.trust.sshsig import SecretKey

PERSON = "you"
HELD_S = 7 * 86_400


def found(folder: Path, name: str, address: str, key: SecretKey, cache_key: CacheKey, now: int) -> str:
    """Make a fleet's data folder, with one root key; give the fleet's id."""
    log_key, signer = SecretKey.generate(), MemorySigner(key)
    root = create_root(
        by=key.public.fingerprint,
        at=now,
        urls=(address,),
        principals=(Principal(name=PERSON, keys=(key.public.text, SecretKey.generate().public.text)),),
        log_key=log_key.public.text,
        caches=(CacheRef(url=BUILT_IN, key=cache_key.public),),
    )
    payload, signature = sign(signer, msgspec.structs.replace(root, note=name))
    return create_fleet(folder, payload, signature, log_key, cache_key.text, now=now)


def make_catalog(scenario: Scenario, devices: Sequence[SimDevice], catalog: Catalog, seed: int) -> None:
    """Fill the caches with what the scenario's releases bring to whom."""
    for device in devices:
        first = first_system(device.kind)
        catalog[first.path] = first
    for release in scenario.release:
        for device in _covered(release, devices):
            system = released(release, device.kind, seed)
            catalog[system.path] = system


async def enrol(admin: Admin, devices: Sequence[SimDevice], now: int) -> None:
    """Sign in all devices that do not ask, and hold those that are held."""
    jobs = [
        Job(actions=("enroll",), tags=(device.kind.tags,), build=_Enrolment(device))
        for device in devices
        if not device.kind.asks
    ]
    if jobs:
        await admin.perform(jobs)
    held = [device.id for device in devices if device.kind.held]
    if held:
        await admin.hold(held, now + HELD_S)


class _Enrolment:
    """Builds a device's enrolment on the newest log."""

    def __init__(self, device: SimDevice) -> None:
        self._device = device

    def __call__(self, head: Head, state: State) -> Device:
        """Build it."""
        one = self._device
        (made,) = acts.enroll(
            head, state, device=one.id, key=one.key.public.text, name=one.kind.name, tags=one.kind.tags, replace=False
        )
        return made


async def publish(admin: Admin, release: Release, devices: Sequence[SimDevice], seed: int) -> Digest:
    """Publish a release of the scenario; give its digest."""
    systems: Mapping[str, System] = {
        device.id: released(release, device.kind, seed) for device in _covered(release, devices)
    }
    acted = await admin.release(
        release.name,
        devices={device: system.closure for device, system in systems.items()},
        source=Source(url="https://git.example/fleet", rev=release.version[-12:]),
        note=release.note or None,
    )
    return acted.digest


async def begin(admin: Admin, rollout: Rollout) -> Digest:
    """Start a rollout of the scenario; give its digest."""
    wishes = RolloutWishes(
        select=dict(rollout.on),
        waves=[Wave(members=members) for members in rollout.waves] or None,
        all_at_once=rollout.all_at_once,
        max_in_flight=rollout.max_in_flight,
        stop_at=None if rollout.stop_at is None else StopAt(count=rollout.stop_at),
        soak_s=rollout.soak_s,
    )
    return (await admin.rollout(rollout.release, wishes, note=rollout.note or None)).digest


def _covered(release: Release, devices: Sequence[SimDevice]) -> list[SimDevice]:
    return [device for device in devices if not device.kind.asks and matches(release.on, device.kind.tags)]
