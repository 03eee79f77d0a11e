"""The console as a person meets it: keys, dialogs, live changes, lost links, small terminals; over ports in memory."""

import asyncio
import sys
from functools import partial
from typing import get_args

import msgspec
import pytest
from rich.cells import cell_len
from tests.tui.console_fleet import NOW, ROLLOUT, device, device_id, fleet_devices, fleet_requests, fleet_rollouts
from tests.tui.console_pilot import Driven, console
from tests.tui.console_ports import FakeActs, FakeSource, FakeVerifier, connect
from textual.drivers._writer_thread import WriterThread

from nixfleet.errors import Refused, Unreachable
from nixfleet.model.device import Outcome, Phase
from nixfleet.model.views import DeviceView
from nixfleet.tui.app import ConsoleApp
from nixfleet.tui.desk import Desk, Options, Theme
from nixfleet.tui.driver import PatientDriver
from nixfleet.tui.screens.device import DeviceScreen
from nixfleet.tui.screens.devices import DevicesScreen
from nixfleet.tui.screens.rollouts import RolloutScreen
from nixfleet.tui.widgets.chrome import Prompt
from nixfleet.tui.widgets.dialogs import MenuDialog, PageDialog
from nixfleet.tui.widgets.fleet_table import FleetTable
from nixfleet.tui.widgets.lines import LineView


def table_of(driven: Driven) -> FleetTable[DeviceView]:
    """Find the table on the screen."""
    return driven.app.screen.query_one(FleetTable)


def shows(driven: Driven, *words: str) -> bool:
    """Tell whether all of this is on the screen."""
    return all(word in driven.text for word in words)


async def test_a_change_is_drawn_without_moving_the_cursor() -> None:
    """A device that fails rises to the top, while the cursor stays on the device it was on."""
    async with console() as driven:
        await driven.press("j", "j", "j")
        table = table_of(driven)
        before = table.cursor
        ok = driven.source.devices[device_id("web-oslo-04")]
        failed = msgspec.structs.replace(ok, outcome=Outcome.FAILED, phase=Phase.FAILED, reason="no space")
        driven.source.put(failed)
        await driven.until(lambda: "no space" in driven.text and table.listing.ids.index(ok.id) < 3)
        assert before == table.cursor
        assert table.listing.ids.index(before) == table._row


async def test_a_cursor_that_nobody_moved_stays_at_the_top() -> None:
    """There stands what needs a person most, whenever it came; Enter opens what one sees, and from then on it stays."""
    async with console(size=(80, 24)) as driven:
        table = table_of(driven)
        ok = driven.source.devices[device_id("web-oslo-04")]
        driven.source.put(msgspec.structs.replace(ok, log_state="fork"))
        await driven.until(lambda: table.listing.ids[0] == ok.id)
        assert (ok.id, 0) == (table.cursor, table._row)
        await driven.press("enter", "backspace")
        driven.source.put(ok)
        await driven.until(lambda: table.listing.ids[0] != ok.id)
        assert (ok.id, table.listing.ids.index(ok.id)) == (table.cursor, table._row)


async def test_n_goes_on_to_the_next_match_of_the_last_query() -> None:
    """Among all devices, once the filter is taken away, around the end and back; without a query it says what to do."""
    async with console() as driven:
        table = table_of(driven)
        await driven.press("n")
        assert shows(driven, "Press / and say what to look for.")
        await driven.press("slash", *"tag.role:nas", "enter")
        wanted = set(table.listing.ids)
        await driven.press("slash", *["backspace"] * len("tag.role:nas"), "enter", "g")
        rows = [row for row, key in enumerate(table.listing.ids) if key in wanted]
        assert (6, 40) == (len(rows), len(table.listing.ids))
        seen = []
        for _ in range(7):
            await driven.pilot.press("n")
            seen.append(table._row)
        assert [*rows, rows[0]] == seen if rows[0] else [*rows[1:], rows[0], rows[1]] == seen
        await driven.press("N")
        assert table._row == seen[-2]
        await driven.press("slash", *"name:nobody", "enter", "n")
        assert shows(driven, "No device matches the last query.")


async def test_downloads_move() -> None:
    """Progress in bytes is on the screen soon after it was heard."""
    async with console() as driven:
        record = driven.source.devices[device_id("kiosk-berlin-04")]
        assert record.transfer is not None
        done = msgspec.structs.replace(record.transfer, done_bytes=1_700 * 2**20)
        driven.source.put(msgspec.structs.replace(record, transfer=done))
        await driven.until(lambda: "1.7/1.8 GiB" in driven.text)


async def test_an_update_is_seen_from_phase_to_new_system() -> None:
    """A device goes from one system to the next before one's eyes, on its own page."""
    new = "/nix/store/" + "b" * 32 + "-new-2"
    async with console(source=FakeSource([device("web-01", "web", "oslo")])) as driven:
        await driven.press("enter")
        record = driven.source.devices[device_id("web-01")]
        for phase, word in ((Phase.VERIFYING, "verifies"), (Phase.ACTIVATING, "activates")):
            busy = msgspec.structs.replace(record, phase=phase, outcome=None, intended=new)
            driven.source.put(busy, (f"line of {phase}",))
            await driven.until(partial(shows, driven, word, f"line of {phase}"))
        driven.source.put(msgspec.structs.replace(record, system=new, intended=""))
        await driven.until(partial(shows, driven, "system      bbbbbb… new-2"))


async def test_enter_and_back() -> None:
    """Enter opens a device, v its rollout, enter a member; backspace goes up each time, and no further."""
    async with console() as driven:
        await driven.press("slash", *"kiosk-berlin-04", "enter", "enter")
        assert isinstance(driven.app.screen, DeviceScreen)
        await driven.press("v")
        assert isinstance(driven.app.screen, RolloutScreen)
        await driven.press("enter")
        assert isinstance(driven.app.screen, DeviceScreen)
        await driven.press("backspace", "escape", "backspace", "backspace", "backspace")
        assert isinstance(driven.app.screen, DevicesScreen)


async def test_a_bad_query_keeps_the_last_good_result() -> None:
    """While a query cannot be read, or half a field is typed, the rows stay; Enter does not take what is wrong."""
    async with console() as driven:
        for key in ("slash", *"status:ok wav", "e", ":", "enter"):
            await driven.press(key)
        assert 14 == len(table_of(driven).listing.ids)
        assert "a value is missing here" in driven.text
        await driven.press("escape")
        assert 40 == len(table_of(driven).listing.ids)


async def test_backspace_in_an_empty_line_gives_it_up() -> None:
    """With nothing left to take away, backspace closes the line and what was in force before holds again."""
    async with console() as driven:
        await driven.press("slash", *"status:ok", "enter", "slash", *["backspace"] * 9)
        assert 40 == len(table_of(driven).listing.ids)
        await driven.press("backspace")
        assert (14, False) == (len(table_of(driven).listing.ids), driven.app.screen.query_one(Prompt).display)


async def test_a_bad_query_is_explained_in_full() -> None:
    """What is wrong stands above the line, whole, even on a narrow terminal."""
    async with console(size=(80, 24)) as driven:
        await driven.press("slash", *"status:foo")
        await driven.until(partial(shows, driven, "'foo' is no status", "retired"))


async def test_a_query_narrows_what_marking_all_marks() -> None:
    """`*` marks what matches, and only that; u unmarks."""
    async with console() as driven:
        await driven.press("slash", *"tag.role:nas", "enter", "asterisk")
        assert 6 == len(table_of(driven).chosen)
        await driven.press("u")
        assert 1 == len(table_of(driven).chosen)


async def test_sorting_goes_on_and_keeps_the_cursor() -> None:
    """S goes through the columns; the cursor stays on its device."""
    async with console() as driven:
        await driven.press("G")
        table = table_of(driven)
        before = table.cursor
        await driven.press("s", "s")
        assert (("name", False), before) == (table.sorting[0], table.cursor)
        names = [driven.source.devices[key].name for key in table.listing.ids]
        assert sorted(names) == names
        await driven.press("s", "S")
        assert ([("name", True), ("status", False)], 40) == (table.sorting, len(table.listing.ids))


async def test_pausing_holds_the_view_still() -> None:
    """Paused, nothing moves and the header says so; on going on everything is caught up with."""
    async with console() as driven:
        await driven.press("p")
        driven.source.put(device("web-new", "web", "oslo"))
        await driven.until(lambda: len(driven.app.desk.store.devices) == 41)
        driven.app.flush()
        assert (40, True) == (len(table_of(driven).listing.ids), "‖ paused" in driven.text)
        await driven.press("p")
        assert 41 == len(table_of(driven).listing.ids)


async def test_a_busy_terminal_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the terminal has not taken what was written, nothing more is drawn; nothing is lost either."""
    async with console() as driven:
        busy = object.__new__(PatientDriver)
        busy._writer_thread = WriterThread(sys.stdout)
        busy._writer_thread.write("a frame")
        assert 1 == busy.waiting_writes
        with monkeypatch.context() as patched:
            patched.setattr(driven.app, "_driver", busy)
            driven.source.put(device("web-new", "web", "oslo"))
            await driven.until(lambda: len(driven.app.desk.store.devices) == 41)
            assert 40 == len(table_of(driven).listing.ids)
        await driven.until(lambda: len(table_of(driven).listing.ids) == 41)


def test_the_driver_survives_another_textual() -> None:
    """Where the queue is not where it was, the driver reports an idle terminal instead of failing."""
    driver = object.__new__(PatientDriver)
    assert 0 == driver.waiting_writes
    driver._writer_thread = None
    assert 0 == driver.waiting_writes


async def test_a_lost_link_keeps_what_was_shown_and_greys_what_changes() -> None:
    """Without the coordinator the rows stay, the header says stale, and nothing can be signed."""
    async with console() as driven:
        driven.source.broken = Unreachable("nobody answers")
        driven.source.send(Unreachable("the stream broke"))
        await driven.until(lambda: not driven.app.desk.live)
        driven.app.shown.refresh_chrome()
        await driven.press("X")
        assert (40, []) == (len(table_of(driven).listing.ids), driven.acts.done)
        await driven.until(lambda: "not connected" in driven.text)


async def test_a_broken_task_does_not_close_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody expected is told and kept in the command log."""
    async with console() as driven:

        async def broken(_: str) -> None:
            raise ValueError("a bug")

        monkeypatch.setattr(driven.app.desk.feed, "rollout", broken)
        await driven.press("2", "enter")
        await driven.until(lambda: any("a bug" in call.said for call in driven.app.desk.calls))
        assert driven.app.is_running


async def test_a_small_terminal_asks_for_more_room() -> None:
    """Below 80 by 20 there is a card; a larger terminal brings the screen back."""
    async with console(size=(79, 24)) as driven:
        assert "Please make the terminal larger." in driven.text
        await driven.pilot.resize_terminal(100, 30)
        await driven.rest()
        assert "larger" not in driven.text


async def test_a_terminal_of_hardly_any_size_and_back() -> None:
    """At 20 by 5 every page still stands and takes keys; larger again, it is as it was."""
    async with console(size=(100, 30)) as driven:
        for keys in ("1", "2", "3", "4", "5", "1", "enter", "question_mark", "escape", "a", "escape"):
            await driven.press(keys)
            before = driven.text
            await driven.pilot.resize_terminal(20, 5)
            await driven.rest()
            assert "larger" in driven.text or isinstance(driven.app.screen, MenuDialog | PageDialog)
            await driven.press("j", "k")
            await driven.pilot.resize_terminal(100, 30)
            await driven.rest()
            assert before == driven.text


async def test_an_age_in_a_query_is_judged_by_time() -> None:
    """A device that was seen too lately comes in as time passes, though nothing is heard of it; not while paused."""
    now = NOW
    options = Options(clock=lambda: now, query="seen>10m")
    away = msgspec.structs.replace(device("web-x", "web", "oslo"), online=False, seen_at=NOW - 300)
    async with console(source=FakeSource([away]), options=options) as driven:
        assert "No device matches." in driven.text
        now += 301
        await driven.press("p")
        driven.app._older()
        assert [] == table_of(driven).listing.ids
        await driven.press("p")
        driven.app._older()
        await driven.rest()
        assert ([away.id], True) == (table_of(driven).listing.ids, "1 of 1" in driven.text)


async def test_a_coordinator_that_is_away_at_first() -> None:
    """Unreachable at start, the console opens and says so and why; when the coordinator comes, so does the fleet."""
    source, verifier = FakeSource(), FakeVerifier()
    source.broken = Unreachable("nobody answers")
    app = ConsoleApp(Desk(connect(source, verifier=verifier), Options(clock=lambda: NOW)))
    app.animation_level = "none"
    async with app.run_test(size=(100, 30)) as pilot:
        driven = Driven(app, pilot, source, FakeActs())
        await driven.until(partial(shows, driven, "○ reconnecting", "Asking the coordinator", "nobody answers"))
        await driven.press("2", "enter", "P", "3", "A", "4", "enter", "e", "5", "D", "1", "X", "y", "o")
        assert app.is_running
        source.broken = None
        await driven.until(partial(shows, driven, "● live", "nas-berlin-02"))


async def test_marks_stand_only_where_they_mean_something() -> None:
    """Acts take one rollout: space and * mark none, and the help does not name them."""
    async with console() as driven:
        await driven.press("2", "space", "asterisk")
        assert set() == table_of(driven).marks
        await driven.press("question_mark")
        assert "Unmark all" not in driven.text


async def test_an_empty_fleet_names_the_next_step() -> None:
    """Empty lists say what to do."""
    async with console(source=FakeSource([])) as driven:
        shown = [driven.text]
        for view in "235":
            await driven.press(view)
            shown.append(driven.text)
        words = ("nixfleet enroll token", "nixfleet deploy", "nixfleet enroll token", "nixfleet release create")
        assert [True] * 4 == [word in text for word, text in zip(words, shown, strict=True)]


async def test_device_text_is_shown_and_never_obeyed() -> None:
    """Markup in names and reasons appears as text, escape sequences not at all."""
    evil = msgspec.structs.replace(
        device("x", "web", "oslo"),
        name="[red]x\x1b[2J",
        outcome=Outcome.FAILED,
        phase=Phase.FAILED,
        reason="[bold]\x07bad\u202e",
    )
    async with console(source=FakeSource([evil])) as driven:
        assert (True, True, False) == tuple(word in driven.text for word in ("[red]x", "[bold]bad", "[2J"))
        assert not {"\x1b", "\x07", "\u202e"} & set(driven.text)


HOSTILE = {
    "markup": "[bold]x[/bold] [@click=app.quit]y[/]",
    "broken": "[/nothing][",
    "escapes": "\x1b]52;c;eA==\x07\x1b[2J",
    "wide": "機器" * 40,
    "long": "n" * 300,
    "joined": "e\u0301\u200d",
    "nothing": "\x00",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
async def test_no_name_breaks_a_page(name: str) -> None:
    """Every page and dialog shows a device whatever it is called; no line is wider than the terminal."""
    one = msgspec.structs.replace(
        device("x", "web", "oslo"), name=name, waits=name, reason=name, release=name, lines=(name,), rollout=ROLLOUT
    )
    async with console(size=(80, 24), source=FakeSource([one])) as driven:
        driven.source.put_rollout(msgspec.structs.replace(fleet_rollouts()[0], release_name=name, note=name))
        driven.source.requests[one.id] = msgspec.structs.replace(fleet_requests()[0], name=name)
        await driven.press("r")
        for keys in ("X", "escape", "a", "escape", "y", "enter", "h", "i", "v", "2", "P", "escape", "3", "A", "escape"):
            await driven.press(keys)
            assert 80 >= max(cell_len(line) for line in driven.text.split("\n"))
            assert not {"\x1b", "\x07", "\x00"} & set(driven.text)
        assert driven.app.is_running


async def test_markup_in_titles_and_toasts_is_text() -> None:
    """What a device calls itself is no link to click and no style, in dialogs and in messages."""
    name = "[@click=app.quit]y[/]"
    acts = FakeActs()
    acts.broken = Refused(f"no right on {name}")
    one = msgspec.structs.replace(device("x", "web", "oslo"), name=name, tags={})
    async with console(source=FakeSource([one]), acts=acts) as driven:
        await driven.press("X")
        assert f"Retire {name}?" in driven.text
        await driven.press(*name, "enter")
        await driven.until(lambda: f"no right on {name}" in driven.text)


@pytest.mark.parametrize("view", ["rollouts", "audit"])
async def test_the_first_view_can_be_chosen(view: str) -> None:
    """An address such as `rollouts` opens that view; a query comes with it."""
    async with console(options=Options(clock=lambda: NOW, view=view, query="status:ok")) as driven:
        assert view == driven.app.current_mode
        await driven.press("1")
        assert 14 == len(table_of(driven).listing.ids)


async def test_finding_and_filtering_lines() -> None:
    """/ finds and n goes on; & shows only what matches; finding ends following, f takes it up again."""
    async with console(size=(80, 24)) as driven:
        await driven.press("slash", *"web-berlin-01", "enter", "enter", "slash", *"web-api", "enter")
        lines = driven.app.screen.query_one(LineView)
        assert (6, 3) == (lines.hits, lines._hit)
        await driven.press("n", "N", "ampersand", *"units", "enter")
        assert ("units", 3) == (lines.only, len(lines._shown))
        assert not lines.follow
        await driven.press("f")
        assert lines.follow


async def test_the_help_of_a_page_closes_again() -> None:
    """? opens help over the page and esc closes it."""
    async with console() as driven:
        await driven.press("question_mark")
        assert isinstance(driven.app.screen, PageDialog)
        await driven.press("escape")
        assert isinstance(driven.app.screen, DevicesScreen)


async def test_copying_goes_to_the_terminal() -> None:
    """Y copies the name under the cursor."""
    async with console() as driven:
        await driven.press("y")
        assert "nas-berlin-02" == driven.app.clipboard


async def test_columns_can_be_hidden() -> None:
    """C lists the columns and takes one away."""
    async with console() as driven:
        await driven.press("c", "down", "down", "down", "enter")
        assert frozenset({"tags"}) == table_of(driven).hidden
        assert " tags" not in driven.text


async def test_a_large_fleet_is_quick_to_sort_and_filter() -> None:
    """Fifty thousand rows load, and a thousand changes are taken in, well within a second of work."""
    pattern = fleet_devices()[0]
    many = [msgspec.structs.replace(pattern, id=f"{number:032x}", name=f"d-{number:05}") for number in range(50_000)]
    async with console(source=FakeSource(many)) as driven:
        table = table_of(driven)
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number in range(1_000):
            driven.app.desk.store._put_device(msgspec.structs.replace(many[number * 7], seen_at=NOW - number))
        driven.app.flush()
        table.on_changes(set(), settle=True)
        assert loop.time() - start < 2
        assert 50_000 == len(table.listing.ids)


@pytest.mark.parametrize("theme", get_args(Theme))
async def test_every_theme_shows_the_same_text(theme: Theme) -> None:
    """Themes change colours and nothing else; each can draw every role."""
    async with console() as plain:
        expected = plain.text
    async with console(options=Options(clock=lambda: NOW, theme=theme)) as driven:
        assert (expected, theme) == (driven.text, driven.app.theme)
