"""What stands behind a console: the client, the verified log, the session, and a coordinator where none serves yet.

Only here do console and coordinator meet; the console itself stays a client of the HTTP API. Everything heavy is
loaded by `connect`, after the first paint.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nixfleet.cli.addresses import listen_for
from nixfleet.cli.backups import backed_up
from nixfleet.cli.clock import now
from nixfleet.cli.options import Globals
from nixfleet.cli.passphrases import AskedFor
from nixfleet.config import Context, admin_dirs, coordinator_dir, mirror_dir, narinfo_file
from nixfleet.errors import UserError
from nixfleet.server.lock import running
from nixfleet.server.settings import DATABASE, ServerSettings
from nixfleet.trust.signers import AgentSigner, KeygenSigner, SealedSigner, Signer
from nixfleet.tui.foreground import Foreground, ForegroundSigner, WatchedSigner

if TYPE_CHECKING:
    from nixfleet.tui.ports import Ports

COORDINATOR_QUIET = ("alembic", "uvicorn")


class Behind:
    """All that a console needs of the world; `connect` may be called again after it failed."""

    def __init__(self, given: Globals, name: str, context: Context, signer: Signer, listen: str | None) -> None:
        """Find who serves the fleet, so that a taken port is one line and not a screen. Raises: UserError."""
        self.foreground, self.asks = Foreground(), isinstance(signer, KeygenSigner)
        self._given = given
        self._context = context
        self._signer = _on_terminal(signer, self.foreground)
        self._embedded, self._urls = _coordinator(coordinator_dir(name, given.env), context, listen, given.env)
        self._open = AsyncExitStack()
        self._ports: Ports | None = None

    @property
    def embeds(self) -> bool:
        """Whether a coordinator is to run in this console."""
        return self._embedded is not None

    @property
    def serves(self) -> bool:
        """Whether the coordinator in this console serves the fleet."""
        return self._embedded is not None and self._embedded.serves

    async def connect(self) -> "Ports":
        """Start the coordinator, replay the log on this machine, sign in. Raises: the errors of each."""
        if self._ports is None:
            if self._embedded is not None:
                await asyncio.to_thread(self._embedded.start)
            self._ports = await self._connected()
        return self._ports

    async def _connected(self) -> "Ports":
        # Late: what these load takes longer than the first paint.
        from nixfleet.cli.ports import ports_of
        from nixfleet.cli.session import client_of, keeper_of
        from nixfleet.client.mirror import Mirror

        env, fleet = self._given.env, self._context.fleet
        mirror = Mirror.open_later(mirror_dir(fleet, env), fleet)
        await mirror.load()
        async with AsyncExitStack() as opening:
            client = await opening.enter_async_context(client_of(self._urls, fleet, None, self._given.timeout_s))
            await keeper_of(self._given, self._context, self._signer).attach(client)
            self._open = opening.pop_all()
        exports = admin_dirs(env)[2] / "exports"
        return ports_of(client, mirror, self._signer, clock=now, exports=exports, memory=narinfo_file(env))

    async def close(self) -> None:
        """Hang up, and stop the coordinator gracefully."""
        try:
            await self._open.aclose()
        finally:
            if self._embedded is not None:
                await asyncio.to_thread(self._embedded.stop)


def _on_terminal(signer: Signer, foreground: Foreground) -> Signer:
    """Let a signer reach the person past the screen: ssh-keygen on the terminal, a sealed file in a question.

    An agent asks for touches itself; the screen says meanwhile that it waits for one.
    """
    match signer:
        case KeygenSigner():
            return ForegroundSigner(signer, foreground)
        case SealedSigner(passphrase=AskedFor(text) as ask):
            return replace(signer, passphrase=lambda: foreground.asked(text, ask))
        case AgentSigner():
            return WatchedSigner(signer, foreground)
        case _:
            return signer


def _coordinator(
    folder: Path, context: Context, listen: str | None, env: Mapping[str, str]
) -> tuple["Embedded | None", tuple[str, ...]]:
    """Find who serves the fleet: a coordinator here already, one to start where its database is; else its addresses."""
    embedded, here = None, running(folder)
    if here is None and (folder / DATABASE).exists():
        settings = ServerSettings(data_dir=folder, listen=listen or listen_for(context.urls[0]))
        embedded = Embedded(backed_up(settings, context, env))
        here = embedded.address
    # The others too: somebody else may begin to serve the fleet before the embedded one does.
    return embedded, tuple(dict.fromkeys((here, *context.urls))) if here else context.urls


class Embedded:
    """A coordinator in a thread of its own, started when the screen is painted."""

    def __init__(self, settings: ServerSettings) -> None:
        """Check what can be now, so that the answer is one line and not a screen. Raises: UserError."""
        settings.check_backups()
        self._settings = settings
        host, port = self._settings.address()
        try:
            with socket.create_server((host, port)):
                pass
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
            raise UserError(f"cannot listen on {settings.listen}: {reason}; choose another with --listen") from error
        self.address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104 (a comparison)
        self._stop: Callable[[], None] | None = None

    @property
    def serves(self) -> bool:
        """Whether this one serves the fleet."""
        return self._stop is not None

    def start(self) -> None:
        """Start it, unless it or another serves the fleet by now. Raises: UserError, Unreachable."""
        if self.serves or running(self._settings.data_dir) is not None:
            return
        from nixfleet.server.serve import Server

        for logger in COORDINATOR_QUIET:
            logging.getLogger(logger).setLevel(logging.WARNING)
        server = Server(self._settings)
        server.start()
        self._stop = server.stop

    def stop(self) -> None:
        """Stop it gracefully; agents come back by themselves."""
        if self._stop is not None:
            self._stop()
