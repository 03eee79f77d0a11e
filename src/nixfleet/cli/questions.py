"""Questions on the terminal, which Ctrl-C ends at once. It must never ask where there is no terminal."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

from nixfleet.errors import NixfleetError


def ask(text: str, default: str) -> str:
    """Ask for a line; an empty one is the default. Raises: click.Abort."""
    with _interruptible():
        return str(click.prompt(text, default=default, err=True))


def confirm_or_end(question: str) -> None:
    """Ask before an act, No by default.

    Raises:
        click.UsageError: there is nobody to ask.
        click.Abort: Ctrl-C, or the end of the input.
        NixfleetError: the answer was no.

    """
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is no terminal to ask on: add --yes.")
    with _interruptible():
        agreed = click.confirm(question, default=False, err=True)
    if not agreed:
        raise NixfleetError("nothing is done, as you said")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a question: the event loop takes it for the end of a task, which waits on for the answer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
