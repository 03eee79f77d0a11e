"""The options that every command takes, and how a command's coroutine is run with them."""

import asyncio
import functools
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click

P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True)
class Globals:
    """What the global options say; `timeout_s` bounds waiting on others, None where a command has its own default."""

    context: str | None = None
    key: Path | None = None
    yes: bool = False
    note: str | None = None
    timeout_s: int | None = None
    json: bool = False
    quiet: bool = False
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))


OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--context", metavar="NAME", help="The fleet to work with; by default the current one."),
    click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="The key to sign with."),
    click.option("--yes", "-y", is_flag=True, help="Do not ask."),
    click.option("-m", "--note", metavar="TEXT", help="A ticket or a reason, signed with the act."),
    click.option("--timeout", type=click.IntRange(1), metavar="SECONDS", help="How long to wait for others."),
    click.option("--json", "as_json", is_flag=True, help="Write JSON."),
    click.option("--quiet", "-q", is_flag=True, help="Write results and errors only."),
)


def command(
    function: Callable[Concatenate[Globals, P], Coroutine[Any, Any, int | None]],
) -> Callable[P, int | None]:
    """Give a coroutine function the global options as its first argument, and run it to its end."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> int | None:
        given = Globals(
            context=_take(kwargs, "context"),
            key=_take(kwargs, "key"),
            yes=_take(kwargs, "yes"),
            note=_take(kwargs, "note"),
            timeout_s=_take(kwargs, "timeout"),
            json=_take(kwargs, "as_json"),
            quiet=_take(kwargs, "quiet"),
        )
        return asyncio.run(function(given, *args, **kwargs))

    decorated: Callable[P, int | None] = run
    for option in reversed(OPTIONS):
        decorated = option(decorated)
    return decorated


def _take(kwargs: dict[str, Any], name: str) -> Any:
    return kwargs.pop(name)


def confirm(given: Globals, question: str) -> None:
    """Ask before an act, No by default; without a terminal and without ``--yes`` the answer is no.

    Raises:
        click.UsageError: there is nobody to ask.
        click.Abort: the answer was no.

    """
    if given.yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is no terminal to ask on: add --yes.")
    click.confirm(question, default=False, abort=True, err=True)
