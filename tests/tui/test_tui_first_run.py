"""The form of the first run: what it takes, what it says of a wrong answer, and where it lets one go."""

import asyncio

import pytest
from textual import events

from nixfleet.tui.first_run import FirstRun, FirstRunApp, KeyChoice

URL = "http://desk.local:7070"


def form(name: str = "", url: str = URL) -> FirstRunApp:
    """Make the form with one key to choose."""
    return FirstRunApp(name, url, [KeyChoice(value="new", label="a new key")])


def focused(app: FirstRunApp) -> str | None:
    """Tell which field one is in."""
    return app.focused.id if app.focused else None


async def test_three_answers_are_given_back() -> None:
    """Name, address and key are asked, and come back; a name may have an underscore."""
    app = form()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press(*"acme_2", "enter", "enter", "enter")
    assert FirstRun(name="acme_2", url=URL, key="new") == app.return_value


@pytest.mark.parametrize("turns", range(8))
async def test_keys_that_come_in_bursts_are_taken_in_their_order(turns: int) -> None:
    """What was typed while the machine was busy ends as if it had been typed slowly: the address is replaced."""
    app = form(url="http://127.0.0.1:1")
    typed = [*"acme", "enter", "ctrl+u", *"http://desk:80", "enter", "enter"]
    async with app.run_test(size=(80, 24)) as pilot:
        for key in typed:
            app.post_message(events.Key(key, key if len(key) == 1 else None))
            for _ in range(turns):  # that many turns of the loop before the next key
                await asyncio.sleep(0)
        await pilot.pause()
    assert FirstRun(name="acme", url="http://desk:80", key="new") == app.return_value


@pytest.mark.parametrize("leave", ["enter", "tab", "down"])
async def test_a_wrong_name_is_said_where_it_stands(leave: str) -> None:
    """One does not go on from a wrong name: it is said at once, and mended in its place."""
    app = form()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press(*"Bad!", leave)
        assert ("name", True) == (focused(app), app._said.startswith("'Bad!' is no fleet name; use lower-case"))
        await pilot.press(*["backspace"] * 4, *"acme")
        assert not app._said
        await pilot.press(leave)
        assert ("url", "") == (focused(app), app._said)


async def test_a_wrong_address_lets_one_go_back_but_not_on() -> None:
    """A wrong address is said, also to who goes back to the name."""
    app = form("acme", "http://desk.local:99999")
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("enter", "enter")
        assert ("url", True) == (focused(app), "is no coordinator's address" in app._said)
        await pilot.press("shift+tab")
        await pilot.pause()
        assert ("name", True) == (focused(app), "is no coordinator's address" in app._said)


async def test_choosing_a_key_leads_to_what_is_wrong() -> None:
    """Who comes to the key past a wrong answer is brought to that answer, and nothing is given back."""
    app = form("Bad!")
    async with app.run_test(size=(80, 24)) as pilot:
        app.query_one("#key").focus()
        await pilot.press("enter")
        await pilot.pause()
        assert ("name", True) == (focused(app), "is no fleet name" in app._said)
        await pilot.press("escape")
    assert app.return_value is None
