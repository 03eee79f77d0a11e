"""Snapshots of what text goldens cannot show: colours, themes, windows over a screen."""

from collections.abc import Callable

import pytest
from tests.tui.console_fleet import NOW
from tests.tui.console_ports import FakeSource, FakeVerifier, connect
from textual.pilot import Pilot
from textual.widgets import Input

from nixfleet.tui.app import ConsoleApp
from nixfleet.tui.desk import Desk, Options
from nixfleet.tui.first_run import FirstRunApp, KeyChoice

PAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "light": ((), "nixfleet-light"),
    "contrast": (("2", "j", "enter"), "nixfleet-high-contrast"),
    "confirm": (("2", "P"), "nixfleet-dark"),
    "menu": (("a",), "nixfleet-dark"),
}


@pytest.mark.parametrize("page", PAGES)
def test_picture(snap_compare: Callable[..., bool], page: str) -> None:
    """A page in its theme looks as it was accepted."""
    keys, theme = PAGES[page]
    source, verifier = FakeSource(), FakeVerifier()
    options = Options(clock=lambda: NOW, theme=theme)  # type: ignore[arg-type] # the table above holds themes
    app = ConsoleApp(Desk(connect(source, verifier=verifier), options))
    app.animation_level = "none"

    async def ready(pilot: Pilot[int]) -> None:
        while not (app.desk.store.loaded and verifier.check.state == "valid"):
            await pilot.pause()
        app.flush()
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        while any(not worker.is_finished for worker in app.workers if worker.group not in {"feed", "verify"}):
            await pilot.pause()
        app.flush()
        for field in app.screen.query(Input):
            field.cursor_blink = False
        await pilot.pause()

    assert snap_compare(app, run_before=ready, terminal_size=(90, 24))


def test_first_run_picture(snap_compare: Callable[..., bool]) -> None:
    """The form of the first run looks as it was accepted."""
    keys = [
        KeyChoice(value="a.pub", label="~/.ssh/id_ed25519.pub   ops@desk"),
        KeyChoice(value="new", label="a new key"),
    ]

    async def ready(pilot: Pilot[None]) -> None:
        await pilot.pause()
        for field in pilot.app.screen.query(Input):
            field.cursor_blink = False

    assert snap_compare(FirstRunApp("acme", "http://desk.local:7070", keys), run_before=ready, terminal_size=(80, 24))
