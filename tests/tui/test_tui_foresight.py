"""The question before a deployment or a way back: there at once, better as more is known, and never in the way."""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial

import msgspec
from tests.tui.console_fleet import OLD, WEB_RELEASE, device, digest, release_with_lines, system
from tests.tui.console_pilot import Driven, console
from tests.tui.console_ports import FakeActs, FakeSource

from nixfleet.errors import Unreachable
from nixfleet.model.views import ReleaseView
from nixfleet.preview.words import Said
from nixfleet.tui.confirm import Confirm, question
from nixfleet.tui.view.preview import said_lines, shortened
from nixfleet.tui.view.text import Span, plain, reflow
from nixfleet.tui.widgets.dialogs import ConfirmDialog
from nixfleet.tui.widgets.lines import LineView


def shows(driven: Driven, words: str) -> bool:
    """Tell whether the screen shows some words, wherever its lines break."""
    return words in " ".join(driven.text.replace("│", " ").split())


async def test_the_question_stands_before_the_caches_are_read() -> None:
    """It can be answered while narinfos arrive; then bytes, versions and reboots stand in it, the canary by name."""
    acts = FakeActs()
    acts.foresees.held = asyncio.Event()
    async with console(acts=acts) as driven:
        await driven.press("2", "D", "enter")
        await driven.until(partial(shows, driven, "reading the caches … 5 paths so far"))
        assert shows(driven, "1 in wave 1 (1): ")
        dialog = driven.app.screen
        assert isinstance(dialog, ConfirmDialog)
        await driven.press(dialog.confirm.expect[0])
        acts.foresees.held.set()
        await driven.until(partial(shows, driven, "to fetch in sum"))
        assert shows(driven, "kernel 6.12.30 → 6.12.34")
        assert not shows(driven, "reading the caches")
        await driven.press(*dialog.confirm.expect[1:], "enter")
        assert ["deploy"] == [verb for verb, *_ in driven.acts.done]


async def test_a_no_ends_the_preview() -> None:
    """Closing the question closes what is being read, and nothing is signed."""
    acts = FakeActs()
    acts.foresees.held = asyncio.Event()
    async with console(acts=acts) as driven:
        await driven.press("2", "D", "enter")
        await driven.until(partial(shows, driven, "reading the caches …"))
        await driven.press("escape")
        assert not isinstance(driven.app.screen, ConfirmDialog)
        assert [] == driven.acts.done


async def test_a_reboot_that_is_found_wants_the_number_typed() -> None:
    """What began as yes or no becomes a number once it is known that the device reboots; y is no answer then."""
    acts = FakeActs()
    acts.foresees.held = asyncio.Event()
    one = device("nas-x", "nas", "oslo", "test")
    async with console(acts=acts, source=FakeSource([one])) as driven:
        ask = question("Go?", [one], verb="go")
        harder = question("Go?", [one], [(Span("it reboots", "warn"),)], verb="go", reboot=True)

        async def better() -> AsyncGenerator[Confirm, None]:
            yield harder

        answers: list[bool | None] = []
        driven.app.push_screen(ConfirmDialog(ask, better()), answers.append)
        await driven.until(partial(shows, driven, "it reboots"))
        await driven.press("y", "enter")
        assert [] == answers
        await driven.press("backspace", "1", "enter")
        assert [True] == answers


async def test_a_preview_that_breaks_leaves_the_question() -> None:
    """What keeps it from being made is said; whoever asked may still go on, or not."""
    acts = FakeActs()
    acts.foresees.broken = Unreachable("http://x cannot be reached")
    async with console(acts=acts) as driven:
        await driven.press("2", "D", "enter")
        await driven.until(partial(shows, driven, "the preview ends here: http://x cannot be reached"))
        assert isinstance(driven.app.screen, ConfirmDialog)


async def test_the_way_back_is_previewed() -> None:
    """R says what devices return to, as they signed it, and that data stays; the command log names the dry run."""
    async with console() as driven:
        await driven.press("2", "j", "R")
        await driven.until(partial(shows, driven, "nixos 25.05.2304 → 25.05.2219"))
        assert shows(driven, "Data is not rolled back.")
        await driven.press("escape", "at")
        assert shows(driven, "nixfleet rollout rollback")
        assert shows(driven, "--dry-run")


def test_lines_that_do_not_fit_lose_the_least() -> None:
    """Of more lines than there is room for the dim ones go first; what is wrong stays, and how many is said."""
    said = (
        Said(None, "9 devices", "strong"), Said(1, "in wave 1", "dim"), Said(2, "in wave 2", "dim"),
        Said(9, "change"), Said(3, "away", "warn"), Said(1, "no room", "bad"),
    )  # fmt: skip
    lines = list(said_lines(said))
    assert lines == shortened(lines, 40, 6)
    assert "9 devices\n    9  change\n    3  away\n    1  no room\n… and 2 more lines" == plain(shortened(lines, 40, 5))
    assert "    1  no room\n… and 5 more lines" == plain(shortened(lines, 40, 2)) == plain(shortened(lines, 40, 0))


def test_a_long_line_keeps_its_column() -> None:
    """The number before a line stands alone in its column when the line breaks."""
    (line,) = said_lines([Said(40, "nixos 24.05 → 24.11, kernel 6.6.30 → 6.6.52")])
    assert "   40  nixos 24.05 →\n       24.11, kernel\n       6.6.30 →\n       6.6.52" == plain(reflow(line, 21))


async def test_two_marked_releases_are_compared() -> None:
    """Space marks two releases, d shows by package what changes from the older to the newer one, for whom."""
    source = FakeSource()
    newer = source.releases[WEB_RELEASE]
    older = msgspec.structs.replace(newer, id=digest("web-2219"), name="web-2219", index=newer.index - 1)
    source.releases[older.id] = older

    async def lines(release: str) -> ReleaseView:
        whole = release_with_lines(WEB_RELEASE, list(source.devices.values()))
        if release != older.id:
            return whole
        before = (msgspec.structs.replace(line, path=system("web", OLD)) for line in whole.lines)
        return msgspec.structs.replace(whole, id=older.id, lines=tuple(before))

    source.release = lines  # type: ignore[method-assign] # this test's own lines
    async with console(source=source) as driven:
        await driven.press("5", "d")
        assert shows(driven, "Mark two releases with space")
        await driven.press("slash", *"web-2", "enter", "space", "j", "space", "d")
        assert shows(driven, f"web-2219 ({older.id[:8]}) → web-2304 ({newer.id[:8]})")
        assert shows(driven, "12 web-berlin-01, web-berlin-02")
        for words in (
            "openssl 3.4.1 → 3.4.2",
            "ripgrep 14.1.1 +6.0 MiB",
            "telnet 1.0 -1.0 MiB",
            "takes a reboot: kernel",
        ):
            assert shows(driven, words)
        assert driven.app.screen.query_one(LineView).all_lines


async def test_what_cannot_be_compared_is_said() -> None:
    """Releases for other devices have nothing in common; a cache that fails is named; a device that is fine says so."""
    source = FakeSource()
    async with console(source=source) as driven:
        await driven.press("5", "space", "j", "space", "d")
        assert shows(driven, "No device has a line in both.")
        await driven.press("backspace", "1", "slash", *"nas-berlin-01", "enter", "enter", "d")
        assert shows(driven, "It is in no rollout") or shows(driven, "It runs what it should.")
        source.broken = Unreachable("http://x cannot be reached")
        await driven.press("backspace", "slash", *["backspace"] * 13, *"kiosk-berlin-03", "enter", "enter", "d")
        assert shows(driven, "http://x cannot be reached")
