"""The ages that commands show: by the clock of the coordinator, which dated what it tells."""

import asyncio

import pytest
from tests.answering import answering

from nixfleet.cli.clock import now
from nixfleet.cli.session import client_of, fleet_time

FLEET = "f" * 64
HOUR_S = 3_600


@pytest.mark.parametrize("ahead_s", [-HOUR_S, HOUR_S])
async def test_ages_are_told_by_the_coordinators_clock(ahead_s: int) -> None:
    """A fleet whose time runs ahead, as a demo's does, or a machine whose clock is off, shows no age that is wrong."""

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"id":"%s","server_time":%d}' % (FLEET.encode(), now() + ahead_s)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        await writer.drain()

    async with answering(tell) as port, client_of((f"http://127.0.0.1:{port}",), FLEET, None) as client:
        began = now()
        time = await fleet_time(client)
        assert began + ahead_s - 1 <= time <= now() + ahead_s + 1


async def test_where_it_does_not_say_ours_is_taken() -> None:
    """A coordinator that just went away makes no command fail that has its answer."""

    async def hang_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with answering(hang_up) as port, client_of((f"http://127.0.0.1:{port}",), FLEET, None, 1) as client:
        began = now()
        assert began <= await fleet_time(client) <= now()
