"""Run a coordinator under uvicorn: in a thread with its own event loop (console), or as the program itself.

It never touches the signals of a program that embeds it.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import uvicorn
from litestar.types import ASGIApp, Receive, Scope, Send

from nixfleet.errors import UserError
from nixfleet.server.app import make_app
from nixfleet.server.claim import Unclaimed, forget, wait_for_claim
from nixfleet.server.coordinator.clock import Wall
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.lock import FolderLock, running
from nixfleet.server.punctual import HEAD_BYTES, Punctual
from nixfleet.server.settings import ServerSettings
from nixfleet.server.setup import keep_private, make_folder

__all__ = ["Server", "ServerSettings", "run_forever", "running"]

_log = logging.getLogger(__name__)

_START_S = 120
_STOP_S = 15
_GRACE_S = 5
_BACKLOG = 4_096


class Server:
    """A coordinator in a thread of its own: what stops the caller's loop does not stop the fleet."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        wall: Wall = time.time,  # noqa: TID251 - the edge
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        """Prepare; `new_loop` makes the event loop, whose clock goes as `wall` does."""
        self._settings = settings
        self._new_loop = new_loop
        self._wall = wall
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._told = threading.Event()
        self._error: BaseException | None = None
        self.address = ""
        """``http://host:port`` once started."""

    def start(self) -> str:
        """Start and return the address. Raises: UserError (no fleet, port in use, already served), Unreachable."""
        self._thread = threading.Thread(target=self._run, name="nixfleet-coordinator", daemon=True)
        self._thread.start()
        if not self._told.wait(_START_S):
            raise UserError(f"the coordinator did not start within {_START_S} s")
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self.address

    def stop(self) -> None:
        """Stop gracefully: streams end at once, requests under way are answered. A repeat does nothing."""
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join(_STOP_S)
            if self._thread.is_alive():
                _log.error("the coordinator has not ended within %d s", _STOP_S)

    def wait(self) -> None:
        """Wait until it has ended."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                runner.run(self._main())
        except Exception as error:  # noqa: BLE001 - raised again in the thread that started us
            self._error = error
            if self.address:
                _log.exception("the coordinator ended by a failure")
        finally:
            self._told.set()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()

        def ready(address: str) -> None:
            self.address = address
            self._told.set()

        await serve(self._settings, self._wall, ready, self._stop)


def run_forever(settings: ServerSettings, ready: Callable[[str], None], *, wall: Wall = time.time) -> None:  # noqa: TID251 - the edge
    """Serve until SIGTERM or SIGINT; `ready` gets the address. Raises: as `Server.start`."""

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        _allow_files()
        await serve(settings, wall, ready, stop)

    asyncio.run(main())


def _allow_files() -> None:
    """Let the program open as many files as the system permits it: each connected agent is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS says "unlimited" and does not mean it
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def serve(settings: ServerSettings, wall: Wall, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Serve until `stop`; `ready` is called once requests are answered with more than 503.

    Where nobody has begun a fleet yet, and somebody may claim it, that is waited for first.
    """
    if settings.claimable:
        make_folder(settings.data_dir)
    coordinator = None if settings.claimable else _coordinator(settings, wall)
    with FolderLock(settings.data_dir) as lock:
        keep_private(settings.data_dir)
        claim = None
        if coordinator is None:
            claim = await wait_for_claim(settings, lambda: int(wall()), clock=time.monotonic)
        if coordinator is None and claim is None:
            coordinator = _coordinator(settings, wall)
        front = _Front(claim or make_app(_there(coordinator), settings))
        web = _Web(front)
        sockets, address = _listen(settings)
        serving = asyncio.create_task(web.serve(sockets=sockets))
        try:
            lock.tell(address)
            if claim is not None:
                _tell_claim(claim, address)
                await _first(serving, stop, claim.claimed)
                if not claim.claimed.is_set():
                    return
                coordinator = _coordinator(settings, wall)
                front.app = make_app(coordinator, settings)
            await _there(coordinator).start()
            ready(address)
            await _first(serving, stop)
        finally:
            if coordinator is not None:
                coordinator.close_streams()
            web.should_exit = True
            await serving
            web.drop()
            if coordinator is not None:
                await coordinator.stop()


def _coordinator(settings: ServerSettings, wall: Wall) -> Coordinator:
    """Make the coordinator of the fleet that is there. Raises: UserError."""
    coordinator = Coordinator(settings, wall)
    settings.check_database()  # an empty one made in its place would answer as another, empty fleet
    if settings.claimable:
        forget(settings)
    return coordinator


def _there(coordinator: Coordinator | None) -> Coordinator:
    assert coordinator is not None, "there is one, or a claim that ends with one"
    return coordinator


def _tell_claim(claim: Unclaimed, address: str) -> None:
    """Say how to claim this coordinator, where whoever runs it reads: in its own log alone."""
    text = (
        "there is no fleet here yet; on an admin's own machine:\n"
        f"  nixfleet init NAME --url URL --claim {claim.string.text}\n"
        f"where URL is how devices and admins reach this coordinator, which listens at {address}"
    )
    _log.warning("%s", text)


class _Front:
    """The application that answers now: another one once the coordinator is claimed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        await self.app(scope, receive, send)


async def _first(serving: asyncio.Task[None], *events: asyncio.Event) -> None:
    """Wait until one of these is set, or until the web server ends by itself."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait({serving, *waiting}, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


class _Web(uvicorn.Server):
    """uvicorn without hands on signals and logging."""

    def __init__(self, app: object) -> None:
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]  # an ASGI application; uvicorn types it by its own protocol
            loop="none",
            http=Punctual,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # it warns of each line that is no HTTP, and any stranger can send those without end
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE_S,
            h11_max_incomplete_event_size=HEAD_BYTES,
            backlog=_BACKLOG,
        )
        super().__init__(config)

    def drop(self) -> None:
        """Hang up on who is still there after the grace: agents come back faster than connections end."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the program's signals alone."""
        yield


def _listen(settings: ServerSettings) -> tuple[list[socket.socket], str]:
    """Bind the listening sockets. Raises: UserError when the address is taken or is not this machine's."""
    host, port = settings.address()
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        dual = family == socket.AF_INET6 and host == "::"
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    except OSError as error:
        # Not the error's own words: socket.create_server adds the address to them once more.
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        raise UserError(f"cannot listen on {settings.listen}: {reason}; choose another with --listen") from error
    _watch_peers(listener)
    listener.setblocking(False)
    bound = listener.getsockname()
    shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
    return [listener], f"http://{shown}:{bound[1]}"


def _watch_peers(listener: socket.socket) -> None:
    """Notice a dead peer within a minute; accepted sockets inherit these on Linux (tcp(7))."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 45_000)):
        option = getattr(socket, name, None)  # macOS has other names, and agents' pings there must do
        if option is not None:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
