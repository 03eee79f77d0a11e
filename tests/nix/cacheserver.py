"""A binary cache over HTTP on loopback, served from a folder, that can be told to misbehave."""

import base64
import shutil
import socket
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

_CHUNK_BYTES = 16 << 10


@dataclass(frozen=True)
class Faults:
    """What is wrong with the cache; byte counts are of NAR data. The default is a healthy cache."""

    die_after_bytes: int | None = None  # in all: then the server is gone, until `revive`
    cut_after_bytes: int | None = None  # in each answer: then the connection breaks
    stall_after_bytes: int | None = None  # in all: then nothing more comes, and nothing ends
    rate_bytes_s: int | None = None
    status: tuple[str, int] | None = None  # a part of the path, and the status to answer there
    auth: str | None = None  # "user:password" that is asked for


class CacheServer:
    """Serves a folder until closed; `faults` may be changed at any time."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", faults: Faults | None = None) -> None:
        self.folder = folder
        self.host = host
        self.faults = faults or Faults()
        self.requests: list[str] = []
        self.nar_bytes = 0
        self.stalled = threading.Event()
        self.died = threading.Event()
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._ending = threading.Lock()
        self._open: set[socket.socket] = set()
        self.port = 0
        self.revive()

    @property
    def url(self) -> str:
        """The cache's address."""
        return f"http://{self.host}:{self.port}"

    def revive(self) -> None:
        """Listen (again), on the same port as before, with a new count of bytes."""
        self.nar_bytes = 0
        self.died.clear()
        self.stalled.clear()
        self._released.clear()
        self._server = _Server((self.host, self.port), _Handler)
        self._server.cache = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def die(self) -> None:
        """Stop listening and break every connection, as when the machine loses power."""
        with self._ending:
            if self.died.is_set():
                return
            self._released.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(10)
            with self._lock:
                for connection in self._open:
                    _break(connection)
            self.died.set()

    def close(self) -> None:
        """End the server, whatever state it is in."""
        self.die()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def narinfos(self) -> list[Path]:
        """List the narinfo files of the folder."""
        return sorted(self.folder.glob("*.narinfo"))

    def copy_to(self, folder: Path) -> Path:
        """Copy the cache's files, to spoil some of them."""
        shutil.copytree(self.folder, folder)
        return folder


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128  # Nix opens 25 connections at once; beyond the queue a connect waits a whole second
    cache: CacheServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of broken connections: they are the point."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536
    server: _Server

    def log_message(self, *_: object) -> None:
        """Log nothing; `requests` has it."""

    def setup(self) -> None:
        super().setup()
        with self.server.cache._lock:
            self.server.cache._open.add(self.connection)

    def finish(self) -> None:
        with self.server.cache._lock:
            self.server.cache._open.discard(self.connection)
        super().finish()

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, *, body: bool = True) -> None:
        cache = self.server.cache
        cache.requests.append(self.path)
        faults = cache.faults
        wanted = None if faults.auth is None else f"Basic {base64.b64encode(faults.auth.encode()).decode()}"
        file = (cache.folder / self.path.partition("?")[0].lstrip("/")).resolve()
        if wanted is not None and self.headers.get("Authorization") != wanted:
            self._empty(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Basic realm="cache"'})
        elif faults.status is not None and faults.status[0] in self.path:
            self._empty(faults.status[1], {})
        elif not file.is_relative_to(cache.folder.resolve()) or not file.is_file():
            self._empty(HTTPStatus.NOT_FOUND, {})
        else:
            self._serve(file, body=body)

    def _empty(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _serve(self, file: Path, *, body: bool) -> None:
        size = file.stat().st_size
        asked = self.headers.get("Range")
        start = int(asked.partition("=")[2].partition("-")[0]) if asked else 0
        self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        if not body:
            return
        with file.open("rb") as data:
            data.seek(start)
            sent = 0
            while chunk := data.read(_CHUNK_BYTES):
                if "/nar/" in self.path and not self._allowed(chunk, sent):
                    self.close_connection = True
                    return
                sent += len(chunk)
                self.wfile.write(chunk)

    def _allowed(self, chunk: bytes, sent: int) -> bool:
        """Count a piece of NAR data, and let the faults have their say; False: send no more."""
        cache, faults = self.server.cache, self.server.cache.faults
        with cache._lock:
            cache.nar_bytes += len(chunk)
            total = cache.nar_bytes
        if faults.die_after_bytes is not None and total > faults.die_after_bytes:
            self.wfile.flush()
            threading.Thread(target=cache.die, daemon=True).start()
            return False
        if faults.cut_after_bytes is not None and sent + len(chunk) > faults.cut_after_bytes:
            self.wfile.flush()
            _break(self.connection)
            return False
        if faults.stall_after_bytes is not None and total > faults.stall_after_bytes:
            self.wfile.flush()
            cache.stalled.set()
            cache._released.wait()
            return False
        if faults.rate_bytes_s is not None:
            self.wfile.flush()
            cache._released.wait(len(chunk) / faults.rate_bytes_s)
        return True


def _break(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
