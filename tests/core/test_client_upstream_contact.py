"""Whether a binary cache answers: only one that speaks as a cache does, in time, with the passwords it asks for."""

import asyncio
from pathlib import Path

import pytest
from tests.answering import answering

from nixfleet.client.upstream import cache_answers

INFO = b"StoreDir: /nix/store\nWantMassQuery: 1\n"
PAGE = b"<html>Welcome to the hotel. Please log in.</html>"
ASKS = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    """Make a whole answer."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body)


async def asked(reply: bytes, netrc: Path | None = None, password: bytes = b"") -> bool:
    """Ask a server that gives this reply, to whoever knows the password."""
    silent = reply.endswith(b"...")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(reply if password in head else ASKS)
        await writer.drain()
        if silent:
            await reader.read()  # until the other side goes
            return
        writer.close()
        await writer.wait_closed()

    async with answering(serve) as port:
        file = None if netrc is None else str(netrc)
        return await cache_answers(f"http://127.0.0.1:{port}/", 0.3 if silent else 20, file)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (answer(INFO), True),
        (answer(PAGE), False),
        (answer(INFO, b"511 Network Authentication Required"), False),
        (answer(INFO.replace(b"/nix/store", b"/gnu/store")), False),
        (answer(INFO + b"x" * 10_000), False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n...", False),
        (b"SSH-2.0-OpenSSH\r\n", False),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\nContent-Length: 0\r\n\r\n", False),
    ],
)
async def test_only_what_speaks_as_a_cache_is_one(reply: bytes, *, expected: bool) -> None:
    """A login page answers 200 for everything: it shows no way to any cache."""
    assert await asked(reply) is expected


async def test_a_cache_with_a_password_answers_who_has_it(tmp_path: Path) -> None:
    """The file of passwords is the one Nix uses; a file that is garbage, or gone, is no crash."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login dev1 password s3cret\n")
    (tmp_path / "bad").write_text("mashine x\n")
    assert await asked(answer(INFO), tmp_path / "netrc", b"ZGV2MTpzM2NyZXQ=")
    assert not await asked(answer(INFO), None, b"ZGV2MTpzM2NyZXQ=")
    assert not await asked(answer(INFO), tmp_path / "bad")
    assert not await asked(answer(INFO), tmp_path / "gone")


async def test_nobody_there_is_no_cache() -> None:
    """A refused connection is an answer of nobody."""
    assert not await cache_answers("http://127.0.0.1:1", 1)
