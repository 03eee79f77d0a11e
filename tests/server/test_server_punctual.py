"""Connections: who keeps the coordinator waiting is hung up on, and nobody else is."""

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.server.harness import DEADLINE_S, Rig, rig

from nixfleet.model.wire import ErrorBody
from nixfleet.server import punctual
from nixfleet.server.routes.bodies import OPEN_APPEND_BYTES

HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b"POST /v1/reports HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n{"


async def connected(one: Rig, sent: bytes) -> socket.socket:
    """Connect, and send something."""
    host, port = one.server.address.removeprefix("http://").split(":")
    peer = await asyncio.to_thread(socket.create_connection, (host, int(port)), DEADLINE_S)
    peer.sendall(sent)
    return peer


async def answer(peer: socket.socket) -> bytes:
    """Read one answer, which is a JSON object."""
    held = b""
    while not held.endswith(b"}"):
        held += await asyncio.to_thread(peer.recv, 65_536)
    return held


async def ending(peer: socket.socket) -> bytes:
    """Read until the other side hangs up."""

    def read() -> bytes:
        held = b""
        with peer, contextlib.suppress(ConnectionResetError):
            while data := peer.recv(65_536):
                held += data
        return held

    return await asyncio.to_thread(read)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give peers a tenth of a second for what they owe."""
    for name in ("HEAD_S", "BODY_S"):
        monkeypatch.setattr(punctual, name, 0.1)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-",
        BODY,
        BODY.replace(b"Content-Length: 9000", b"Transfer-Encoding: chunked").replace(b"{", b"1\r\n{\r\n"),
    ],
    ids=["nothing", "half a head", "half a body", "a body without an end"],
)
async def test_late_peer_is_hung_up_on(tmp_path: Path, sent: bytes) -> None:
    """Whatever a peer owes, a head or a body, it gets no answer and no more time than is its due."""
    async with rig(tmp_path / "data") as one:
        assert b"" == await ending(await connected(one, sent))


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("rest", [0, OPEN_APPEND_BYTES], ids=["a body without an end", "nothing more"])
async def test_refused_stranger_is_not_listened_to_for_ever(tmp_path: Path, rest: int) -> None:
    """A stranger whose large append was refused by its head is hung up on, whether or not its body ends."""
    async with rig(tmp_path / "data") as one:
        large = b"POST /v1/log HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{" % (OPEN_APPEND_BYTES + 1)
        peer = await connected(one, large)
        assert (await answer(peer)).startswith(b"HTTP/1.1 401")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await asyncio.to_thread(peer.sendall, b" " * rest)
        assert b"" == await ending(peer)


async def test_who_owes_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream and a peer that rests between requests outlive one that came after them and was late."""
    async with (
        rig(tmp_path / "data", "web-01") as one,
        one.client("web-01") as device,
        contextlib.aclosing(device.agent_events(0)) as stream,
    ):
        await anext(stream)
        with await connected(one, HEALTHZ) as resting:
            assert await answer(resting)
            with monkeypatch.context() as patch:
                patch.setattr(punctual, "HEAD_S", 0.1)
                assert b"" == await ending(await connected(one, b"GET"))
            resting.sendall(HEALTHZ)
            assert (await answer(resting)).startswith(b"HTTP/1.1 200")
        one.fleet.device("web-01", tags={"env": "test"})
        async with one.client("admin") as admin:
            await one.send(admin)
        assert 2 == (await anext(stream)).start


def long(head_bytes: int) -> bytes:
    """Make a request whose head has so many bytes."""
    return HEALTHZ[:-2] + b"X: " + b"a" * (head_bytes - len(HEALTHZ) - 5) + b"\r\n\r\n"


async def test_head_has_a_bound(tmp_path: Path) -> None:
    """A head of 30 KiB passes; one far over 32 KiB is refused in the shape of every refusal, though it came whole."""
    async with rig(tmp_path / "data") as one:
        with await connected(one, long(30 << 10)) as short:
            assert (await answer(short)).startswith(b"HTTP/1.1 200")
        head, _, body = (await ending(await connected(one, long(60 << 10)))).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert "user" == msgspec.json.decode(body, type=ErrorBody).kind


@pytest.mark.parametrize("method", [b"POST", b"HEAD"])
async def test_body_that_is_no_http_ends_the_connection(tmp_path: Path, method: bytes, caplog: Any) -> None:
    """A chunk without a length is refused, also where an answer may have no body, and is no failure of ours."""
    async with rig(tmp_path / "data") as one:
        chunk = b" /v1/reports HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        assert b"HTTP/1.1 4" in await ending(await connected(one, method + chunk))
    assert [] == [record for record in caplog.records if record.levelname == "ERROR"]


async def test_strangers_do_not_fill_the_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is no HTTP is answered, and leaves no line in the program's log."""
    async with rig(tmp_path / "data") as one:
        peer = await connected(one, b"\x16\x03\x01 no HTTP\r\n\r\n")
        assert (await ending(peer)).startswith(b"HTTP/1.1 400 ")
    assert [] == [record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")]
