"""The command line's root: finds the command, runs it, and turns every error into one line and an exit code.

Commands live in their own modules and are imported when they are called, so that `--help` and completion stay fast.
"""

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

import click

from nixfleet import __version__
from nixfleet.cli.options import before_commands, write_commands
from nixfleet.errors import NixfleetError, UserError
from nixfleet.model.text import one_line

FIRST_PAGE: Final = ("console", "deploy", "device", "enroll", "rollout", "doctor")
"""What `--help` explains on its first page (product.md, Command line); the rest is listed by name."""

COMMANDS: Final = {
    "access": "nixfleet.cli.access:access",
    "agent": "nixfleet.cli.device_side:agent",
    "approve": "nixfleet.cli.approve:approve",
    "audit": "nixfleet.cli.audit:audit",
    "bundle": "nixfleet.cli.bundle:bundle",
    "cache": "nixfleet.cli.releases:cache",
    "console": "nixfleet.cli.console:console",
    "context": "nixfleet.cli.contexts:context",
    "coordinator": "nixfleet.cli.coordinator:coordinator",
    "demo": "nixfleet.cli.demo:demo",
    "deploy": "nixfleet.cli.deploy:deploy",
    "device": "nixfleet.cli.devices:device",
    "doctor": "nixfleet.cli.doctor:doctor",
    "enroll": "nixfleet.cli.enroll:enroll",
    "init": "nixfleet.cli.fleet:init",
    "log": "nixfleet.cli.log:log",
    "release": "nixfleet.cli.releases:release",
    "rollout": "nixfleet.cli.rollouts:rollout",
}

EPILOG: Final = """\b
Exit codes: 0 done, 1 it failed, 2 usage, 3 refused by authority, 4 untrusted,
5 unreachable or timed out, 6 the rollout halted, 130 a watch was left with Ctrl-C.
Shell completion: eval "$(_NIXFLEET_COMPLETE=bash_source nixfleet)"; zsh_source and fish_source too.
"""

DEBUG: Final = "NIXFLEET_DEBUG"
"""Set to 1, errors come with their traceback."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """List the commands that `--help` explains, then the others."""
        return [*FIRST_PAGE, *sorted(set(COMMANDS) - set(FIRST_PAGE))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's signature)
        """Import and give a command, or None when there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first page's commands with their help, and the rest as one line of names."""
        commands = [(name, self.get_command(ctx, name)) for name in FIRST_PAGE]
        write_commands(formatter, [(name, command) for name, command in commands if command is not None])
        rest = [name for name in self.list_commands(ctx) if name not in FIRST_PAGE]
        with formatter.section("More"):
            formatter.write_text("  ".join(rest))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.version_option(__version__, message="nixfleet %(version)s")
@before_commands
def root() -> None:
    """Bring signed NixOS updates to devices that dial out, and see what becomes of them."""


def say(text: str) -> None:
    """Write one line for a person on standard error, over whatever progress stands there."""
    start = "\r\x1b[K" if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else ""
    click.echo(f"{start}nixfleet: {one_line(text)}", err=True)


def main(argv: Sequence[str]) -> int:
    """Run the command line and give its exit code (product.md, Command line); it never ends in a traceback."""
    try:
        _check_text(argv)
        result = root.main(args=list(argv), prog_name="nixfleet", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return UserError.exit_code
    except click.UsageError as error:
        text = error.format_message().rstrip(".")
        where = f"'{error.ctx.command_path} --help'" if error.ctx is not None else ""
        say(f"{text}{' See ' if text.endswith('?') else '; see '}{where}" if where else text)
        return UserError.exit_code
    except click.ClickException as error:
        say(error.format_message())
        return UserError.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("interrupted: nothing more is done")
        return 1
    except Exception as error:  # noqa: BLE001 - a person gets one line, whatever went wrong
        return _failed(error)
    return result if isinstance(result, int) else 0


def _check_text(argv: Sequence[str]) -> None:
    """Check that arguments are text: other bytes can be neither sent, signed nor shown. Raises: UserError."""
    for word in argv:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"an argument is not UTF-8: {word.encode(errors='replace').decode()!r}") from error


def _failed(error: Exception) -> int:
    """Say what went wrong, and give the exit code for it."""
    if os.environ.get(DEBUG, "") not in {"", "0"}:
        traceback.print_exception(error)
    match error:
        case NixfleetError():
            say(str(error))
            return error.exit_code
        case OSError(errno=errno.EPIPE):
            _give_up_output()  # the reader has seen enough, as in `nixfleet device list | head`
        case OSError(errno=errno.ENOSPC):
            _give_up_output()
            say("no space is left on the disk, or where the output goes; free some and try again")
        case _:
            say(
                f"this is a fault of nixfleet: {type(error).__name__}: {error}; the same with {DEBUG}=1 before it"
                " shows where, for a report"
            )
    return 1


def _give_up_output() -> None:
    """Let nothing that is still buffered fail again when the interpreter ends."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):
        return  # no file behind it, as in a test
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, output)
    os.close(null)
