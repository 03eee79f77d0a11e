"""Lets whatever signs reach the person past the screen: on the terminal, in a question, by a word in the header.

A key in memory asks nothing and is never wrapped. It must not sign, and keeps nothing of what is typed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final, Protocol

from nixfleet.errors import UserError

if TYPE_CHECKING:
    from nixfleet.trust.signers import Signer
    from nixfleet.trust.sshsig import PublicKey

TOUCHED: Final = "sk-"
"""How the types of keys that a person has to touch begin."""
GAVE_UP: Final = "no passphrase was given, so nothing is signed; r asks again"


class Screen(Protocol):
    """Who has the terminal while the console runs; called in the thread that signs."""

    def lend(self) -> AbstractContextManager[None]:
        """Give the terminal away while a block runs."""
        ...

    def ask(self, text: str) -> str:
        """Ask for a secret over the screen; empty when the person gives up, or the console ends."""
        ...

    def tell(self, waits: str) -> None:
        """Show what is waited for, or that it is over."""
        ...

    def end(self) -> None:
        """Let nobody wait any longer."""
        ...


class Foreground:
    """Who has the terminal: nobody before the console has the screen, then the console, which lends it."""

    def __init__(self) -> None:
        self._screen: Screen | None = None
        self._gave_up = False
        self.waits = ""
        """What a signature waits for, to be shown; empty while none does."""

    def taken_by(self, screen: Screen) -> None:
        """Let `screen` stand between signers and the person from now on."""
        self._screen = screen

    def given_back(self) -> None:
        """Sign without asking anybody again: the console has left the screen."""
        screen, self._screen = self._screen, None
        if screen is not None:
            screen.end()

    def lent(self) -> AbstractContextManager[None]:
        """Have the terminal while a block runs."""
        return nullcontext() if self._screen is None else self._screen.lend()

    def asked(self, text: str, otherwise: Callable[[], str]) -> str:
        """Ask for a secret over the screen, or `otherwise` where there is none yet.

        Who gave up once is not asked again by what runs by itself, until `ask_again`. Raises: UserError.
        """
        if self._screen is None:
            return otherwise()
        if self._gave_up:
            raise UserError(GAVE_UP)
        answer = self._screen.ask(text)
        if not answer:
            self._gave_up = True
            raise UserError(GAVE_UP)
        return answer

    def ask_again(self) -> None:
        """Take back that the person gave up: they want something themselves now."""
        self._gave_up = False

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show what is waited for while a block runs."""
        self._tell(what)
        try:
            yield
        finally:
            self._tell("")

    def _tell(self, what: str) -> None:
        self.waits = what
        if self._screen is not None:
            self._screen.tell(what)


class _Wrapped:
    """A signer that reaches the person through the foreground."""

    def __init__(self, signer: Signer, foreground: Foreground) -> None:
        """Wrap `signer`."""
        self._signer = signer
        self._foreground = foreground

    @property
    def key(self) -> PublicKey:
        """The public key of every signature it makes."""
        return self._signer.key


class ForegroundSigner(_Wrapped):
    """A signer that asks on the terminal, and has it while it signs."""

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Return an SSHSIG blob. Raises: what the signer raises, once the terminal is given back."""
        with self._foreground.lent():
            sys.stderr.write(f"nixfleet: signing ({namespace}) with {self.key.fingerprint}; Ctrl-C gives up\n")
            sys.stderr.flush()
            return self._signer.sign(namespace, payload)


class WatchedSigner(_Wrapped):
    """A signer that asks beside the screen, as an agent does: the header says that it waits, and for what."""

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Return an SSHSIG blob; may wait for a touch. Raises: what the signer raises."""
        with self._foreground.waiting("touch your key" if self.key.type.startswith(TOUCHED) else "signing"):
            return self._signer.sign(namespace, payload)
