"""The terminal is lent to what asks on it: a signer without an agent, a pager; the screen goes and comes back."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import NoReturn

import pytest
from tests.factories import key
from tests.tui.console_fleet import NOW
from tests.tui.console_pilot import console
from tests.tui.console_ports import FakeActs

from nixfleet.errors import UserError
from nixfleet.model.statements import Verb
from nixfleet.trust.signers import MemorySigner, Signer
from nixfleet.tui.app import ConsoleApp
from nixfleet.tui.desk import Options
from nixfleet.tui.foreground import Foreground, ForegroundSigner
from nixfleet.tui.lending import default_pager


class Noted:
    """Notes whether the screen was away when it was asked to sign."""

    def __init__(self, away: list[str], *, fails: bool = False) -> None:
        self._signer = MemorySigner(key("ops"))
        self._away = away
        self._fails = fails
        self.key = self._signer.key

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Sign, as one that asks the person."""
        self._away.append("sign")
        assert threading.current_thread() is not threading.main_thread()
        if self._fails:
            raise UserError("ssh-keygen could not sign: incorrect passphrase")
        return self._signer.sign(namespace, payload)


class SigningActs(FakeActs):
    """Acts that sign the way `nixfleet.client.admin` does: in a thread."""

    def __init__(self, signer: Signer) -> None:
        super().__init__()
        self._signer = signer

    async def control(self, rollout: str, verb: Verb, *, wave: int | None = None, devices: Sequence[str] = ()) -> str:
        """Sign, and note a control."""
        await asyncio.to_thread(self._signer.sign, "nixfleet-control-v1", b"{}")
        return await super().control(rollout, verb, wave=wave, devices=devices)


class Screen:
    """A screen that nobody may ask anything of."""

    ended = False

    def lend(self) -> NoReturn:
        """Be never lent."""
        pytest.fail("nobody has the screen")

    def ask(self, text: str) -> NoReturn:
        """Be never asked."""
        pytest.fail(f"nobody has the screen to ask {text}")

    def tell(self, waits: str) -> NoReturn:
        """Be never told."""
        pytest.fail(f"nobody has the screen to show {waits}")

    def end(self) -> None:
        """Note that it is over."""
        self.ended = True


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the app a screen that can be taken away, and what happened, in order."""
    noted: list[str] = []

    @contextlib.contextmanager
    def suspend(_: ConsoleApp) -> Iterator[None]:
        noted.append("away")
        yield
        noted.append("back")

    monkeypatch.setattr(ConsoleApp, "suspend", suspend)
    return noted


async def pause_a_rollout(signer: Signer, foreground: Foreground | None) -> tuple[list[tuple[object, ...]], str]:
    """Pause the running rollout with a signer; gives the acts done and the screen."""
    acts = SigningActs(signer)
    async with console(acts=acts, options=Options(clock=lambda: NOW, foreground=foreground)) as driven:
        await driven.press("2", "j", "P", "y")
        return acts.done, driven.text


async def test_a_signer_that_asks_has_the_terminal(away: list[str]) -> None:
    """The screen is away exactly while it signs, and the act is done."""
    foreground = Foreground()
    done, _ = await pause_a_rollout(ForegroundSigner(Noted(away), foreground), foreground)
    assert (["away", "sign", "back"], ["pause"]) == (away, [act[0] for act in done])


async def test_a_signature_that_is_refused_brings_the_screen_back(away: list[str]) -> None:
    """A wrong passphrase is told on the screen, which is back."""
    foreground = Foreground()
    done, screen = await pause_a_rollout(ForegroundSigner(Noted(away, fails=True), foreground), foreground)
    assert (["away", "sign", "back"], []) == (away, done)
    assert "incorrect passphrase" in screen


async def test_a_signer_that_asks_nothing_leaves_the_screen(away: list[str]) -> None:
    """Keys in memory or in ssh-agent sign behind the screen."""
    done, _ = await pause_a_rollout(Noted(away), Foreground())
    assert (["sign"], ["pause"]) == (away, [act[0] for act in done])


async def test_without_a_terminal_to_lend_it_signs_all_the_same() -> None:
    """Where the screen cannot be taken away (it is none), the signature is made."""
    foreground = Foreground()
    done, _ = await pause_a_rollout(ForegroundSigner(Noted([]), foreground), foreground)
    assert ["pause"] == [act[0] for act in done]


async def test_before_and_after_the_console_it_just_signs(away: list[str]) -> None:
    """Nobody has the screen yet, or any more: nothing is taken away."""
    foreground = Foreground()
    signer = ForegroundSigner(Noted(away), foreground)
    await asyncio.to_thread(signer.sign, "nixfleet-session-v1", b"{}")
    foreground.taken_by(Screen())
    foreground.given_back()
    await asyncio.to_thread(signer.sign, "nixfleet-session-v1", b"{}")
    assert ["sign", "sign"] == away


@pytest.mark.parametrize(
    ("keys", "words"),
    [((), ("device", "nas-berlin-02", "web-oslo-04")), (("4", "enter"), ("payload", "-----BEGIN SSH SIGNATURE-----"))],
    ids=["table", "page"],
)
async def test_o_shows_all_of_it_in_the_pager(away: list[str], keys: tuple[str, ...], words: tuple[str, ...]) -> None:
    """The whole table or page goes to the pager, not just what fits on the screen."""
    paged: list[str] = []
    options = Options(clock=lambda: NOW, pager=paged.append)
    async with console(size=(80, 24), options=options) as driven:
        await driven.press(*keys, "o")
    assert (["away", "back"], [True] * len(words)) == (away, [word in paged[0] for word in words])


async def test_a_pager_that_fails_brings_the_screen_back(away: list[str]) -> None:
    """A pager that cannot be started does not leave one without a screen."""

    def broken(_: str) -> None:
        raise OSError("no such pager")

    async with console(options=Options(clock=lambda: NOW, pager=broken)) as driven:
        await driven.press("o")
        assert (["away", "back"], True) == (away, driven.app.is_running)


async def test_without_a_terminal_the_pager_says_so() -> None:
    """Where there is no terminal to give, a line says so."""
    async with console() as driven:
        await driven.press("o")
        assert "A pager needs a terminal of its own." in driven.text


def test_the_default_pager_prints_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Pydoc's pager just prints the text when nobody can page."""
    default_pager("a line\n")
    assert "a line\n" == capsys.readouterr().out
