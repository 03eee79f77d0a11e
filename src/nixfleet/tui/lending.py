"""The terminal and the app: signals that end it, and the screen taken away while something else has the terminal.

Meanwhile the console's loop stands still on purpose: whatever it drew would land in the middle of a prompt. A
coordinator inside the console has a loop of its own and goes on; the stream is read on, or anew, afterwards.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from textual.app import App, SuspendNotSupported

SIGNAL_EXIT = 128
SETTLE_S = 0.2
"""How long after a prompt Ctrl-C still means the prompt."""


class Lender:
    """Lends the terminal of an app; made in the app's loop."""

    def __init__(self, app: App[int]) -> None:
        self._app = app
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
