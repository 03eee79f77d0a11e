"""Yardstick servers, as programs of their own: a bare fan-out, and the coordinator's web stack doing nothing.

``python -m bench.bare fanout|nothing`` prints its port and serves until it is stopped.
"""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GO = b"\n"
"""What the one that gives the bytes ends them with; the length comes first, as decimal digits and another one."""


@contextmanager
def running(kind: str) -> Iterator[int]:
    """Run a yardstick server; gives its port."""
    command = [sys.executable, "-m", "bench.bare", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


async def fanout() -> None:
    """Send whatever one connection gives, a length and so many bytes, to every other, with nothing in between."""
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            while size := await reader.readline():
                writers.discard(writer)
                data = await reader.readexactly(int(size))
                for one in writers:
                    one.write(data)
        finally:
            writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4_096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def nothing() -> None:
    """Answer reports as the coordinator's stack does, reading the body and doing nothing."""
    import uvicorn
    from litestar import Litestar, Request, post

    @post("/v1/reports", status_code=200)
    async def report(request: Request[Any, Any, Any]) -> dict[str, str]:
        await request.body()
        return {}

    listener = socket.create_server(("127.0.0.1", 0), backlog=4_096)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(listener.getsockname()[1], flush=True)
    app = Litestar([report], openapi_config=None, logging_config=None)
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False)
    await uvicorn.Server(config).serve([listener])


if __name__ == "__main__":
    asyncio.run({"fanout": fanout, "nothing": nothing}[sys.argv[1]]())
