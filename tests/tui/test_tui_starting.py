"""The form of a rollout: all that the command line can say, by the same rules; what is wrong is said where it is."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tui.console_fleet import NOW, RELEASE, device_id, fleet_devices, release_with_lines
from tests.tui.console_pilot import Driven, console
from textual.widgets import Input

from nixfleet.cli.rollouts import rollout as rollout_command
from nixfleet.errors import UserError
from nixfleet.model.statements import Activation, StopAt, Wave, Window
from nixfleet.rollout.asking import UNSAID, filled_up, read_order
from nixfleet.tui.preview import filled
from nixfleet.tui.starting import FIELDS, SECTIONS, UNTOUCHED, culprit, read_start, section_words
from nixfleet.tui.view.text import plain
from nixfleet.tui.widgets.answer import Fold, Pick
from nixfleet.tui.widgets.deploy import DeployDialog
from nixfleet.tui.widgets.dialogs import ConfirmDialog

IDS = {one.name: one.id for one in fleet_devices()}
EVERYTHING = {
    "on": "site=oslo,berlin role=kiosk",
    "wave": "env=test:signed 'env=prod site=oslo' 100%",
    "soak": "10m",
    "max_in_flight": "7",
    "stop_at": "5%",
    "stop_at_least": "3",
    "window": "mon-fri 22:00-05:00 Europe/Berlin",
    "not_before": "2h",
    "not_after": "7d",
    "prefetch": "yes",
    "mode": "boot",
    "reboot": "in-window",
    "accept_no_fallback": "yes",
    "confirm_within": "5m",
    "contact": "any",
    "device_timeout": "2h",
    "note": "FLEET-1",
}


def shows(driven: Driven, words: str) -> bool:
    """Tell whether the screen shows some words, wherever its lines break."""
    return words in " ".join(driven.text.replace("│", " ").split())


def as_command(words: tuple[str, ...]) -> dict[str, Any]:
    """Read words as ``rollout start`` reads them, before they mean anything."""
    start = rollout_command.commands["start"]
    with start.make_context("start", [*words, "r"]) as context:
        return {name: context.params[name] for name in UNSAID}


def test_the_form_says_everything_that_the_command_line_can() -> None:
    """Every option of a rollout has a field, and reaches what will be signed."""
    assert set(UNSAID) | {"release", "note"} == set(FIELDS)
    made = read_start(RELEASE, EVERYTHING, IDS, NOW)
    wishes = made.order.wishes
    assert {"site": ("oslo", "berlin"), "role": ("kiosk",)} == wishes.select
    assert (
        Wave(members={"env": ("test",)}, gate="signed"),
        Wave(members={"env": ("prod",), "site": ("oslo",)}),
        Wave(members="100%"),
    ) == wishes.waves
    days = ("mon", "tue", "wed", "thu", "fri")
    assert Window(days=days, from_="22:00", to="05:00", tz="Europe/Berlin") == wishes.window  # type: ignore[arg-type] # five of the week
    assert (600, 7, StopAt(percent=5, at_least=3), 7_200) == (
        wishes.soak_s, wishes.max_in_flight, wishes.stop_at, wishes.device_timeout_s,
    )  # fmt: skip
    assert (NOW + 7_200, NOW + 7 * 86_400, True) == (wishes.not_before, wishes.not_after, wishes.prefetch)
    assert ("boot", "in_window", Activation(confirm_s=300, contact="any", no_fallback=True)) == (
        wishes.mode, wishes.reboot, wishes.activation,
    )  # fmt: skip
    assert (True, "FLEET-1") == (made.order.accept_no_fallback, made.note)


def test_a_trial_is_told_with_its_time() -> None:
    """The folded section says how it ends, the command says the same, and a time without a trial is refused."""
    texts = {"mode": "test", "test_for": "2h", "device_timeout": "3h"}
    made = read_start(RELEASE, texts, IDS, NOW)
    assert ("test", 7_200) == (made.order.wishes.mode, made.order.wishes.activation.for_s)
    assert ("--mode", "test", "--for", "2h", "--device-timeout", "3h") == made.flags
    assert section_words("device", made.order, filled_up(made.order.wishes, 1), NOW).startswith("tried for 2h, then")
    with pytest.raises(UserError, match="Try for goes with Mode test"):
        read_start(RELEASE, {"test_for": "2h"}, IDS, NOW)


_TEXTS = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from([text, UNTOUCHED[name]])
        if not FIELDS[name].options
        else st.sampled_from(FIELDS[name].options)
        for name, text in EVERYTHING.items()
        if name != "note"
    },
)


@given(_TEXTS)
def test_the_command_of_a_form_means_the_same(texts: Mapping[str, str]) -> None:
    """The command line that the command log shows is read by the command itself as the very same order."""
    try:
        made = read_start(RELEASE, texts, IDS, NOW)
    except UserError:
        return
    assert made.order == read_order(as_command(made.flags), NOW)


def test_an_untouched_form_says_nothing() -> None:
    """With nothing filled in all is as by default, and the command needs no option."""
    made = read_start(RELEASE, {}, IDS, NOW)
    assert (read_order(UNSAID, NOW), ()) == (made.order, made.flags)


@pytest.mark.parametrize(
    ("texts", "field", "says"),
    [
        ({"on": "nobody"}, "on", "no device is called 'nobody'"),
        ({"on": "kiosk-oslo-01 site=oslo"}, "on", "not both"),
        ({"on": "site="}, "on", "selects nothing"),
        ({"wave": "none"}, "wave", "no number of devices"),
        ({"wave": "0"}, "wave", "no number of devices"),
        ({"wave": "1 " * 65}, "wave", "Waves: a rollout has at most 64 waves"),
        ({"wave": "1 'env=test"}, "wave", "Waves: a quote"),
        ({"wave": "1", "all_at_once": "yes"}, "wave", "All at once and Waves exclude each other"),
        ({"soak": "soon"}, "soak", "no duration"),
        ({"max_in_flight": "0"}, "max_in_flight", "In flight: a number from 1"),
        ({"max_in_flight": "9" * 400}, "max_in_flight", "In flight: a number from 1"),
        ({"stop_at": "5", "stop_at_least": "2"}, "stop_at_least", "Halt at 5 is a number already"),
        ({"stop_at_least": "2"}, "stop_at_least", "At least goes with a share, as in Halt at 5%"),
        ({"window": "22:00"}, "window", "no window"),
        ({"window": "22:00-05:00 Mars/Phobos"}, "window", "no time zone"),
        ({"not_before": "soon"}, "not_before", "no date"),
        ({"not_after": "2001-01-01"}, "not_after", "Not after 2001-01-01 is over"),
        ({"reboot": "in-window"}, "reboot", "Reboot in-window needs a Window"),
        ({"confirm_within": "1s"}, "confirm_within", "Confirm 1s is out of bounds"),
        ({"device_timeout": "1s"}, "device_timeout", "Overdue 1s is too short"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_the_words_of_the_form(texts: dict[str, str], field: str, says: str) -> None:
    """One sentence that names the field as it is labelled; the field that is to blame is found."""
    with pytest.raises(UserError, match=says):
        read_start(RELEASE, texts, IDS, NOW)
    assert field == culprit(texts, IDS, NOW)


def test_counts_may_be_parted_by_commas() -> None:
    """Waves are read as people write lists."""
    for text in ("1 10% 100%", "1,10%,100%", "1, 10%, 100%"):
        assert 3 == len(read_start(RELEASE, {"wave": text}, IDS, NOW).order.wishes.waves or ())


def test_a_signed_gate_that_no_device_can_check_is_refused() -> None:
    """Behind a wave by count it would not hold, and the form says so before anything is signed."""
    wanted = read_start(RELEASE, {"wave": "1 100%:signed"}, IDS, NOW)
    with pytest.raises(UserError, match="may only follow waves by selector"):
        filled(release_with_lines(RELEASE, fleet_devices()), wanted, fleet_devices())


def test_a_reboot_without_a_way_back_has_to_be_accepted() -> None:
    """The kiosks cannot fall back at boot: who lets them reboot says that this is fine, in so many words."""
    release = release_with_lines(RELEASE, fleet_devices())
    texts = {"on": "kiosk-oslo-01", "reboot": "now"}
    with pytest.raises(UserError, match=r"cannot fall back .*kiosk-oslo-01.* add No fallback"):
        filled(release, read_start(RELEASE, texts, IDS, NOW), fleet_devices())
    accepted = filled(release, read_start(RELEASE, {**texts, "accept_no_fallback": "yes"}, IDS, NOW), fleet_devices())
    assert [device_id("kiosk-oslo-01")] == [device.id for device in accepted.devices]


def test_folded_sections_say_what_they_come_to() -> None:
    """The defaults are worked out for the devices; what was typed stands in words."""
    release = release_with_lines(RELEASE, fleet_devices())
    usual = filled(release, read_start(RELEASE, {}, IDS, NOW), fleet_devices())
    said = {one.name: section_words(one.name, usual.deployment.order, usual.shape, NOW) for one in SECTIONS}
    assert {
        "pace": "1, 10%, 50%, 100% · soak 5m · 4 at once · halts at 5% failed",
        "when": "at any time",
        "device": "switches at once · no reboot · 2m to reach the coordinator · overdue after 1h",
    } == said
    full = filled(release, read_start(RELEASE, EVERYTHING, IDS, NOW), fleet_devices())
    said = {one.name: section_words(one.name, full.deployment.order, full.shape, NOW) for one in SECTIONS}
    assert (
        "env=test by hand, env=prod site=oslo, 100% · soak 10m · 7 at once · halts at 5% failed, at least 3"
        == said["pace"]
    )
    assert said["when"].startswith("mon,tue,wed,thu,fri 22:00-05:00 Europe/Berlin · from ")
    assert said["when"].endswith(" · downloads before it")
    assert said["device"].startswith("with the next boot · reboots in the window · also without fallback · 5m to reach")


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_a_section_is_unfolded_filled_in_and_signed(size: tuple[int, int]) -> None:
    """Enter on its line unfolds it, arrows choose, the preview follows; what was chosen is what is signed."""
    async with console(size=size) as driven:
        await driven.press("2", "D", "down", "enter", "down", *"2 100%")
        assert shows(driven, "in 2 waves")
        await driven.press("up", "left", "down", "down", "enter", *["down"] * 3, "right", "enter")
        assert shows(driven, "Reboot in-window needs a Window")
        assert not isinstance(driven.app.screen, ConfirmDialog)
        await driven.press("right", "right", "down", "space")
        assert "never" == driven.app.screen.query_one("#form-reboot", Pick).value
        await driven.press("enter")
        assert isinstance(driven.app.screen, ConfirmDialog)
        await driven.press(*driven.app.screen.confirm.expect, "enter")
        ((verb, wanted),) = driven.acts.done
        order = wanted.order  # type: ignore[attr-defined] # the fake notes what it got
        assert ("deploy", (Wave(members=2), Wave(members="100%"))) == (verb, order.wishes.waves)
        assert (True, "never") == (order.accept_no_fallback, order.wishes.reboot)
        assert "--wave 2 --wave 100% --accept-no-fallback" in plain(driven.app.desk.calls.lines(str))


async def test_one_section_is_unfolded_at_a_time() -> None:
    """Unfolding another folds the first, so that the form has room in 24 lines."""
    async with console(size=(80, 24)) as driven:
        await driven.press("2", "D", "down", "space", *["down"] * 7, "right")
        dialog = driven.app.screen
        assert isinstance(dialog, DeployDialog)
        assert [False, True, False] == [fold.unfolded for fold in dialog.query(Fold)]
        await driven.press("left")
        assert [False, False, False] == [fold.unfolded for fold in dialog.query(Fold)]


async def test_a_wrong_field_is_marked_and_its_folded_section_says_so() -> None:
    """Folded away, it cannot hide what is wrong in it."""
    async with console() as driven:
        await driven.press("2", "D", "down", "enter", "down", *"none", "up", "left")
        assert driven.app.screen.query_one("#form-wave", Input).has_class("-wrong")
        await driven.until(partial(shows, driven, "✗ Waves is wrong"))


@pytest.mark.parametrize("no", ["escape", "enter"])
async def test_who_says_no_finds_the_form_as_it_was_filled_in(no: str) -> None:
    """A look at the question is not paid for with what was typed: it stands there, where one was, to be mended."""
    async with console(size=(80, 24)) as driven:
        await driven.press("2", "D", "down", "enter", "down", *"2 100%", "enter")
        assert isinstance(driven.app.screen, ConfirmDialog)
        assert not shows(driven, "▾ Pace")
        await driven.press(no)
        form = driven.app.screen
        assert isinstance(form, DeployDialog)
        assert ("2 100%", "form-wave", []) == (
            form.query_one("#form-wave", Input).value, getattr(form.focused, "id", ""), driven.acts.done,
        )  # fmt: skip
        await driven.press("backspace", *"%, 50%")
        assert shows(driven, "▾ Pace")
        await driven.press("escape")
        assert not isinstance(driven.app.screen, DeployDialog)


async def test_a_yes_closes_the_form_as_well() -> None:
    """What was agreed to is signed once, and one is back where one came from."""
    async with console() as driven:
        await driven.press("2", "D", "enter")
        confirm = driven.app.screen
        assert isinstance(confirm, ConfirmDialog)
        await driven.press(*confirm.confirm.expect, "enter")
        assert (1, driven.app.shown) == (len(driven.acts.done), driven.app.screen)
