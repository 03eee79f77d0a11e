"""Lends the terminal to whatever must talk to the person itself: a signer that asks for a passphrase or a touch.

A signer that asks nothing on the terminal (ssh-agent, a key in memory) is never wrapped, so the screen stays.
It must not sign, nor see what is typed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nixfleet.trust.signers import Signer
    from nixfleet.trust.sshsig import PublicKey

Lend = Callable[[], AbstractContextManager[None]]
"""Gives the terminal away while a block runs; called in the thread that signs."""


class Foreground:
    """Who has the terminal: nobody before the console has the screen, then the console, which lends it."""

    def __init__(self) -> None:
        self._lend: Lend = nullcontext

    def taken_by(self, lend: Lend) -> None:
        """Let `lend` give the terminal away from now on."""
        self._lend = lend

    def given_back(self) -> None:
        """Sign without asking anybody again: the console has left the screen."""
        self._lend = nullcontext

    def lent(self) -> AbstractContextManager[None]:
        """Have the terminal while a block runs."""
        return self._lend()


class ForegroundSigner:
    """A signer that has the terminal while it signs."""

    def __init__(self, signer: Signer, foreground: Foreground) -> None:
        """Wrap `signer`, which asks on the terminal."""
        self._signer = signer
        self._foreground = foreground

    @property
    def key(self) -> PublicKey:
        """The public key of every signature it makes."""
        return self._signer.key

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Return an SSHSIG blob. Raises: what the signer raises, once the terminal is given back."""
        with self._foreground.lent():
            sys.stderr.write(f"nixfleet: signing ({namespace}) with {self.key.fingerprint}; Ctrl-C gives up\n")
            sys.stderr.flush()
            return self._signer.sign(namespace, payload)
