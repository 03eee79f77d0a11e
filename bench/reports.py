"""Device-signed reports: how many a second a coordinator verifies and commits, against a route that does nothing."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from tests.factories import device_id, key

from bench import bare
from bench.rows import Row, percentile
from bench.site import Site, names, now, serving
from nixfleet.model.device import Report
from nixfleet.model.statements import LogState
from nixfleet.model.wire import Signed
from nixfleet.trust.reports import sign_report

DEVICES = 500
EACH = 12
LINKS = 64
TURN = 1_000
MS = 1_000


def measure() -> Iterator[Row]:
    """Measure over kept connections, each sending its next report when the last is answered."""
    with tempfile.TemporaryDirectory() as folder:
        yield from asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Row]:
    async with serving(folder / "site", DEVICES) as (site, api):
        view = await api.fleet()
        log = LogState(size=view.log_size, root=view.log_root)
        requests = [_request(site, name, seq, log) for seq in range(1, EACH + 1) for name in names(DEVICES)]
        times: list[float] = []
        rates: list[float] = []
        empty: list[float] = []
        empty_rates: list[float] = []
        with bare.running("nothing") as port:
            for start in range(0, len(requests), TURN):
                # In turns, so that what else runs on the machine meets both alike.
                part = requests[start : start + TURN]
                await _load(int(site.url.rpartition(":")[2]), part, times, rates)
                await _load(port, part, empty, empty_rates)
        reported = [one for one in await api.devices() if one.reported_at]
        assert len(reported) == DEVICES, f"only {len(reported)} of {DEVICES} reports were taken"
    return [
        Row(
            what=f"signed reports, verified and durable: a second, over {LINKS} connections",
            unit="/s",
            samples=rates,
            budget="≥ 2,500/s",
            holds=statistics.median(rates) >= 2_500,
            yardstick="the same route doing nothing, a second",
            yard_samples=empty_rates,
        ),
        Row(
            what="signed reports: request → durable answer",
            unit="ms",
            samples=times,
            budget="p99 ≤ 150 ms",
            holds=percentile(times, 0.99) <= 150,
            yardstick="the same route doing nothing, ms",
            yard_samples=empty,
        ),
    ]


def _request(site: Site, name: str, seq: int, log: LogState) -> bytes:
    report = Report(
        v=1, fleet=site.fleet.fleet, device=device_id(name), seq=seq, at=now(), log=log, protocol=1,
        boot_id="boot", system="/run/old", booted="/run/old", healthy=True,
    )  # fmt: skip
    signed: Signed = sign_report(report, key(name))
    body = msgspec.json.encode(signed)
    head = (
        "POST /v1/reports HTTP/1.1",
        "Host: bench",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


async def _load(port: int, requests: Sequence[bytes], times: list[float], rates: list[float]) -> None:
    """Send all requests; adds each one's milliseconds, and the rate of all."""
    waiting = iter(requests)

    async def send() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in waiting:
            begun = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            await reader.readexactly(length)
            times.append((time.perf_counter() - begun) * MS)
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(LINKS)))
    rates.append(len(requests) / (time.perf_counter() - begun))
