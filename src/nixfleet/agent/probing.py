"""Does something answer at an address? Probes of the device's own services, each over after its time as a whole.

Without the proxy of the environment, which is for the way out. It must never trust nor keep what is answered beyond
the status, and never follow a redirect.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from nixfleet.model.text import one_line

_INTERIM = range(100, 200)
"""Answers that come before the answer (RFC 9110, 15.2)."""
_INTERIM_MOST = 8
_HEAD_LINES = 200
_WHY_CHARS = 80


async def http_status(url: str, timeout_s: float) -> tuple[int | None, str]:
    """Give the status of a GET (RFC 9112), or None and why there is none."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _get(url), ""
    except TimeoutError:
        return None, f"no answer within {timeout_s:g} s"
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        return None, _why(error)


async def tcp_trouble(host: str, port: int, timeout_s: float) -> str:
    """Say why a port does not accept a connection; nothing when it does."""
    try:
        async with asyncio.timeout(timeout_s), _connected(host, port, None):
            return ""
    except (OSError, ValueError) as error:
        why = f"no answer within {timeout_s:g} s" if isinstance(error, TimeoutError) else _why(error)
        return f"{host}:{port} does not accept connections: {why}"


async def _get(url: str) -> int:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    named = parts.netloc.rpartition("@")[2]
    head = f"GET {target} HTTP/1.1\r\nHost: {named}\r\nUser-Agent: nixfleet\r\nConnection: close\r\n\r\n"
    async with _connected(host, port, ssl.create_default_context() if secure else None) as (reader, writer):
        writer.write(head.encode("ascii", "strict"))
        await writer.drain()
        for _ in range(_INTERIM_MOST):
            status = _status(await reader.readline())
            if status not in _INTERIM:
                return status
            for _ in range(_HEAD_LINES):
                if not (await reader.readline()).strip():
                    break
    raise ValueError("it announces an answer for ever")


def _status(line: bytes) -> int:
    """Read a status line (RFC 9112, 4). Raises: ValueError for what is none."""
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not (len(words[1]) == 3 and words[1].isdigit()):
        raise ValueError("no HTTP answer" if line else "the connection was closed")
    return int(words[1])


@asynccontextmanager
async def _connected(
    host: str, port: int, tls: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        yield reader, writer
    finally:
        # Not waited for: whoever answers is not to hold this up.
        writer.transport.abort()


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {one_line(error.verify_message, _WHY_CHARS)}"
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return one_line(text, _WHY_CHARS) or type(error).__name__
