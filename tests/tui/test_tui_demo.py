"""What a demo adds to the console: a mark in the header, and a first page that fits on a small screen."""

from tests.tui.console_ports import FakeSource, FakeVerifier, connect

from nixfleet.cli.welcome import welcome
from nixfleet.model.views import FleetView
from nixfleet.sim.scenario import BUILT_IN, load
from nixfleet.tui.app import ConsoleApp
from nixfleet.tui.desk import Desk, Options
from nixfleet.tui.ports import Identity, LogCheck
from nixfleet.tui.view.chrome import Chrome, Link, header
from nixfleet.tui.view.text import width
from nixfleet.tui.widgets.dialogs import PageDialog

PAGE_CELLS, PAGE_LINES = 71, 17
"""What a page over a screen of 80 by 24 cells has room for."""


def test_the_header_says_that_it_is_a_demo() -> None:
    """The mark stands beside the fleet's name, at eighty cells as well."""
    chrome = Chrome(
        fleet=FleetView(id="f" * 64),
        identity=Identity(principal="you", root=True, role="root"),
        link=Link(state="live"),
        check=LogCheck(state="valid", size=12_345),
        counts={},
        tabs=[],
        active="devices",
        context="northlight",
        mark="DEMO at speed 10",
    )
    first = "".join(span.text for span in header(chrome, 0, 80)[0])
    assert " northlight   DEMO at speed 10   you root" in first
    assert "● live" in first


def test_who_needs_a_person_is_never_cut() -> None:
    """At eighty cells the role gives way, not the count of devices that need somebody."""
    chrome = Chrome(
        fleet=FleetView(id="f" * 64),
        identity=Identity(principal="you", root=True, role="root"),
        link=Link(state="live"),
        check=LogCheck(state="valid", size=208),
        counts={"reverted": 1},
        tabs=[],
        active="devices",
        context="northlight",
        mark="DEMO at speed 10",
    )
    first = header(chrome, 0, 80)[0]
    said = "".join(span.text for span in first)
    assert (80, True) == (width(first), said.startswith(" northlight  DEMO at speed 10  you  1 needs you  "))
    assert said.endswith("  log 208 ✓ verified  ● live ")
    roomy = "".join(span.text for span in header(chrome, 0, 90)[0])
    assert "you root   1 needs you   " in roomy


def test_the_welcome_fits_on_a_small_screen() -> None:
    """No line of the first page is cut at eighty cells, nor does one have to scroll at 24 lines."""
    page = welcome(load(BUILT_IN), 10)
    assert max(width(line) for line in page) <= PAGE_CELLS
    assert len(page) <= PAGE_LINES
    assert "kiosk-2026.11.1" in "".join(span.text for line in page for span in line), "it names the fix"


async def test_the_console_opens_with_the_page_and_goes_on() -> None:
    """The page stands over the first view, and any of the keys that lead back closes it."""
    page = welcome(load(BUILT_IN), 10)
    app = ConsoleApp(Desk(connect(FakeSource(), verifier=FakeVerifier()), Options(clock=lambda: 0, welcome=page)))
    async with app.run_test(size=(80, 24)) as pilot:
        while not isinstance(app.screen, PageDialog):
            await pilot.pause()
        await pilot.press("q")
        while isinstance(app.screen, PageDialog):
            await pilot.pause()
        assert app.is_running
