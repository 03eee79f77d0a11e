"""The options that every command takes, before or behind its name, and how a command's coroutine is run with them."""

import asyncio
import functools
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, Final, ParamSpec

import click

from nixfleet.cli.questions import confirm_or_end
from nixfleet.model.ids import TEXT_CHARS

P = ParamSpec("P")


class Count(click.IntRange):
    """A whole number within bounds, called so in help and errors."""

    name = "number"


def _note(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    """Check a note before anything is done, not when it is signed."""
    if text is not None and len(text) > TEXT_CHARS:
        raise click.BadParameter(f"it has {len(text)} characters, and {TEXT_CHARS} are the most")
    return text


_META: Final = "nixfleet.globals"
MAX_SENTENCE_CHARS: Final = 200


@dataclass(frozen=True, kw_only=True)
class Globals:
    """What the global options say; `timeout_s` bounds waiting on others, None where a command has its own default."""

    context: str | None = None
    key: str | None = None
    """A key file, or the ``SHA256:`` fingerprint of a key in ssh-agent."""
    yes: bool = False
    note: str | None = None
    timeout_s: int | None = None
    json: bool = False
    quiet: bool = False
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))


OPTIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "context": click.option("--context", metavar="NAME", help="The fleet to work with; by default the current one."),
    "key": click.option("--key", metavar="FILE|SHA256:…", help="The key to sign with: a file, or one in ssh-agent."),
    "yes": click.option("--yes", "-y", is_flag=True, help="Do not ask."),
    "note": click.option(
        "-m", "--note", metavar="TEXT", callback=_note, help="A ticket or a reason, signed with the act."
    ),
    "timeout_s": click.option(
        "--timeout", "timeout_s", type=Count(1, 31_536_000), metavar="SECONDS", help="How long to wait."
    ),
    "json": click.option("--json", "json", is_flag=True, help="Write JSON."),
    "quiet": click.option("--quiet", "-q", is_flag=True, help="Write results and errors only."),
}


class Group(click.Group):
    """A group whose help shows the whole first sentence of each command."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in a table whose lines wrap."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        write_commands(formatter, [(name, command) for name, command in commands if command and not command.hidden])


def write_commands(formatter: click.HelpFormatter, commands: Sequence[tuple[str, click.Command]]) -> None:
    """Write commands with the whole first sentence of each."""
    with formatter.section("Commands"):
        formatter.write_dl([(name, command.get_short_help_str(MAX_SENTENCE_CHARS)) for name, command in commands])


def before_commands(function: Callable[[], None]) -> Callable[..., None]:
    """Give the root the global options, so that they may stand before a command's name too."""

    @functools.wraps(function)
    def run(**kwargs: Any) -> None:
        click.get_current_context().meta[_META] = {name: kwargs.pop(name) for name in OPTIONS}
        function()

    return _with_options(run, OPTIONS)


def said_before() -> dict[str, Any]:
    """Give the global options that stand before the command's name, by `Globals`' names."""
    before: dict[str, Any] = click.get_current_context().meta.get(_META, {})
    return before


def command(
    function: Callable[Concatenate[Globals, P], Coroutine[Any, Any, int | None]],
) -> Callable[P, int | None]:
    """Give a coroutine function the global options as its first argument, and run it to its end."""
    return _command(function, OPTIONS)


def command_without_key(
    function: Callable[Concatenate[Globals, P], Coroutine[Any, Any, int | None]],
) -> Callable[P, int | None]:
    """Do as `command`, for one whose own ``--key`` means something else: the signer's stands before its name."""
    return _command(function, [name for name in OPTIONS if name != "key"])


def _command(function: Callable[..., Coroutine[Any, Any, int | None]], names: Any) -> Callable[..., int | None]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> int | None:
        said = {name: kwargs.pop(name) for name in names}
        # What stands nearer to the command wins.
        given = Globals(**{**said_before(), **{name: value for name, value in said.items() if value}})
        return asyncio.run(function(given, *args, **kwargs))

    return _with_options(run, names)


def _with_options(function: Callable[..., Any], names: Any) -> Callable[..., Any]:
    for name in reversed(list(names)):
        function = OPTIONS[name](function)
    return function


def no_note(given: Globals) -> None:
    """Refuse a note where nothing could carry it: a further signature is over another's statement as it is.

    Raises: click.UsageError.
    """
    if given.note:
        raise click.UsageError("A further signature carries no note of its own: leave -m out.")


def confirm(given: Globals, question: str) -> None:
    """Ask before an act unless ``--yes`` says it all. Raises: as `confirm_or_end`."""
    if not given.yes:
        confirm_or_end(question)
