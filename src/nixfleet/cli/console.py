"""``nixfleet console``: the whole fleet in a terminal, with a coordinator inside where none serves the fleet yet.

What it needs of client, log and coordinator is loaded in `cli.behind`, after the first paint.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nixfleet.cli.behind import Behind
from nixfleet.cli.clock import now
from nixfleet.cli.options import Count, Globals, command
from nixfleet.cli.signing import signer_of
from nixfleet.config import choose_context, log_dir, read_admin
from nixfleet.errors import NixfleetError, UserError
from nixfleet.trust import sshagent
from nixfleet.trust.signers import Signer
from nixfleet.trust.sshsig import PublicKey

if TYPE_CHECKING:
    from nixfleet.tui.desk import Options

THEMES = ("dark", "light", "high-contrast", "terminal")
SERVES = "The coordinator runs in this console; suspended, it would serve no device."


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the console is to look, and where it opens."""

    view: str
    query: str
    theme: str
    mouse: bool
    refresh_hz: int


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
    view, query = place(address or "")
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
    look = Look(view=view, query=query, theme=theme, mouse=not no_mouse, refresh_hz=refresh)
    return await _open(given, founder, look, listen)


def place(address: str) -> tuple[str, str]:
    """Read where the console is to open: a view, and behind `devices` a query. Raises: UserError."""
    from nixfleet.tui.screens.base import VIEWS

    view, _, query = address.strip().partition(" ")
    names = [name for name, _ in VIEWS]
    if view and view not in names:
        raise UserError(f"there is no view {view[:80]!r}; ADDRESS is one of {', '.join(names)}, or 'devices QUERY'")
    if query and view != "devices":
        raise UserError(f"only the view devices takes a query, not {view}")
    if query:
        from nixfleet.cli.devices import check_query

        check_query(query)
    return view or "devices", query.strip()


async def _open(given: Globals, founder: Signer | None, look: Look, listen: str | None) -> int:
    """Show the fleet until the person leaves; what is behind it is connected once it is painted.

    Without a founder, whose key is open already, the context's key signs.
    """
    from nixfleet.tui.app import run_async

    name, context = choose_context(given.context, given.env)
    behind = Behind(given, name, context, founder or signer_of(given, context.key, context.passphrase_file), listen)
    try:
        if behind.asks:
            await behind.connect()  # before the screen takes the terminal over
        return await run_async(behind.connect, options=_options(given, name, look, behind))
    finally:
        await behind.close()


def _options(given: Globals, name: str, look: Look, behind: Behind) -> "Options":
    from nixfleet.tui.desk import Options

    def before_quit(running: Sequence[str]) -> str:
        if not (running and behind.serves):
            return ""
        return f"The coordinator runs in this console; the rollout of {', '.join(running)} waits until you are back."

    return Options(
        clock=now,
        view=look.view,
        query=look.query,
        context=name,
        theme=f"nixfleet-{look.theme}",  # type: ignore[arg-type]  # the option allows these four alone
        mouse=look.mouse,
        refresh_hz=look.refresh_hz,
        keys=read_admin(given.env).keys,
        log_file=log_dir(given.env) / "console.log",
        foreground=behind.foreground,
        stays=SERVES if behind.embeds else "",
        before_quit=before_quit,
    )


async def _first_run(given: Globals, mouse: bool) -> Signer | None:
    """Ask for a first fleet, and make it; gives who founded it, None when the person gave up."""
    from nixfleet.cli.fleet import begin, check_new, proposed_url, signer_for_new
    from nixfleet.model.typed import checked_url
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
