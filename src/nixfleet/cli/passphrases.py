"""Where a passphrase comes from: a file that the environment or the context names, else the terminal.

Never a flag, and never the environment itself. It must never keep one.
"""

import os
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from nixfleet.errors import UserError
from nixfleet.trust.passphrase import read_passphrase

VARIABLE: Final = "NIXFLEET_PASSPHRASE_FILE"
_INTERRUPT: Final = b"\x03"
_LINE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class AskedFor:
    """A passphrase that the person is asked for on the terminal; who has the screen may ask in its place."""

    text: str

    def __call__(self) -> str:
        """Ask on the terminal. Raises: as `ask_hidden`."""
        return ask_hidden(self.text)


def passphrase_of(key_file: Path, env: Mapping[str, str], named: str = "") -> Callable[[], str] | None:
    """Give what tells a key file's passphrase: the variable's file, else the context's (`named`), else the terminal.

    None where there is none of them.
    """
    if file := env.get(VARIABLE) or named:
        return lambda: read_passphrase(Path(file))
    if not sys.stdin.isatty():
        return None
    return AskedFor(f"Passphrase of {key_file}: ")


def new_passphrase(what: str, env: Mapping[str, str]) -> str:
    """Get the passphrase of a key that is to be made: from the variable's file, or asked for twice.

    Raises: UserError where there is neither, or when the two differ.
    """
    if file := env.get(VARIABLE):
        return read_passphrase(Path(file))
    if not sys.stdin.isatty():
        raise UserError(
            f"there is no terminal to ask for the passphrase of {what}: name a file with it in {VARIABLE}, or use a"
            " key of yours"
        )
    first = ask_hidden(f"Passphrase for {what}: ")
    if not first:
        raise UserError("an empty passphrase seals nothing")
    if first != ask_hidden("The same again: "):
        raise UserError("the two passphrases differ; nothing is made")
    return first


def ask_hidden(text: str) -> str:
    """Ask on the terminal and show nothing of the answer; safe in any thread.

    Ctrl-C arrives as a character and ends the question itself: the signal would reach the main thread, and leave the
    asking one behind. Raises: click.Abort, UserError where there is no terminal.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError as error:
        raise UserError(f"there is no terminal to ask for a passphrase: name a file with it in {VARIABLE}") from error
    try:
        with _hidden(terminal):
            os.write(terminal, text.encode())
            line = os.read(terminal, _LINE_BYTES)
            os.write(terminal, b"\n")
    finally:
        os.close(terminal)
    if line.endswith(_INTERRUPT) or not line.endswith(b"\n"):
        raise click.Abort
    try:
        return line[:-1].decode()
    except UnicodeDecodeError as error:
        raise UserError("the passphrase is not UTF-8") from error


@contextmanager
def _hidden(terminal: int) -> Iterator[None]:
    """Show nothing that is typed, and let Ctrl-C end a line (termios(3), VEOL) instead of raising a signal."""
    before = termios.tcgetattr(terminal)
    hidden = [*before[:6], list(before[6])]
    hidden[3] &= ~(termios.ECHO | termios.ISIG)
    hidden[6][termios.VEOL] = _INTERRUPT
    termios.tcsetattr(terminal, termios.TCSAFLUSH, hidden)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
