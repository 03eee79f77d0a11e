"""The agent at rest: how soon it is connected, and what it costs a device while nothing happens."""

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from tests.factories import key

from bench.processes import cpu_s, memory_mib
from bench.rows import Row, ratio
from bench.site import Site, now, serving
from nixfleet.client.admin import Admin
from nixfleet.client.mirror import Mirror
from nixfleet.trust.signers import MemorySigner

RUNS = 7
IDLE_S = 30
HOUR_S = 3_600
KB = 1_000
DEADLINE_S = 30
IMPORTS = "import asyncio, httpx, msgspec, nacl.signing"
EVENTS = b"event: sync"


class Wire:
    """A forwarder between agent and coordinator: it counts bytes, and notes when the event stream has begun."""

    def __init__(self) -> None:
        self.port = 0
        self.target = 0
        self.bytes = 0
        self.connected = asyncio.Event()
        self.at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Listen on a free port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far, away = await asyncio.open_connection("127.0.0.1", self.target)
        for source, sink in ((reader, away), (far, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                self.bytes += len(data)
                if EVENTS in data:
                    self.at = time.perf_counter()
                    self.connected.set()
                sink.write(data)
        sink.close()


def measure() -> Iterator[Row]:
    """Measure a real agent process with a coordinator of its own."""
    with tempfile.TemporaryDirectory() as folder:
        yield from asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Row]:
    wire = Wire()
    async with wire.open(), serving(folder / "site", urls=(f"http://127.0.0.1:{wire.port}",)) as (site, _):
        wire.target = int(site.url.rpartition(":")[2])
        await settings(folder, site)
        starts, yard_starts, resident, proportional, yard_resident, yard_proportional = ([] for _ in range(6))
        async with running(folder, wire):
            await asyncio.to_thread(bare_imports)  # both once before: what follows starts as a member, from bytecode
        for _ in range(RUNS):
            yard = await asyncio.to_thread(bare_imports)
            yard_starts.append(yard[0])
            yard_resident.append(yard[1][0])
            yard_proportional.append(yard[1][1])
            begun = time.perf_counter()
            async with running(folder, wire) as process:
                starts.append(wire.at - begun)
                await asyncio.sleep(1)  # what follows the first event: facts, the first report
                rss, pss = memory_mib(process.pid)
                resident.append(rss)
                proportional.append(pss)
        async with running(folder, wire) as process:
            await asyncio.sleep(2)
            cpu_percent, kb_per_hour = await _idle(process, wire)
            aged = memory_mib(process.pid)[0]
    return [
        Row(
            what="agent, connected and idle: resident memory",
            unit="MiB",
            samples=[*resident, aged],
            budget="≤ 45 MB and ≤ 1.25 of the yardstick",
            holds=max(resident) * 1.048576 <= 45 and ratio(resident, yard_resident) <= 1.25,
            yardstick=f"`{IMPORTS}` kept alive",
            yard_samples=yard_resident,
        ),
        Row(
            what="agent, connected and idle: proportional memory",
            unit="MiB",
            samples=proportional,
            yardstick="the same",
            yard_samples=yard_proportional,
        ),
        Row(
            what="agent: start → connected",
            unit="s",
            samples=starts,
            budget="≤ 0.8 s",
            holds=statistics.median(starts) <= 0.8,
            yardstick="those imports",
            yard_samples=yard_starts,
        ),
        Row(
            what=f"agent, idle for {IDLE_S} s: processor",
            unit="%",
            samples=[cpu_percent],
            budget="≤ 0.1 %",
            holds=cpu_percent <= 0.1,
        ),
        Row(
            what=f"agent, idle for {IDLE_S} s: traffic above TCP, for an hour",
            unit="kB",
            samples=[kb_per_hour],
            budget="≤ 20 kB",
            holds=kb_per_hour <= 20,
        ),
    ]


async def settings(folder: Path, site: Site, name: str = "dev-1") -> None:
    """Write the settings of an agent that joins by a token of its own, through whatever the root's URL leads to."""
    async with site.client("admin") as api:
        mirror = Mirror.open(folder / "mirror", site.fleet.fleet)
        admin = Admin(api, mirror, MemorySigner(key("admin")), now)
        (folder / "token").write_text(await admin.make_token({"env": "prod"}, 1, 1))
    text = f'name = "{name}"\ntoken_file = "{folder}/token"\nstate_dir = "{folder}/state"\nvolatile_state = true\n'
    (folder / "agent.toml").write_text(text)


@asynccontextmanager
async def running(folder: Path, wire: Wire) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """Run the agent and wait until its stream brings the first event."""
    wire.connected.clear()
    command = [str(Path(sys.executable).with_name("nixfleet")), "agent", "run", "--config", str(folder / "agent.toml")]
    with (folder / "agent.log").open("ab") as log:
        process = _started(command, log)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await wire.connected.wait()
        yield process
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, DEADLINE_S)


def _started(command: list[str], log: BinaryIO) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "LC_ALL": "C.UTF-8"})


async def _idle(process: "subprocess.Popen[bytes]", wire: Wire) -> tuple[float, float]:
    """Watch it do nothing; gives percent of a processor, and kB an hour."""
    used_s, carried, begun = cpu_s(process.pid), wire.bytes, time.perf_counter()
    await asyncio.sleep(IDLE_S)
    span_s = time.perf_counter() - begun
    return (cpu_s(process.pid) - used_s) / span_s * 100, (wire.bytes - carried) / span_s * HOUR_S / KB


def bare_imports() -> tuple[float, tuple[float, float]]:
    """Start the bare imports; gives seconds, and memory."""
    code = f"{IMPORTS}; import sys; print(0, flush=True); sys.stdin.read()"
    begun = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        taken = time.perf_counter() - begun
        memory = memory_mib(process.pid)
        process.stdin.close()
    return taken, memory
