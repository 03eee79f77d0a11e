"""What stands between devices and the coordinator in a test: a reverse proxy that can be hostile, broken or slow.

Hostile: `alter` changes whole answers. Broken: `refused` answers 502 below paths, `buffers` holds event streams back
until it gives up, as buffering proxies do. Slow: `stall` stops in the middle of a NAR until `release`.
"""

import contextlib
import http.client
import select
import socket
import threading
from collections.abc import Callable
from typing import Self

from tests.acceptance.bench import free_port

Alter = Callable[[str, bytes], bytes]
"""Path and body of a good answer to the body to send instead."""

STREAM = "/v1/agent/events"
REPORTS = "/v1/reports"
PATIENCE_S = 20
BUFFER_S = 0.3
_CHUNK_BYTES = 16 << 10


class Front:
    """Serves while the block lasts; everything may be changed at any time, and `drop` breaks what is open."""

    def __init__(self, host: str, upstream_port: int) -> None:
        self.host = host
        self.port = free_port()
        self.refused: tuple[str, ...] = ()
        self.buffers = False
        self.stall_after_bytes: int | None = None
        self.stalled = threading.Event()
        self.asked: list[str] = []
        self.reports: list[bytes] = []
        """Every report that a device sent, as it signed it, in the order of their coming."""
        self.alter: Alter | None = None
        self._upstream = ("127.0.0.1", upstream_port)
        self._released = threading.Event()
        self._nar_bytes = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("0.0.0.0", self.port), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The address that devices and admins use."""
        return f"http://{self.host}:{self.port}"

    def stall(self, after_bytes: int) -> None:
        """Stop after so many bytes of NARs from now on, until `release`."""
        self._nar_bytes = 0
        self._released.clear()
        self.stalled.clear()
        self.stall_after_bytes = after_bytes

    def release(self) -> None:
        """Let NARs through again."""
        self.stall_after_bytes = None
        self._released.set()

    def drop(self) -> None:
        """Break every connection, as a restart does."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.release()
        self.drop()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Serve one request; broken connections, on either side, are the point of this."""
        with self._lock:
            self._open.add(connection)
        try:
            with connection, contextlib.suppress(OSError, http.client.HTTPException):
                connection.settimeout(PATIENCE_S)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._answer(connection)
        finally:
            with self._lock:
                self._open.discard(connection)

    def _answer(self, connection: socket.socket) -> None:
        head, body = _request(connection)
        path = head[0].split()[1].decode()
        self.asked.append(path)
        if path == REPORTS:
            self.reports.append(body)
        streams = path.startswith(STREAM)
        if path.startswith(self.refused):
            connection.sendall(_BAD_GATEWAY)
            return
        try:
            upstream = socket.create_connection(self._upstream, PATIENCE_S)
        except OSError:
            connection.sendall(_BAD_GATEWAY)
            return
        with upstream:
            upstream.sendall(b"\r\n".join([*head, b"Connection: close", b"", b""]) + body)
            if streams and self.buffers:
                self._hold_back(connection, upstream)
            elif self.alter is not None and not streams:
                connection.sendall(_altered(self.alter, path, _all(upstream)))
            else:
                self._pump(connection, upstream, nar=path.startswith("/cache/nar/"))

    def _hold_back(self, connection: socket.socket, upstream: socket.socket) -> None:
        """Wait for the end of what never ends, then give up (nginx does so after 60 s)."""
        upstream.settimeout(BUFFER_S)
        with contextlib.suppress(TimeoutError):
            while upstream.recv(_CHUNK_BYTES):
                pass
        connection.sendall(_BAD_GATEWAY)

    def _pump(self, connection: socket.socket, upstream: socket.socket, *, nar: bool) -> None:
        while True:
            ready, _, _ = select.select([connection, upstream], [], [])
            if upstream in ready:
                chunk = upstream.recv(_CHUNK_BYTES)
                if not chunk or (nar and not self._may_pass(len(chunk))):
                    return
                connection.sendall(chunk)
            elif not connection.recv(1, socket.MSG_PEEK):
                return  # whoever asked is gone, and the coordinator is to notice

    def _may_pass(self, count: int) -> bool:
        with self._lock:
            self._nar_bytes += count
        if self.stall_after_bytes is not None and self._nar_bytes > self.stall_after_bytes:
            self.stalled.set()
            self._released.wait()
            return False
        return True


_BAD_GATEWAY = (
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 11\r\nConnection: close\r\n\r\nBad Gateway"
)


def _request(connection: socket.socket) -> tuple[list[bytes], bytes]:
    """Read one request: the lines of its head, without those on the connection, and its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(_CHUNK_BYTES)
        if not chunk:
            raise ConnectionError
        data += chunk
    lines, _, body = data.partition(b"\r\n\r\n")
    head = [line for line in lines.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    lengths = [line for line in head if line.lower().startswith(b"content-length:")]
    length = int(lengths[0].partition(b":")[2]) if lengths else 0
    parts = [body]
    held = len(body)
    while held < length:
        parts.append(chunk := connection.recv(1 << 20))
        held += len(chunk)
        if not chunk:
            raise ConnectionError
    return head, b"".join(parts)


def _all(upstream: socket.socket) -> bytes:
    """Read an answer to its end."""
    parts = []
    while chunk := upstream.recv(1 << 20):
        parts.append(chunk)
    return b"".join(parts)


def _altered(alter: Alter, path: str, answer: bytes) -> bytes:
    """Change the body of a good answer, and its length with it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if b" 200 " not in lines[0] + b" " or any(line.lower().startswith(b"transfer-encoding") for line in lines):
        return answer
    body = alter(path, body)
    kept = [line for line in lines if not line.lower().startswith(b"content-length:")]
    return b"\r\n".join([*kept, b"Content-Length: %d" % len(body), b"", body])
