"""A rollout's page: its course in time, a sentence for each device, and trying again the devices that one chooses."""

from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tui.console_fleet import HALTED, NOW, ROLLOUT, device_id, fleet_rollouts
from tests.tui.console_pilot import Driven, console

from nixfleet.model.views import WaveView
from nixfleet.tui.view.rollouts import wave_line
from nixfleet.tui.view.text import plain, width
from nixfleet.tui.view.timeline import timeline, wave_bar
from nixfleet.tui.widgets.dialogs import ConfirmDialog


def shows(driven: Driven, words: str) -> bool:
    """Tell whether the screen shows some words."""
    return words in driven.text


def wave(**times: int | None) -> WaveView:
    """Make a wave that was opened, done and had soaked at some times."""
    return WaveView(number=1, members="1", gate="auto", state="open", total=1, **times)  # type: ignore[arg-type] # only times


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({}, "··········"),
        ({"opened_at": 50}, "·····━━━━━"),
        ({"opened_at": 0, "done_at": 50}, "━━━━━╍╍╍╍╍"),
        ({"opened_at": 0, "done_at": 50, "passed_at": 80}, "━━━━━╍╍╍  "),
        ({"opened_at": 0, "done_at": 0, "passed_at": 0}, "━         "),
        ({"opened_at": 100}, "·········━"),
    ],
)
def test_a_wave_is_drawn_over_the_time_of_its_rollout(times: dict[str, int], expected: str) -> None:
    """Closed, updating, soaking, passed; what was too short to be seen still has a cell."""
    assert expected == plain([wave_bar(wave(**times), 0, 100, 10)]).ljust(10)


_TIMES = st.none() | st.integers(-1_000, 2_000)


@given(_TIMES, _TIMES, _TIMES, st.integers(1, 1_000), st.integers(1, 80))
def test_any_times_draw_exactly_the_room_there_is(
    opened: int | None, done: int | None, passed: int | None, end: int, cells: int
) -> None:
    """Times that make no sense, as after a clock that was put back, break nothing."""
    assert cells == width(wave_bar(wave(opened_at=opened, done_at=done, passed_at=passed), 0, end, cells))


def test_the_timeline_tells_what_happened_in_order() -> None:
    """Signed, begun, opened, done, soaked; each with how long after the signature."""
    made = next(one for one in fleet_rollouts() if one.id == ROLLOUT)
    told = [line.split("  ")[-1].strip() for line in plain(timeline(made, NOW)).splitlines() if line.startswith("20")]
    assert [
        "signed by ops", "the first device began", "wave 1 opened", "wave 1 was done", "wave 1 had soaked",
        "wave 2 opened",
    ] == told  # fmt: skip
    assert "+11m" in plain(timeline(made, NOW))


def test_a_wave_does_not_say_its_number_twice() -> None:
    """The coordinator's sentence names the wave; the row does so already, and has little room."""
    waits = "wave 2 of 3 waits: wave 1 soaks for 6 more minutes"
    drawn = plain([wave_line(msgspec.structs.replace(wave(), number=2, waits=waits), 110, count=3)])
    assert drawn.rstrip().endswith("  wave 1 soaks for 6 more minutes")


async def test_t_shows_the_timeline_and_the_foot_explains_the_device() -> None:
    """The sentence is the one that `rollout explain` gives, of the device under the cursor."""
    async with console() as driven:
        await driven.press("2", "j", "enter")
        await driven.until(partial(shows, driven, " kiosk-berlin-04 is fetching, 62 % fetched"))
        await driven.press("t")
        assert shows(driven, "wave 1 had soaked")
        await driven.press("q", "G")
        assert shows(driven, " has it: confirmed")


async def test_the_chosen_devices_try_again() -> None:
    """T takes the device under the cursor; the question says that a halted rollout has to be resumed as well."""
    async with console() as driven:
        await driven.press("2", "enter", "T")
        assert isinstance(driven.app.screen, ConfirmDialog)
        assert shows(driven, "It is still halted: nobody starts before it is resumed.")
        await driven.press("1", "enter")
        assert [("retry", HALTED, (device_id("web-berlin-01"),))] == driven.acts.done
