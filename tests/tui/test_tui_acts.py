"""Changing the fleet from the console: menu, palette, form, questions, and every way out of them."""

import asyncio
from functools import partial

import msgspec
import pytest
from tests.tui.console_fleet import NOW, ROLLOUT, WEB_RELEASE, device, device_id, digest
from tests.tui.console_pilot import Driven, console
from tests.tui.console_ports import FakeActs, FakeSource
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList

from nixfleet.errors import Refused
from nixfleet.tui.desk import Options
from nixfleet.tui.keys import KEYS
from nixfleet.tui.screens.devices import DevicesScreen
from nixfleet.tui.widgets.deploy import DeployDialog
from nixfleet.tui.widgets.dialogs import ConfirmDialog, MenuDialog
from nixfleet.tui.widgets.fleet_table import FleetTable
from nixfleet.tui.widgets.lines import LineView


def shows(driven: Driven, *words: str) -> bool:
    """Tell whether all of this is on the screen."""
    return all(word in driven.text for word in words)


async def test_approving_asks_with_the_fingerprint_and_enter_does_nothing() -> None:
    """A on a request shows its fingerprint; Enter and n do nothing, y enrols."""
    async with console() as driven:
        await driven.press("3", "j", "A", "enter")
        assert isinstance(driven.app.screen, ConfirmDialog)
        await driven.press("n")
        assert [] == driven.acts.done
        await driven.press("A", "y")
        assert [("enroll", device_id("kiosk-oslo-09"))] == driven.acts.done


async def test_production_wants_the_count_typed() -> None:
    """A wrong number changes nothing; the right one goes on."""
    async with console() as driven:
        await driven.press("2", "P", "y", "9", "enter")
        assert (True, []) == (isinstance(driven.app.screen, ConfirmDialog), driven.acts.done)
        await driven.press("backspace", "backspace", "1", "2", "enter")
        assert ["resume"] == [act[0] for act in driven.acts.done]


async def test_retiring_wants_the_name_typed() -> None:
    """What cannot be undone wants the device's own name."""
    async with console() as driven:
        await driven.press("X", *"nas-berlin-02", "enter")
        assert [("retired", device_id("nas-berlin-02"), None)] == driven.acts.done


async def test_a_refused_act_is_told_and_stands_in_the_log() -> None:
    """What authority refuses is shown where one looks, and in the command log."""
    acts = FakeActs()
    acts.broken = Refused("no right to control on site=oslo")
    async with console(acts=acts) as driven:
        await driven.press("2", "j", "P", "y")
        await driven.until(lambda: "no right to control" in driven.text)
        await driven.press("at")
        assert "nixfleet rollout pause " + ROLLOUT[:8] in driven.text


async def test_deploying_goes_through_form_preview_and_question() -> None:
    """D opens the form on the marked devices; the preview, then the count, then one rollout for just these."""
    async with console() as driven:
        await driven.press("slash", *"kiosk-berlin-0 status:waiting", "enter", "asterisk", "D")
        assert isinstance(driven.app.screen, DeployDialog)
        assert "4 devices in 2 waves, at most 1 at once" in driven.text
        await driven.press("enter")
        assert isinstance(driven.app.screen, ConfirmDialog)
        await driven.press("4", "enter")
        ((verb, wanted),) = driven.acts.done
        assert ("deploy", 4, {}) == (verb, len(wanted.devices), wanted.order.wishes.select)  # type: ignore[attr-defined] # the fake notes what it got


async def test_deploying_an_older_release_shows_its_name_and_keeps_to_it() -> None:
    """From the releases the form names the release under the cursor, and deploys that one, not a newer namesake."""
    source = FakeSource()
    older = source.releases[WEB_RELEASE]
    source.releases[digest("twin")] = msgspec.structs.replace(older, id=digest("twin"), index=older.index + 1)
    async with console(source=source) as driven:
        await driven.press("5", "j", "j", "D")
        assert "web-2304" == driven.app.screen.query_one("#form-release", Input).value
        await driven.until(partial(shows, driven, f"this is {WEB_RELEASE[:8]}; a newer release has the same name"))


async def test_the_menu_greys_what_is_not_possible_with_the_reason() -> None:
    """The action menu lists every mutation, and says why one cannot be done; its keys work."""
    async with console() as driven:
        await driven.press("a")
        assert isinstance(driven.app.screen, MenuDialog)
        assert "it is not held" in driven.text
        long = MenuDialog._text("A", "Approve", "read-only: your key may change nothing here")
        assert [32, 32] == [line.index(word) for line, word in zip(long.splitlines(), ("read", "nothing"), strict=True)]
        await driven.press("X")
        assert isinstance(driven.app.screen, ConfirmDialog)


async def test_the_palette_finds_actions_by_name() -> None:
    """What is typed in the palette runs the action."""
    async with console() as driven:
        await driven.press("colon", *"audit")
        await driven.until(lambda: "Audit" in driven.text)
        await asyncio.sleep(0)
        await driven.until(lambda: driven.app.screen.query("CommandList").first().option_count == 1)  # type: ignore[attr-defined] # textual's own list
        await driven.press("down", "enter")
        await driven.until(lambda: driven.app.current_mode == "audit")


async def test_a_name_of_nothing_one_can_type_is_retired_by_its_id() -> None:
    """An empty answer never retires a device: where the name shows nothing, its id is to be typed."""
    one = msgspec.structs.replace(device("x", "web", "oslo"), name="\x00", tags={})
    async with console(source=FakeSource([one])) as driven:
        await driven.press("X", "enter")
        assert [] == driven.acts.done
        await driven.press("X", *one.id[:8], "enter")
        assert [("retired", one.id, None)] == driven.acts.done


async def test_keys_can_be_remapped() -> None:
    """A key from the config replaces the built-in one, in the footer too."""
    options = Options(clock=lambda: NOW, keys={"app.rollouts": "f2"})
    async with console(options=options) as driven:
        await driven.press("2")
        assert "devices" == driven.app.current_mode
        await driven.press("f2")
        assert "rollouts" == driven.app.current_mode


async def test_quitting_asks_when_something_would_stop() -> None:
    """With a rollout under way here, q says so first."""
    async with console(options=Options(clock=lambda: NOW, before_quit=lambda _: "A rollout is under way.")) as driven:
        await driven.press("q")
        assert "A rollout is under way." in driven.text
        await driven.press("y")
        assert 0 == driven.app.return_value


async def test_every_action_exists() -> None:
    """Each action of the registry has a method to run it, so no key leads nowhere."""
    pages = {
        "devices": (), "device": ("enter",), "rollouts": ("2",), "rollout": ("2", "enter"), "audit": ("4",),
        "entry": ("4", "enter"), "enroll": ("3",), "releases": ("5",), "lines": ("5", "enter"),
    }  # fmt: skip
    for scope, keys in pages.items():
        async with console() as driven:
            await driven.press(*keys)
            screen = driven.app.screen
            targets = [driven.app, screen, *screen.query("FleetTable, LineView")]
            for key in (key for key in KEYS if key.scope in {scope, "app", "table", "lines"}):
                if key.scope == "table" and not screen.query(FleetTable):
                    continue
                if key.scope == "lines" and not screen.query(LineView):
                    continue
                method = "action_" + key.does.partition("(")[0].rpartition(".")[2]
                assert any(hasattr(target, method) for target in targets), (scope, key.id)


async def test_nothing_typed_is_a_no() -> None:
    """Where something is to be typed, Enter alone says no, so that escape is never the only way."""
    async with console() as driven:
        await driven.press("X", "enter")
        assert (True, []) == (isinstance(driven.app.screen, DevicesScreen), driven.acts.done)


@pytest.mark.parametrize("keys", [("X",), ("2", "D"), ("2", "j", "P"), ("a",), ("question_mark",), ("at",)])
async def test_ctrl_c_gives_up_every_dialog(keys: tuple[str, ...]) -> None:
    """Ctrl+C closes what stands over the screen and changes nothing, even while a field has the keys."""
    async with console() as driven:
        await driven.press(*keys)
        assert isinstance(driven.app.screen, ModalScreen)
        await driven.press("ctrl+c")
        assert (False, []) == (isinstance(driven.app.screen, ModalScreen), driven.acts.done)
        await driven.press("ctrl+c")
        assert 0 == driven.app.return_value


async def test_the_menu_says_what_it_acts_on() -> None:
    """Its title names the device, or counts the marked ones, or names the rollout or the release."""
    async with console() as driven:
        for keys, title in (
            ((), "nas-berlin-02"),
            (("space", "space"), "2 devices"),
            (("2", "j"), "the rollout of kiosk-2304"),
            (("3",), "nas-berlin-02"),
            (("5",), "kiosk-2304"),
        ):
            await driven.press(*keys, "a")
            assert f"Actions on {title} " in driven.text
            await driven.press("q")


async def test_the_palette_says_keys_and_reasons() -> None:
    """Its lines begin with what this screen can do; each has its key as it is mapped, or why it cannot be done."""
    options = Options(clock=lambda: NOW, keys={"devices.deploy": "f3"})
    async with console(options=options) as driven:
        await driven.press("colon")
        await driven.until(partial(shows, driven, "it is not held"))
        listed = driven.app.screen.query_one(OptionList).options
        prompts = [" ".join(str(option.prompt).split()) for option in listed[:8]]
        assert "Open enter" == prompts[0]
        assert {"Columns c", "Deploy f3"} < set(prompts)


async def test_suspending_is_refused_while_devices_are_served() -> None:
    """With the coordinator inside, Ctrl+Z says why the console stays."""
    async with console(options=Options(clock=lambda: NOW, stays="It serves devices.")) as driven:
        await driven.press("ctrl+z")
        await driven.until(partial(shows, driven, "It serves devices."))
