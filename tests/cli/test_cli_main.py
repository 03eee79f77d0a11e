"""The command line's root: help, usage, completion, and every error as one line with its exit code."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tests.cli.commandline import Commands

from nixfleet import __version__
from nixfleet.cli import main as cli
from nixfleet.cli.main import COMMANDS, FIRST_PAGE, LazyGroup, root
from nixfleet.cli.options import OPTIONS
from nixfleet.errors import Conflict, NixFailed, Refused, Unreachable, Untrusted, UserError

PROGRAM = [sys.executable, "-m", "nixfleet"]


def commands(command: click.Command = root, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """List every command there is by its words."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in {*command.list_commands(context), *getattr(command, "commands", {})}:
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*path, name))


ALL = sorted(words for words in commands() if words != ("agent",))


def program(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it as a program of its own."""
    return subprocess.run(
        [*PROGRAM, *argv], env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=30
    )


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_explains_itself(nixfleet: Commands, words: tuple[str, ...]) -> None:
    """`--help` and `-h` say a sentence, and every option has its own."""
    said = nixfleet(*words, "--help").out
    assert said == nixfleet(*words, "-h").out
    assert said.startswith("Usage: nixfleet")
    assert "..." not in said.partition("\n\n")[2], "no sentence is cut off"


@pytest.mark.parametrize("words", [words for words in ALL if words and words != ("coordinator", "run")], ids=" ".join)
def test_every_command_takes_the_global_options(words: tuple[str, ...]) -> None:
    """`--context`, `--key`, `--yes`, `-m`, `--timeout`, `--json` and `--quiet` are the same everywhere."""
    command: click.Command | None = root
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    if not isinstance(command, click.Group):
        names = [param.name for param in command.params]
        assert set(OPTIONS) - {"key"} <= set(names)
        flags = [flag for param in command.params for flag in param.opts]
        assert sorted(set(flags)) == sorted(flags), "no flag means two things"


def test_the_first_page_is_the_contract(nixfleet: Commands) -> None:
    """The first page explains six commands, names all others, exit codes and completion."""
    assert ("console", "deploy", "device", "enroll", "rollout", "doctor") == FIRST_PAGE
    said = nixfleet("--help").out
    for name in COMMANDS:
        assert name in said
    assert "6 the rollout halted" in said
    assert "_NIXFLEET_COMPLETE" in said
    assert f"nixfleet {__version__}\n" == nixfleet("--version").out


def test_nothing_said_is_a_usage_error(nixfleet: Commands) -> None:
    """Without a command the first page goes to standard error, with exit code 2."""
    done = nixfleet(code=2)
    assert ("", True) == (done.out, done.err.startswith("Usage: nixfleet"))


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["fly"], "No such command 'fly'"),
        (["device", "fly"], "No such command 'fly'"),
        (["device", "show"], "Missing argument 'NAME'"),
        (["device", "list", "--fast"], "No such option"),
        (["enroll", "token", "--uses", "0"], "0 is not in the range"),
        (["enroll", "token", "--uses", "many"], "not a valid number"),
        (["rollout", "start", "r", "--wait", "never"], "'never' is not one of"),
        (["audit", "show", "-1"], "No such option"),
        (["device", "lst"], "Did you mean 'list'? See 'nixfleet device --help'"),
        (["device", "list", "-m", "x" * 2_001], "2000 are the most"),
    ],
)
def test_wrong_usage_is_one_line(nixfleet: Commands, argv: list[str], why: str) -> None:
    """It says what is wrong and where the help is; exit code 2."""
    complaint = nixfleet(*argv, code=2).complaint
    assert why in complaint
    assert complaint.endswith("--help'")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("status:failed", "there is no view 'status:failed'; ADDRESS is one of devices, rollouts, enroll, audit, "),
        ("rollouts paused", "only the view devices takes a query, not rollouts"),
        ("devices colour:red", "no field"),
    ],
)
def test_a_console_that_is_to_open_nowhere_says_so(nixfleet: Commands, address: str, why: str) -> None:
    """A view or a query that there is not ends in one line, rather than in all devices as if nothing was said."""
    assert why in nixfleet("console", address, code=2).complaint


def test_arguments_that_are_no_text_are_said(nixfleet: Commands) -> None:
    """Bytes that are not UTF-8, as Python hands them over, are wrong usage and no fault of the program."""
    assert "is not UTF-8: 'caf?'" in nixfleet("device", "show", os.fsdecode(b"caf\xe9"), code=2).complaint


class Failing(LazyGroup):
    """A root whose every command fails as a test says."""

    error: Exception = RuntimeError()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:  # noqa: ARG002  click's signature
        """Give a command that fails."""

        def fail() -> None:
            raise self.error

        return click.Command(cmd_name, callback=fail)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("no such file"), 2),
        (Refused("no right"), 3),
        (Untrusted("forged"), 4),
        (Unreachable("gone"), 5),
        (Conflict("faster"), 1),
        (NixFailed(("nix",), 1, (), "it broke"), 1),
        (OSError(28, "No space left on device"), 1),
        (KeyError("x"), 1),
        (RecursionError(), 1),
    ],
)
def test_every_error_is_one_line_and_its_exit_code(
    nixfleet: Commands, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    """Errors of our own, of the system, and faults of the program alike; NIXFLEET_DEBUG=1 adds the traceback."""
    monkeypatch.setattr(cli, "root", Failing("nixfleet"))
    monkeypatch.setattr(Failing, "error", error)
    complaint = nixfleet("any", code=code).complaint
    assert "Traceback" not in complaint
    monkeypatch.setenv("NIXFLEET_DEBUG", "1")
    said = nixfleet("any", code=code).err
    assert said.startswith("Traceback")
    assert said.splitlines()[-1] == complaint


def test_a_fault_of_the_program_says_how_to_get_the_traceback(
    nixfleet: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception nobody thought of is named as ours, with what to do."""
    monkeypatch.setattr(cli, "root", Failing("nixfleet"))
    monkeypatch.setattr(Failing, "error", ValueError("odd\nthing \x1b[31m"))
    complaint = nixfleet("any", code=1).complaint
    assert "a fault of nixfleet: ValueError: odd thing" in complaint
    assert "NIXFLEET_DEBUG=1" in complaint


def test_it_runs_as_a_module_and_completes_in_a_shell() -> None:
    """`python -m nixfleet` is the program; click's completion gives script and words."""
    assert f"nixfleet {__version__}\n" == program("--version").stdout
    script = program(_NIXFLEET_COMPLETE="bash_source")
    assert (0, True) == (script.returncode, "complete -o" in script.stdout)
    words = program(_NIXFLEET_COMPLETE="bash_complete", COMP_WORDS="nixfleet rol", COMP_CWORD="1")
    assert "plain,rollout\n" == words.stdout


def test_output_that_cannot_be_written_is_no_traceback() -> None:
    """A reader that has left is no error to speak of; a full disk is one line."""
    with open("/dev/full", "w") as full:  # noqa: PTH123  a device
        done = subprocess.run(
            [*PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=30
        )
    (line,) = done.stderr.splitlines()
    assert (1, True) == (done.returncode, line.startswith("nixfleet: no space is left"))
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*PROGRAM, "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=30
        )
    finally:
        os.close(writing)
    assert (1, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault(tmp_path: Path, closed: str) -> None:
    """Started without standard input, output or error, as by some services, it does what it does."""
    line = f"{shlex.join([*PROGRAM, 'device', 'list'])} {closed}"
    env = {**os.environ, "NIXFLEET_HOME": str(tmp_path)}
    done = subprocess.run(["sh", "-c", line], env=env, capture_output=True, text=True, check=False, timeout=30)
    said = "" if "2>" in closed else "nixfleet: no fleet is known here"
    assert (2, "", said) == (done.returncode, done.stdout, done.stderr[: len(said) or None])


def test_the_agent_says_wrong_usage_in_one_line() -> None:
    """It has a parser of its own, with the same manners."""
    done = program("agent", "fly")
    (line,) = done.stderr.splitlines()
    assert (2, True) == (done.returncode, line.endswith("see 'nixfleet agent --help'"))


def test_the_agent_is_reached_through_the_command_line_too(nixfleet: Commands) -> None:
    """`nixfleet agent` behind global options is the agent all the same, with its own arguments and exit codes."""
    done = nixfleet("--quiet", "agent", "status", "--config", "/nonexistent/agent.toml", code=2)
    assert done.err.startswith("nixfleet agent: /nonexistent/agent.toml")
