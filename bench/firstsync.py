"""The first sync of a long log by an agent: how soon it follows, and what memory that costs, at most and ever after."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.factories import CACHE, YEAR_S, closure

from bench.agent import IMPORTS, Wire, bare_imports, running, settings
from bench.processes import memory_mib, peak_mib
from bench.rows import Row, ratio
from bench.site import BATCH, Site, enrolment, serving
from nixfleet.client.api import Client
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Control, Release, Rollout, SelectLine, Statement, StopAt, Wave
from nixfleet.trust.statements import digest, encode

ENTRIES = 20_000
ROUND = 1_000
"""Statements between two appends of a release, its rollout and the end of the rollout before."""
RUNS = 3
SETTLED_S = 2
BUDGET_MIB = 45 / 1.048576
ELSEWHERE: dict[str, tuple[str, ...]] = {"env": ("nowhere",)}


def measure() -> Iterator[Row]:
    """Measure real agent processes that join a real coordinator with a long log."""
    with tempfile.TemporaryDirectory() as folder:
        yield from asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Row]:
    wire = Wire()
    took: list[float] = []
    peaks: list[float] = []
    rests: list[float] = []
    again_took: list[float] = []
    again_rests: list[float] = []
    yard: list[float] = []
    async with wire.open(), serving(folder / "site", urls=(f"http://127.0.0.1:{wire.port}",)) as (site, api):
        wire.target = int(site.url.rpartition(":")[2])
        await _fill(site, api)
        for number in range(RUNS):
            own = folder / f"agent-{number}"
            own.mkdir()
            await settings(own, site, f"joiner-{number}")
            yard.append((await asyncio.to_thread(bare_imports))[1][0])
            for times, memories in ((took, rests), (again_took, again_rests)):
                begun = time.perf_counter()
                async with running(own, wire) as process:
                    times.append(wire.at - begun)
                    await asyncio.sleep(SETTLED_S)  # what follows the first event: facts, the first report
                    memories.append(memory_mib(process.pid)[0])
                    if times is took:
                        peaks.append(peak_mib(process.pid))
    log = f"a log of {ENTRIES:,} entries"
    return [
        Row(what=f"agent, first sync of {log}: start → joined and connected", unit="s", samples=took),
        Row(
            what=f"agent, first sync of {log}: most resident memory",
            unit="MiB",
            samples=peaks,
            yardstick=f"`{IMPORTS}` kept alive",
            yard_samples=yard,
        ),
        _memory(f"agent, connected and idle after the first sync of {log}: resident memory", rests, yard),
        Row(what=f"agent, restarted with {log}: start → connected", unit="s", samples=again_took),
        _memory(f"agent, restarted with {log}: resident memory", again_rests, yard),
    ]


def _memory(what: str, samples: list[float], yard: list[float]) -> Row:
    return Row(
        what=what,
        unit="MiB",
        samples=samples,
        budget="≤ 45 MB and ≤ 1.25 of the yardstick",
        holds=max(samples) <= BUDGET_MIB and ratio(samples, yard) <= 1.25,
        yardstick=f"`{IMPORTS}` kept alive",
        yard_samples=yard,
    )


async def _fill(site: Site, api: Client) -> None:
    """Append what a fleet's log is made of: devices, among them releases, rollouts and controls of these."""
    before: Digest | None = None
    for first in range(0, ENTRIES - 1, ROUND):
        header = await site.header(api)
        acts: list[Statement] = []
        release = Release(
            **header,
            name=f"r-{first}",
            caches=(CACHE,),
            lines=(SelectLine(select={}, closure=closure(f"r-{first}")),),
        )
        rollout = Rollout(
            **header,
            kind="deploy",
            release=digest(encode(release)),
            select=ELSEWHERE,
            waves=(Wave(members="100%"),),
            max_in_flight=100,
            stop_at=StopAt(count=1),
            soak_s=0,
            device_timeout_s=3_600,
            not_after=header["at"] + YEAR_S,
        )
        acts += [release, rollout]
        if before is not None:
            acts.append(Control(**header, rollout=before, seq=1, verb="cancel"))
        before = digest(encode(rollout))
        left = min(ROUND, ENTRIES - 1 - first) - len(acts)
        acts += [enrolment(header, f"dev-{first + number:05d}") for number in range(left)]
        for start in range(0, len(acts), BATCH):
            await site.append(api, acts[start : start + BATCH])
