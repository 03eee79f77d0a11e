"""``nixfleet console``: the whole fleet in a terminal, with a coordinator inside where none serves the fleet yet.

Only here do console and coordinator meet; the console itself stays a client of the HTTP API.
"""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import click

from nixfleet.cli.addresses import listen_for
from nixfleet.cli.devices import check_query
from nixfleet.cli.options import Count, Globals, command
from nixfleet.cli.session import client_of, keeper_of, now, signer_of
from nixfleet.client.admin import Admin
from nixfleet.client.mirror import Mirror
from nixfleet.config import Context, admin_dirs, choose_context, coordinator_dir, log_dir, mirror_dir, read_admin
from nixfleet.errors import NixfleetError, UserError
from nixfleet.model.ids import Fingerprint
from nixfleet.model.typed import checked_url
from nixfleet.model.views import Delta, Snapshot
from nixfleet.server.lock import running
from nixfleet.server.settings import DATABASE, ServerSettings
from nixfleet.trust import sshagent
from nixfleet.trust.signers import KeygenSigner, Signer
from nixfleet.trust.sshsig import PublicKey
from nixfleet.tui.adapter import AdminActs, ClientSource, MirrorVerifier
from nixfleet.tui.ports import Reset

THEMES = ("dark", "light", "high-contrast", "terminal")
SERVES = "The coordinator runs in this console; suspended, it would serve no device."
COORDINATOR_QUIET = ("alembic", "uvicorn")


@click.command()
@click.argument("address", required=False)
@click.option("--theme", type=click.Choice(THEMES), default="dark", show_default=True, help="The colours.")
@click.option("--no-mouse", is_flag=True, help="Leave the mouse to the terminal.")
@click.option("--refresh", type=Count(1, 10), default=5, show_default=True, help="Redraws a second.")
@click.option(
    "--listen", metavar="HOST:PORT", help="Where an embedded coordinator listens; by default the fleet's URL."
)
@command
async def console(
    given: Globals, address: str | None, theme: str, no_mouse: bool, refresh: int, listen: str | None
) -> int:
    """Open the console; ADDRESS like 'devices status:failed' says where."""
    view, query = _place(address or "")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("the console needs a terminal; 'nixfleet device list' and the other commands do not")
    if os.environ.get("TERM") == "dumb":
        raise UserError("the console needs a terminal that can place its cursor; TERM=dumb cannot")
    founder = None
    if not read_admin(given.env).contexts:
        founder = await _first_run(given, not no_mouse)
        if founder is None:
            click.echo("no fleet is made; the next start asks again, and 'nixfleet init' makes one too", err=True)
            return 0
    return await _open(given, founder, view, query, theme, not no_mouse, refresh, listen)


def _place(address: str) -> tuple[str, str]:
    """Read where the console is to open: a view, and behind `devices` a query. Raises: UserError."""
    from nixfleet.tui.screens.base import VIEWS

    view, _, query = address.strip().partition(" ")
    names = [name for name, _ in VIEWS]
    if view and view not in names:
        raise UserError(f"there is no view {view[:80]!r}; ADDRESS is one of {', '.join(names)}, or 'devices QUERY'")
    if query and view != "devices":
        raise UserError(f"only the view devices takes a query, not {view}")
    check_query(query)
    return view or "devices", query.strip()


async def _open(
    given: Globals,
    signer: Signer | None,
    view: str,
    query: str,
    theme: str,
    mouse: bool,
    refresh: int,
    listen: str | None,
) -> int:
    """Connect, or start the coordinator first, and show the fleet until the person leaves.

    Without a signer, one that is open already, the context's key signs.
    """
    from nixfleet.tui.app import run_async
    from nixfleet.tui.desk import Options
    from nixfleet.tui.foreground import Foreground, ForegroundSigner

    name, context = choose_context(given.context, given.env)
    signer = signer or signer_of(given, context.key)
    foreground, asks = Foreground(), isinstance(signer, KeygenSigner)
    if asks:
        signer = ForegroundSigner(signer, foreground)
    fingerprint = Fingerprint(signer.key.fingerprint)
    embedded, urls = _coordinator(coordinator_dir(name, given.env), context, listen)
    mirror = Mirror.open_later(mirror_dir(context.fleet, given.env), context.fleet)
    try:
        async with client_of(urls, context.fleet, None, given.timeout_s) as client:
            keeper = keeper_of(given, context, signer)

            async def ready() -> None:
                if embedded is not None:
                    await asyncio.to_thread(embedded.start)
                await mirror.load()
                await keeper.attach(client)

            if asks:
                await ready()  # before the screen takes the terminal over
            source = LateSource(ClientSource(client, mirror), ready)
            return await run_async(
                source,
                AdminActs(client, Admin(client, mirror, signer, now), signer=fingerprint, clock=now),
                MirrorVerifier(client, mirror, exports=admin_dirs(given.env)[2] / "exports"),
                options=Options(
                    clock=now,
                    view=view,
                    query=query,
                    context=name,
                    theme=f"nixfleet-{theme}",  # type: ignore[arg-type]  # the option allows these four alone
                    mouse=mouse,
                    refresh_hz=refresh,
                    keys=read_admin(given.env).keys,
                    log_file=log_dir(given.env) / "console.log",
                    foreground=foreground,
                    stays=SERVES if embedded else "",
                    before_quit=lambda: source.under_way() if embedded and embedded.serves else "",
                ),
            )
    finally:
        if embedded is not None:
            await asyncio.to_thread(embedded.stop)


def _coordinator(folder: Path, context: Context, listen: str | None) -> tuple["Embedded | None", tuple[str, ...]]:
    """Find who serves the fleet: a coordinator here already, one to start where its database is; else its addresses."""
    embedded, here = None, running(folder)
    if here is None and (folder / DATABASE).exists():
        embedded = Embedded(folder, listen or listen_for(context.urls[0]))
        here = embedded.address
    # The others too: somebody else may begin to serve the fleet before the embedded one does.
    return embedded, tuple(dict.fromkeys((here, *context.urls))) if here else context.urls


class Embedded:
    """A coordinator in a thread of its own, started when the screen is painted."""

    def __init__(self, folder: Path, listen: str) -> None:
        """Check that the port is free now, so that the answer is one line and not a screen. Raises: UserError."""
        self._settings = ServerSettings(data_dir=folder, listen=listen)
        host, port = self._settings.address()
        try:
            with socket.create_server((host, port)):
                pass
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
            raise UserError(f"cannot listen on {listen}: {reason}; choose another with --listen") from error
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


class LateSource:
    """A source that gets ready (coordinator, log, session) when it is first asked, after the first paint."""

    def __init__(self, source: ClientSource, ready: Callable[[], Awaitable[None]]) -> None:
        """Read from `source`; `ready` may be awaited again after it failed."""
        self._source = source
        self._ready = ready
        self._is_ready = False
        self._running: dict[str, str] = {}
        self.rollout, self.release = source.rollout, source.release
        self.lines, self.history = source.lines, source.history

    async def snapshot(self) -> Snapshot:
        """Give everything a console shows."""
        if not self._is_ready:
            await self._ready()
            self._is_ready = True
        snapshot = await self._source.snapshot()
        self._running = {
            rollout.id: rollout.release_name for rollout in snapshot.rollouts if rollout.state == "running"
        }
        return snapshot

    async def events(self, since: int, /) -> AsyncGenerator[Delta | Reset, None]:
        """Give the deltas after number `since`."""
        async with aclosing(self._source.events(since)) as events:
            async for event in events:
                if isinstance(event, Delta) and event.rollout is not None:
                    self._running.pop(event.rollout.id, None)
                    if event.rollout.state == "running":
                        self._running[event.rollout.id] = event.rollout.release_name
                yield event

    def under_way(self) -> str:
        """Say what stops with an embedded coordinator; empty when nothing is under way."""
        if not self._running:
            return ""
        names = ", ".join(sorted(self._running.values()))
        return f"The coordinator runs in this console; the rollout of {names} waits until you are back."


async def _first_run(given: Globals, mouse: bool) -> Signer | None:
    """Ask for a first fleet, and make it; gives who founded it, None when the person gave up."""
    from nixfleet.cli.fleet import begin, check_new, proposed_url, signer_for_new
    from nixfleet.tui.driver import PatientDriver
    from nixfleet.tui.first_run import FirstRunApp, KeyChoice

    held = _agent_keys(given.env.get("SSH_AUTH_SOCK"))
    keys = [KeyChoice(value=key.fingerprint, label=f"{key.fingerprint}  in ssh-agent") for key in held]
    keys += [KeyChoice(value=str(path), label=str(path)) for path in _key_files({key.text for key in held})]
    keys.append(KeyChoice(value="new", label="a new key, sealed with a passphrase"))
    answers = await FirstRunApp("", proposed_url(), keys, driver_class=PatientDriver).run_async(mouse=mouse)
    if answers is None:
        return None
    check_new(answers.name, given.env)
    urls = (checked_url(answers.url),)
    key, signer = signer_for_new(answers.name, answers.key, given)
    begin(answers.name, urls, signer, key=key, env=given.env)
    return signer


def _agent_keys(sock: str | None) -> list[PublicKey]:
    """List the agent's keys; none where there is no agent."""
    try:
        return sshagent.keys(sock) if sock else []
    except NixfleetError:
        return []


def _key_files(held: set[str]) -> list[Path]:
    """List the person's ed25519 public key files, without those of keys that the agent holds."""
    return [path for path in sorted((Path.home() / ".ssh").glob("id_ed25519*.pub")) if _key_text(path) not in held]


def _key_text(path: Path) -> str:
    """Read a public key file's type and key; nothing where it cannot be read."""
    try:
        return " ".join(path.read_text().split()[:2])
    except (OSError, UnicodeDecodeError):
        return ""
