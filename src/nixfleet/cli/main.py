"""The command line's root: finds the command, runs it, and turns every error into one line and an exit code.

Commands live in their own modules and are imported when they are called, so that `--help` and completion stay fast.
"""

import importlib
import sys
from collections.abc import Sequence

import click

from nixfleet import __version__
from nixfleet.errors import NixfleetError, UserError

FIRST_PAGE = ("console", "deploy", "device", "enroll", "rollout")
"""What `--help` explains on its first page (product.md, Command line); the rest is listed by name."""

COMMANDS = {
    "audit": "nixfleet.cli.audit:audit",
    "cache": "nixfleet.cli.releases:cache",
    "console": "nixfleet.cli.console:console",
    "context": "nixfleet.cli.fleet:context",
    "coordinator": "nixfleet.cli.fleet:coordinator",
    "deploy": "nixfleet.cli.deploy:deploy",
    "device": "nixfleet.cli.devices:device",
    "enroll": "nixfleet.cli.enroll:enroll",
    "init": "nixfleet.cli.fleet:init",
    "release": "nixfleet.cli.releases:release",
    "rollout": "nixfleet.cli.rollouts:rollout",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """List the commands that `--help` explains, then the others."""
        return [*FIRST_PAGE, *sorted(set(COMMANDS) - set(FIRST_PAGE)), "agent"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's signature)
        """Import and give a command, or None when there is none of this name."""
        if cmd_name == "agent":
            return click.Command("agent", help="Run the agent on a device (`nixfleet agent --help`).")
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first page's commands with their help, and the rest as one line of names."""
        rows = []
        for name in FIRST_PAGE:
            command = self.get_command(ctx, name)
            assert command is not None
            rows.append((name, command.get_short_help_str(formatter.width)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        rest = [name for name in self.list_commands(ctx) if name not in FIRST_PAGE]
        with formatter.section("More"):
            formatter.write_text("  ".join(rest))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="nixfleet %(version)s")
def root() -> None:
    """Bring signed NixOS updates to devices that dial out, and see what becomes of them."""


def say(text: str) -> None:
    """Write one line for a person on standard error."""
    click.echo(f"nixfleet: {text}", err=True)


def main(argv: Sequence[str]) -> int:
    """Run the command line and give its exit code (product.md, Command line)."""
    try:
        result = root.main(args=list(argv), prog_name="nixfleet", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return UserError.exit_code
    except click.ClickException as error:
        say(error.format_message().replace("\n", " "))
        return UserError.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except NixfleetError as error:
        say(str(error))
        return error.exit_code
    return result if isinstance(result, int) else 0
