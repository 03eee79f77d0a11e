"""Signing without leaving the screen: a sealed key's passphrase in a question, a touch in the header."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from tests.factories import key
from tests.tui.console_fleet import NOW
from tests.tui.console_pilot import Driven, console
from tests.tui.console_ports import FakeActs
from textual.widgets import Input

from nixfleet.errors import UserError
from nixfleet.model.statements import Verb
from nixfleet.trust.signers import MemorySigner, Signer
from nixfleet.tui.desk import Options
from nixfleet.tui.foreground import GAVE_UP, Foreground, WatchedSigner

RIGHT = "correct horse"


class Sealed:
    """Opens at its first signature, by a passphrase that it asks for, as a sealed file does."""

    def __init__(self, foreground: Foreground) -> None:
        self._foreground = foreground
        self._signer = MemorySigner(key("sealed"))
        self._open = False
        self.key = self._signer.key

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Ask once, and sign."""
        if not self._open:
            typed = self._foreground.asked("Passphrase of fleet.key: ", lambda: pytest.fail("there is a screen"))
            if typed != RIGHT:
                raise UserError("the passphrase does not open this key file")
            self._open = True
        return self._signer.sign(namespace, payload)


class Touched:
    """Signs once it is touched, as a security key does."""

    def __init__(self) -> None:
        self._signer = MemorySigner(key("touched"))
        self.touched = threading.Event()
        self.key = replace(self._signer.key, type="sk-ssh-ed25519@openssh.com")

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Wait for the touch."""
        assert self.touched.wait(20)
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


def shows(driven: Driven, *words: str) -> bool:
    """Tell whether the screen shows all of these."""
    return all(word in driven.text for word in words)


def hides(driven: Driven, word: str) -> bool:
    """Tell whether the screen does not show this."""
    return word not in driven.text


def says(driven: Driven, words: str) -> bool:
    """Tell whether a toast says this."""
    return any(words in toast.message for toast in driven.app._notifications)


async def ask_to_pause(driven: Driven) -> None:
    """Pause the running rollout as far as its signature; whoever signs has yet to be answered."""
    for one in ("2", "j", "P", "y"):
        await driven.pilot.press(one)


async def test_a_sealed_key_is_asked_for_over_the_screen_and_once() -> None:
    """The fleet goes on behind the question; what is typed is not shown, and the next act asks nothing."""
    foreground = Foreground()
    acts = SigningActs(Sealed(foreground))
    async with console(acts=acts, options=Options(clock=lambda: NOW, foreground=foreground)) as driven:
        await ask_to_pause(driven)
        await driven.until(partial(shows, driven, "Sign with a sealed key", "Passphrase of fleet.key:", "Rollouts 4"))
        for letter in RIGHT:
            await driven.pilot.press("space" if letter == " " else letter)
        assert RIGHT == driven.app.screen.query_one(Input).value
        assert hides(driven, "correct")
        await driven.press("enter")
        assert 1 == len(acts.done)
        await driven.press("P", "y")
        assert 2 == len(acts.done)
        await driven.press("at")
        assert hides(driven, "correct")


async def test_a_wrong_passphrase_signs_nothing_and_may_be_tried_again() -> None:
    """The act fails with the reason; the same act asks once more."""
    foreground = Foreground()
    acts = SigningActs(Sealed(foreground))
    async with console(acts=acts, options=Options(clock=lambda: NOW, foreground=foreground)) as driven:
        await ask_to_pause(driven)
        await driven.until(partial(shows, driven, "Passphrase of fleet.key:"))
        await driven.press("x", "enter")
        await driven.until(partial(says, driven, "the passphrase does not open this key file"))
        assert [] == acts.done
        await driven.pilot.press("P")
        await driven.pilot.press("y")
        await driven.until(partial(shows, driven, "Passphrase of fleet.key:"))
        driven.app.screen.query_one(Input).value = RIGHT
        await driven.press("enter")
        assert 1 == len(acts.done)


@pytest.mark.parametrize("no", ["escape", "ctrl+c", "enter"])
async def test_giving_up_signs_nothing_and_asks_no_more_by_itself(no: str) -> None:
    """What runs by itself is refused at once afterwards; what the person starts asks again."""
    foreground = Foreground()
    acts = SigningActs(Sealed(foreground))
    async with console(acts=acts, options=Options(clock=lambda: NOW, foreground=foreground)) as driven:
        await ask_to_pause(driven)
        await driven.until(partial(shows, driven, "Passphrase of fleet.key:"))
        await driven.press(no)
        await driven.until(partial(says, driven, GAVE_UP))
        with pytest.raises(UserError, match="nothing is signed"):
            await asyncio.to_thread(foreground.asked, "Passphrase: ", lambda: "never")
        assert (False, []) == (shows(driven, "Sign with a sealed key"), acts.done)
        await driven.press("r")
        again = asyncio.create_task(asyncio.to_thread(foreground.asked, "Passphrase of it: ", lambda: "never"))
        await driven.until(partial(shows, driven, "Passphrase of it:"))
        await driven.press("a", "enter")
        assert "a" == await again


async def test_an_open_question_ends_with_the_console() -> None:
    """Whoever waits for a passphrase when the console is left hears a no, and does not wait for ever."""
    foreground = Foreground()
    async with console(options=Options(clock=lambda: NOW, foreground=foreground)) as driven:
        asked = asyncio.create_task(asyncio.to_thread(foreground.asked, "Passphrase: ", lambda: "never"))
        await driven.until(partial(shows, driven, "Passphrase:"))
        foreground.given_back()
        with pytest.raises(UserError, match="nothing is signed"):
            await asked


def test_without_a_screen_the_terminal_is_asked() -> None:
    """Before the console has the screen, and after it, the question is the terminal's."""
    assert "typed" == Foreground().asked("Passphrase: ", lambda: "typed")


async def test_a_touch_is_asked_for_while_it_is_waited_for() -> None:
    """The header and a toast ask to touch the key; the screen stays, and the word goes once it is signed."""
    foreground, signer = Foreground(), Touched()
    acts = SigningActs(WatchedSigner(signer, foreground))
    async with console(acts=acts, options=Options(clock=lambda: NOW, foreground=foreground)) as driven:
        await ask_to_pause(driven)
        await driven.until(partial(shows, driven, "◌ touch your key", "● live"))
        await driven.until(partial(says, driven, "Touch your key to sign."))
        await driven.pilot.press("1")
        await driven.until(partial(shows, driven, "nas-berlin-02"))
        assert [] == acts.done
        signer.touched.set()
        await driven.until(lambda: len(acts.done) == 1)
        await driven.until(partial(hides, driven, "◌ touch your key"))
