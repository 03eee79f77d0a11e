"""Replay: leaves a second with and without signature checks, a whole log's sync, and one more entry."""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import nacl.signing
from tests.factories import device_id

from bench.rows import Row
from bench.site import Site, names, serving
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.model.ids import FleetId
from nixfleet.model.wire import Entry
from nixfleet.trust import fields, sshkeys, sshsig
from nixfleet.trust.replay import State, replay
from nixfleet.trust.view import LogView

ENTRIES = 20_000
SMALL = 1_000
CHUNK = 2_000
DEVICE = names(1)[0]
SYNCS = 3
ONE_MORE = 40
VERIFIES = 2_000
MS = 1_000
US = 1_000_000

Entries = list[tuple[bytes, bytes | None]]


def measure() -> Iterator[Row]:
    """Measure on a log of device statements that a real coordinator has judged and serves."""
    with tempfile.TemporaryDirectory() as folder:
        yield from asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Row]:
    async with serving(folder / "site") as (site, api):
        await site.enroll(api, names(ENTRIES - 1 - ONE_MORE))
        syncs = [await _sync(folder / f"mirror-{number}", site, api, None) for number in range(SYNCS)]
        async with site.client(DEVICE) as own_api:
            own = [await _sync(folder / f"own-{number}", site, own_api, device_id(DEVICE)) for number in range(SYNCS)]
        mirror = Mirror.open(folder / "mirror-0", site.fleet.fleet)
        entries: Entries = [(mirror.leaf(index), mirror.payload(index)) for index in range(mirror.size)]
        seen, steps, appends = await _one_more(site, api, mirror, folder / "yardstick")
    verifies = _verifies()
    fleet = FleetId(site.fleet.fleet)
    whole, small = _leaves(fleet, entries), _leaves(fleet, entries[:SMALL])
    with patch.object(sshsig, "check", _trusting):
        blind = _leaves(fleet, entries)
    mine = _leaves(fleet, [(leaf, payload if index < 2 else None) for index, (leaf, payload) in enumerate(entries)])
    against = "PyNaCl verifies a second"
    return [
        _rate("replay, all payloads: leaves a second of processor time", whole, verifies, against, "≥ 10,000"),
        _rate(
            "replay, as a device (others' payloads withheld): leaves a second of processor time",
            mine,
            verifies,
            against,
        ),
        _rate("replay without checking signatures: leaves a second of processor time", blind, verifies, against),
        Row(
            what=f"replay: cost of a leaf in a log of {ENTRIES:,}, against {SMALL:,}",
            unit="µs",
            samples=[US / one for one in whole],
            budget="flat (ratio ≤ 1.25)",
            holds=statistics.median(small) / statistics.median(whole) <= 1.25,
            yardstick=f"in one of {SMALL:,}, µs",
            yard_samples=[US / one for one in small],
        ),
        _seconds(f"sync of a log of {ENTRIES:,} entries into a mirror on disk, all payloads", syncs, 5),
        _seconds(f"sync of a log of {ENTRIES:,} entries by a device", own, 5),
        Row(
            what=f"one more entry at {ENTRIES:,}: verified and replayed",
            unit="ms",
            samples=seen,
            budget="≤ 5 ms",
            holds=statistics.median(seen) <= 5,
        ),
        Row(
            what=f"one more entry at {ENTRIES:,}: verified, replayed and durable in the mirror",
            unit="ms",
            samples=steps,
            yardstick="one durable append to this disk, ms",
            yard_samples=appends,
        ),
    ]


def _rate(what: str, samples: list[float], yard: list[float], yardstick: str, budget: str = "none") -> Row:
    holds = None if budget == "none" else statistics.median(samples) >= 10_000
    return Row(
        what=what, unit="/s", samples=samples, budget=budget, holds=holds, yardstick=yardstick, yard_samples=yard
    )


def _seconds(what: str, samples: list[float], most_s: int) -> Row:
    holds = statistics.median(samples) <= most_s
    return Row(what=what, unit="s", samples=samples, budget=f"≤ {most_s} s", holds=holds)


async def _sync(folder: Path, site: Site, api: Client, device: str | None) -> float:
    begun = time.perf_counter()
    mirror = Mirror.open(folder, site.fleet.fleet, device=device)
    await mirror.catch_up(api)
    return time.perf_counter() - begun


async def _one_more(
    site: Site, api: Client, mirror: Mirror, file: Path
) -> tuple[list[float], list[float], list[float]]:
    """Append entries one by one; gives the milliseconds of verifying each, of that and keeping it, of a bare append."""
    seen, took, appends = [], [], []
    view = LogView(site.fleet.fleet)
    held = [(mirror.leaf(index), mirror.payload(index)) for index in range(mirror.size)]
    view.extend(mirror.checkpoint, 0, held)
    for number in range(ONE_MORE):
        await site.enroll(api, [f"more-{number}"])
        note, answer = await api.checkpoint(), await api.entries(mirror.size)
        entries: list[Entry] = list(answer.entries)
        seen.append(_timed(lambda: view.extend(note, view.size, [(one.leaf, one.payload) for one in entries])))  # noqa: B023  (called at once)
        took.append(_timed(lambda: mirror.extend(note, mirror.size, entries)))  # noqa: B023  (called at once)
        appends.append(_timed(lambda: _append(file)))
    return seen, took, appends


def _timed(act: Callable[[], object]) -> float:
    """Give the milliseconds that something takes."""
    begun = time.perf_counter()
    act()
    return (time.perf_counter() - begun) * MS


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(1_000))
        file.flush()
        os.fsync(file.fileno())


def _leaves(fleet: FleetId, entries: Entries) -> list[float]:
    """Replay entries in several parts; gives leaves a second of processor time, a sample for each part.

    As a program that has just started: no key was seen before.
    """
    sshkeys._decode.cache_clear()
    fields.fingerprint.cache_clear()
    state, rates = State(fleet), []
    for start in range(0, len(entries), CHUNK):
        part = entries[start : start + CHUNK]
        begun = time.process_time()
        for leaf, payload in part:
            replay(state, state.size, leaf, payload)
        rates.append(len(part) / (time.process_time() - begun))
    return rates


def _verifies() -> list[float]:
    """Give how many messages as long as a statement PyNaCl verifies in a second of processor time."""
    key = nacl.signing.SigningKey.generate()
    signed, verify = key.sign(bytes(150)), key.verify_key
    rates = []
    for _ in range(5):
        begun = time.process_time()
        for _ in range(VERIFIES):
            verify.verify(signed.message, signed.signature)
        rates.append(VERIFIES / (time.process_time() - begun))
    return rates


_trusting: Callable[..., None] = lambda *_: None  # noqa: E731  (a stand-in for a check that takes no time)
