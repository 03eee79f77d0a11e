"""A tiny HTTP/1.1 server on the loopback for client tests: it answers what a test says, byte for byte if need be."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from nixfleet.model.ids import Fingerprint
from nixfleet.model.wire import ErrorBody
from nixfleet.trust.httpsig import KeyOf, verify_head


@dataclass(frozen=True)
class Asked:
    """A request as it came in; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The path, still percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query without its question mark."""
        return self.target.partition("?")[2]

    def signer(self, *, now: int, fleet: str, key_of: KeyOf) -> Fingerprint:
        """Verify head and body as the coordinator does, and give who signed. Raises: Untrusted."""
        head = verify_head(
            self.headers, method=self.method, path=self.path, query=self.query, now=now, fleet=fleet, key_of=key_of
        )
        head.digest.check(self.body)
        return head.signer


@dataclass(frozen=True)
class Answer:
    """What to answer; with `stream`, chunks are sent until it ends, and then the connection is cut."""

    body: bytes = b"{}"
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncIterator[bytes] | None = None


Handler = Callable[[Asked], Answer | Awaitable[Answer | None] | None]


def refusal(kind: str, text: str, *, status: int = 400, server_time: int = 0) -> Answer:
    """Make an error answer as the protocol has it."""
    return Answer(msgspec.json.encode(ErrorBody(error=text, kind=kind, server_time=server_time)), status)


class Httpd:
    """A running server: its address and everything it was asked."""

    def __init__(self, handler: Handler) -> None:
        """Answer by `handler`; None as an answer cuts the connection without a word."""
        self.handler = handler
        self.asked: list[Asked] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        try:
            while asked := await _read(reader):
                self.asked.append(asked)
                said = self.handler(asked)
                answer = said if isinstance(said, Answer) or said is None else await said
                if answer is None or not await _write(writer, answer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def httpd(handler: Handler) -> AsyncIterator[Httpd]:
    """Run a server on a free port of the loopback."""
    running = Httpd(handler)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(running.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    running.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield running
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if not head:
        return None
    first, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target, headers, body)


async def _write(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """Write an answer; tell whether the connection can be used again."""
    headers = {"content-type": answer.kind, **answer.headers}
    if answer.stream is None:
        headers.setdefault("content-length", str(len(answer.body)))
    lines = [f"HTTP/1.1 {answer.status} Whatever", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode("latin-1") + (b"" if answer.stream else answer.body))
    await writer.drain()
    if answer.stream is None:
        return int(headers["content-length"]) == len(answer.body)
    async for chunk in answer.stream:
        writer.write(chunk)
        await writer.drain()
    return False
