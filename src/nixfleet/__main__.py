"""The entry point: hands ``nixfleet agent`` to the agent before anything heavy is imported, the rest to the CLI."""

import os
import sys
from collections.abc import Callable


def main() -> int:
    """Run the program named by the arguments and give its exit code."""
    _stand_in()
    if sys.argv[1:2] == ["agent"]:
        from nixfleet.agent.main import main as agent

        return _unless_nobody_reads(agent, sys.argv[2:])
    try:
        from nixfleet.cli.main import main as cli
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("nixfleet"):
            raise
        # The flake's nixfleet-agent package: what only the other programs import is not there.
        text = f"this is the agent alone, without {error.name}: see 'nixfleet agent --help', or install all of nixfleet"
        print(f"nixfleet: {text}", file=sys.stderr)
        return 2
    return cli(sys.argv[1:])


def _unless_nobody_reads(program: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run a program; that its reader goes away first, as ``head`` does, is no fault to show."""
    try:
        try:
            return program(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Else Python would flush once more as it ends, and complain (docs.python.org, signal: Note on SIGPIPE).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _stand_in() -> None:
    """Put the null device where a standard stream was closed by whoever started us.

    Python has None there, and the next file that is opened would get the number (POSIX open(2): the lowest free one).
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


if __name__ == "__main__":
    sys.exit(main())
