"""How signers reach the person past the console's screen: a sealed file by a question, an agent by a word."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.factories import key

from nixfleet.cli.behind import _on_terminal
from nixfleet.cli.passphrases import AskedFor
from nixfleet.errors import NixfleetError
from nixfleet.trust.signers import AgentSigner, MemorySigner, SealedSigner
from nixfleet.tui.foreground import Foreground


class Screen:
    """A screen on which a passphrase is typed; it notes what it was asked and told."""

    def __init__(self, typed: str) -> None:
        self.typed = typed
        self.seen: list[str] = []

    @contextmanager
    def lend(self) -> Iterator[None]:
        """Note that the terminal is taken."""
        self.seen.append("lent")
        yield

    def ask(self, text: str) -> str:
        """Note the question, and answer it."""
        self.seen.append(text)
        return self.typed

    def tell(self, waits: str) -> None:
        """Note what is waited for."""
        self.seen.append(waits)

    def end(self) -> None:
        """Do nothing: nobody waits here."""


def sealed(passphrase: AskedFor | None) -> SealedSigner:
    """Make a signer with a sealed file that is never opened here."""
    return SealedSigner(Path("fleet.key"), key("x").public, b"", passphrase)


def test_a_sealed_file_is_asked_for_over_the_screen() -> None:
    """The question that the terminal would have put is put by the console."""
    foreground, screen = Foreground(), Screen("right")
    foreground.taken_by(screen)
    signer = _on_terminal(sealed(AskedFor("Passphrase of fleet.key: ")), foreground)
    assert isinstance(signer, SealedSigner)
    assert signer.passphrase is not None
    assert ("right", ["Passphrase of fleet.key: "]) == (signer.passphrase(), screen.seen)


def test_a_passphrase_from_a_file_asks_nobody() -> None:
    """Where a file holds the passphrase, or nothing can tell it, the signer stays as it is."""
    foreground, screen = Foreground(), Screen("never")
    foreground.taken_by(screen)
    told = SealedSigner(Path("fleet.key"), key("x").public, b"", lambda: "from a file")
    for signer in (told, sealed(None), MemorySigner(key("y"))):
        assert signer is _on_terminal(signer, foreground)
    assert [] == screen.seen


def test_an_agent_is_waited_for_in_sight(tmp_path: Path) -> None:
    """While an agent is asked, the header says so; afterwards it does not, even when that failed."""
    foreground, screen = Foreground(), Screen("never")
    foreground.taken_by(screen)
    signer = _on_terminal(AgentSigner(key("x").public, str(tmp_path / "nobody.sock")), foreground)
    with pytest.raises(NixfleetError):
        signer.sign("nixfleet-control-v1", b"{}")
    assert (["signing", ""], "") == (screen.seen, foreground.waits)
