"""The terminal and the app: signals that end it, and the screen taken away while something else has the terminal.

Meanwhile the console's loop stands still on purpose: whatever it drew would land in the middle of a prompt. A
coordinator inside the console has a loop of its own and goes on; the stream is read on, or anew, afterwards.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from textual.app import App, SuspendNotSupported

from nixfleet.tui.widgets.passphrase import PassphraseDialog

SIGNAL_EXIT = 128
SETTLE_S = 0.2
"""How long after a prompt Ctrl-C still means the prompt."""


class Lender:
    """Lends the terminal of an app; made in the app's loop."""

    def __init__(self, app: App[int], redraw: Callable[[], None] = lambda: None) -> None:
        """Stand for `app`; `redraw` draws what its header says of a signature."""
        self._app = app
        self._redraw = redraw
        self._asked: list[Future[str]] = []
        self._loop = asyncio.get_running_loop()
        self._home = threading.get_ident()

    def mind_signals(self) -> None:
        """Leave by the front door, so that the terminal is put back; SIGHUP keeps its default (console.md)."""
        if self._app.is_headless:
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError):
                code = SIGNAL_EXIT + number
                self._loop.add_signal_handler(number, self._app.exit, code, code)

    @contextlib.contextmanager
    def lend(self) -> Iterator[None]:
        """Have the terminal while a block runs in another thread than the app's."""
        assert threading.get_ident() != self._home, "the loop cannot wait for itself"
        lent, done = threading.Event(), threading.Event()
        self._loop.call_soon_threadsafe(self._without_screen, lent, done)
        lent.wait()
        try:
            yield
        finally:
            done.set()

    def ask(self, text: str) -> str:
        """Ask for a secret in a question over the screen, in another thread than the app's; empty for a no."""
        assert threading.get_ident() != self._home, "the loop cannot wait for itself"
        answer: Future[str] = Future()
        self._asked.append(answer)
        self._loop.call_soon_threadsafe(self._question, text, answer)
        try:
            return answer.result()
        finally:
            self._asked.remove(answer)

    def tell(self, waits: str) -> None:
        """Show what a signature waits for; a touch is asked for in a toast, too, for it is easily missed."""
        self._loop.call_soon_threadsafe(self._show_wait, waits)

    def end(self) -> None:
        """Answer every open question by a no: the app is gone."""
        for answer in list(self._asked):
            if not answer.done():
                answer.set_result("")

    def _question(self, text: str, answer: Future[str]) -> None:
        def answered(typed: str | None) -> None:
            if not answer.done():
                answer.set_result(typed or "")

        if self._app.is_running:
            self._app.push_screen(PassphraseDialog(text), answered)
        else:
            answered("")

    def _show_wait(self, waits: str) -> None:
        if self._app.is_running:
            self._redraw()
            if waits.startswith("touch"):
                self._app.notify(f"{waits.capitalize()} to sign.", timeout=8)

    def show(self, pager: Callable[[str], None], text: str) -> bool:
        """Run a pager in the terminal; false where there is none to give."""
        try:
            # A pager that fails has said so on the terminal; a suspended screen must come back in any case.
            with self._app.suspend(), self._patient(), contextlib.suppress(Exception):
                pager(text)
        except SuspendNotSupported:
            return False
        return True

    def _without_screen(self, lent: threading.Event, done: threading.Event) -> None:
        """Wait for the other thread; where there is no screen (a test, or the end) there is nothing to take away."""
        if not self._app.is_running:
            lent.set()
            return
        try:
            with self._app.suspend(), self._patient():
                lent.set()
                done.wait()
        except SuspendNotSupported:
            lent.set()

    @contextlib.contextmanager
    def _patient(self) -> Iterator[None]:
        """Leave Ctrl-C to who has the terminal: it gives up a prompt, not the console."""
        if self._app.is_headless:
            yield
            return
        self._loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which a program started here would keep
        try:
            yield
        finally:
            # Later: a Ctrl-C that came meanwhile still waits to be read by the loop, and is to find no handler.
            self._loop.call_later(SETTLE_S, self.mind_signals)


def default_pager(text: str) -> None:
    """Show a text in ``$PAGER``, or in less."""
    import pydoc  # late: it is slow to load

    pydoc.pager(text)
