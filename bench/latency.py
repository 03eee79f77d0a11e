"""From the act to the agents: a signed statement is appended, and every connected agent's receipt is timed."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import msgspec
from tests.factories import CACHE, T0, YEAR_S, closure

from bench import bare
from bench.rows import Row, percentile
from bench.site import Site, names, serving
from nixfleet.client.api import Client
from nixfleet.model.statements import Control, Release, Rollout, SelectLine, StopAt, Wave
from nixfleet.model.wire import Sync
from nixfleet.trust.statements import digest, encode

COUNTS = (100, 1_000)
ROUNDS = 20
GATE_ROUNDS = 5
DEADLINE_S = 30
MS = 1_000
P99_BUDGET_MS = {100: 100, 1_000: 1_000}
NOWHERE: dict[str, tuple[str, ...]] = {"env": ("nowhere",)}


class Ears:
    """The open streams of many agents; each keeps how long the log was at its newest event, and its gates."""

    def __init__(self, count: int) -> None:
        self._sizes = [0] * count
        self._gates: list[tuple[bytes, ...]] = [()] * count
        self._heard = asyncio.Event()
        self._wanted: Callable[[int], bool] = lambda _: False
        self._at: dict[int, float] = {}
        self.event_bytes = 0
        """How large the newest event is on the wire, about."""

    async def listen(self, number: int, client: Client) -> None:
        """Follow one agent's stream for ever."""
        async with aclosing(client.agent_events(1)) as events:
            async for sync in events:
                at = time.perf_counter()
                self._take(number, sync)
                if number == 0:
                    self.event_bytes = len(b"event: sync\ndata: \n\n") + len(msgspec.json.encode(sync))
                if self._wanted(number) and number not in self._at:
                    self._at[number] = at
                    self._heard.set()

    def _take(self, number: int, sync: Sync) -> None:
        self._sizes[number] = max(self._sizes[number], sync.start + len(sync.entries))
        self._gates[number] = sync.gates

    async def all(self, wanted: Callable[[int], bool], act: Callable[[], Awaitable[object]]) -> list[float]:
        """Act, and give for each agent the milliseconds until what is wanted of it held."""
        self._at, self._wanted = {}, wanted
        begun = time.perf_counter()
        await act()
        async with asyncio.timeout(DEADLINE_S):
            while len(self._at) < len(self._sizes):
                self._heard.clear()
                self._at |= {
                    number: time.perf_counter()
                    for number in range(len(self._sizes))
                    if number not in self._at and wanted(number)
                }
                if len(self._at) < len(self._sizes):
                    await self._heard.wait()
        return [(at - begun) * MS for at in self._at.values()]

    def size(self, number: int) -> int:
        """How long the log is as far as an agent was told."""
        return self._sizes[number]

    def gated(self, number: int, rollout: str) -> bool:
        """Tell whether an agent holds a gate of a rollout."""
        return any(rollout.encode() in gate for gate in self._gates[number])


def measure() -> Iterator[Row]:
    """Measure with so many agents, each with its yardstick."""
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            yield from asyncio.run(_measure(Path(folder), count))


async def _measure(folder: Path, count: int) -> list[Row]:
    async with AsyncExitStack() as stack:
        site, api = await stack.enter_async_context(serving(folder / "site", count))
        ears = Ears(count)
        tasks = []
        for number, name in enumerate(names(count)):
            client = await stack.enter_async_context(site.client(name))
            tasks.append(asyncio.create_task(ears.listen(number, client)))
        size = (await api.fleet()).log_size
        await ears.all(lambda number: ears.size(number) >= size, lambda: asyncio.sleep(0))
        entries = await _controls(site, api, ears)
        event_bytes = ears.event_bytes
        gates = await _gates(site, api, ears)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    yard = await _fan_out(count, event_bytes)
    budget = P99_BUDGET_MS[count]
    yardstick = f"bare fan-out of the same {event_bytes} bytes, ms"
    return [
        Row(
            what=f"act appended → each of {count:,} agents has it",
            unit="ms",
            samples=entries,
            budget=f"p99 ≤ {budget} ms" + (", p50 ≤ 500 ms (budget of 10,000)" if count > 100 else ""),
            holds=percentile(entries, 0.99) <= budget and percentile(entries, 0.5) <= budget / 2,
            yardstick=yardstick,
            yard_samples=yard,
        ),
        Row(
            what=f"rollout appended → each of {count:,} agents has its gate",
            unit="ms",
            samples=gates,
            yardstick=yardstick,
            yard_samples=yard,
        ),
    ]


async def _controls(site: Site, api: Client, ears: Ears) -> list[float]:
    """Pause and resume a rollout of nothing, over and over; gives milliseconds."""
    rollout = await _rollout(site, api, NOWHERE)
    await site.append(api, [rollout])
    of = digest(encode(rollout))
    samples: list[float] = []
    for seq in range(1, ROUNDS + 1):
        verb = "pause" if seq % 2 else "resume"
        header = await site.header(api)
        wanted = site.signed(Control(**header, rollout=of, seq=seq, verb=verb))  # type: ignore[arg-type]  # one of two
        size = (await api.fleet()).log_size + 1
        samples += await ears.all(
            lambda number, size=size: ears.size(number) >= size,  # type: ignore[misc]  # a default that binds
            lambda wanted=wanted: api.append([wanted]),  # type: ignore[misc]  # a default that binds
        )
    return samples


async def _gates(site: Site, api: Client, ears: Ears) -> list[float]:
    """Roll out to all at once, over and over; gives milliseconds."""
    samples: list[float] = []
    for _ in range(GATE_ROUNDS):
        wanted = await _rollout(site, api, {})
        of, signed = digest(encode(wanted)), site.signed(wanted)
        samples += await ears.all(
            lambda number, of=of: ears.gated(number, of),  # type: ignore[misc]  # a default that binds
            lambda signed=signed: api.append([signed]),  # type: ignore[misc]  # a default that binds
        )
    return samples


async def _rollout(site: Site, api: Client, select: dict[str, tuple[str, ...]]) -> Rollout:
    header = await site.header(api)
    name = f"r{header['base'].size}"
    lines = (SelectLine(select={}, closure=closure(name)),)
    release = Release(**header, name=name, caches=(CACHE,), lines=lines)
    await site.append(api, [release])
    return Rollout(
        **await site.header(api),
        kind="deploy",
        release=digest(encode(release)),
        select=select,
        waves=(Wave(members="100%"),),
        max_in_flight=10_000,
        stop_at=StopAt(count=1),
        soak_s=0,
        device_timeout_s=3_600,
        not_after=T0 + YEAR_S,
    )


async def _fan_out(count: int, event_bytes: int) -> list[float]:
    """Time the yardstick: the same bytes from a bare server to as many sockets of this process."""
    samples: list[float] = []
    data = b"x" * event_bytes
    with bare.running("fanout") as port:
        links = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
        _, giver = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(ROUNDS):
            begun = time.perf_counter()

            async def receive(reader: asyncio.StreamReader, begun: float = begun) -> float:
                await reader.readexactly(event_bytes)
                return (time.perf_counter() - begun) * MS

            receiving = [asyncio.create_task(receive(reader)) for reader, _ in links]
            giver.write(b"%d\n" % event_bytes + data)
            samples += await asyncio.gather(*receiving)
        for _, writer in links:
            writer.close()
        giver.close()
    return samples
