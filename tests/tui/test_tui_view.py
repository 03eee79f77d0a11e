"""Text for records: cells, ages, sizes, bars, phrases, and how foreign text is kept harmless."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tests.tui.console_fleet import (
    NOW,
    device,
    fingerprint,
    fleet_access,
    fleet_devices,
    fleet_requests,
    fleet_rollouts,
)

from nixfleet.model.device import Outcome, Phase
from nixfleet.model.text import clean
from nixfleet.model.views import FleetView, Transfer
from nixfleet.query import STATUSES, status_of
from nixfleet.tui.columns import GAP, Column, lay_out
from nixfleet.tui.listing import Listing
from nixfleet.tui.ports import Identity, LogCheck
from nixfleet.tui.store import Store
from nixfleet.tui.view import access, chrome, devices, joining, log, rollouts, text
from nixfleet.tui.view.text import Span

FOREIGN = st.text(max_size=80)


def test_a_device_that_root_has_paused_shows_until_when_and_why() -> None:
    """In its row and at the head of its page; what was written there cannot steer the terminal."""
    paused = msgspec.structs.replace(
        device("nas-01", "nas", "oslo"), paused_until=NOW + 3_600, pause_reason="moving \x1b[31mthe rack"
    )
    expected = f"until {devices.when(NOW + 3_600)}: moving the rack"
    assert "paused" == status_of(paused)
    assert expected == "".join(span.text for span in devices.phrase(paused, 80))
    head = " ".join(text.plain((line,)) for line in devices.headline(paused, NOW, 40))
    assert f"by root on the device, {expected}" in head


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "<1m"),
        (59, "<1m"),
        (60, "1m"),
        (3_599, "59m"),
        (3_600, "1h"),
        (86_399, "23h"),
        (86_400, "1d"),
        (13 * 86_400, "13d"),
        (14 * 86_400, "2w"),
        (364 * 86_400, "52w"),
        (365 * 86_400, "1y"),
    ],
)
def test_ages_go_in_steps(seconds: int, expected: str) -> None:
    """An age changes at most once a minute."""
    assert expected == text.age(seconds)


def test_a_rollback_is_called_what_the_coordinator_calls_it() -> None:
    """Its name already says that it leads back, and stands as it is."""
    one = msgspec.structs.replace(fleet_rollouts()[0], kind="rollback", release="", release_name="back from web-2304")
    assert "back from web-2304" == rollouts.title(one)
    assert one.id[:8] == rollouts.title(msgspec.structs.replace(one, release_name=""))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (1_023, "1023 B"), (1_024, "1.0 KiB"), (11 * 2**20, "11 MiB"), (int(1.25 * 2**30), "1.2 GiB")],
)
def test_sizes_have_few_digits(count: int, expected: str) -> None:
    """A size is short and has its unit."""
    assert expected == text.size(count)


@given(st.lists(FOREIGN, max_size=4), st.integers(0, 40), st.booleans())
def test_fit_is_exact(parts: list[str], cells: int, right: bool) -> None:
    """A fitted line takes exactly its cells, wide characters and all."""
    line = tuple(Span(clean(part)) for part in parts)
    assert cells == text.width(text.fit(line, cells, right=right))


@given(FOREIGN, st.integers(4, 40))
def test_wrapped_lines_fit(foreign: str, cells: int) -> None:
    """No wrapped line is longer than its cells, and no word is lost."""
    lines = text.wrap(foreign, cells)
    assert all(text.width(line) <= cells for line in lines)
    letters = "".join(span.text for line in lines for span in line).replace(" ", "")
    assert clean(foreign).replace(" ", "") == letters


def test_wide_characters_are_measured_in_cells() -> None:
    """A wide character that does not fit is cut whole."""
    assert ("日…", 3) == (text.clip("日本語", 4), cell_len(text.clip("日本語", 4)))


def test_every_status_has_a_glyph_of_its_own_and_one_cell() -> None:
    """No state is told by colour alone, and no glyph breaks the columns."""
    glyphs = [devices.GLYPHS[status][0] for status in STATUSES]
    assert (len(STATUSES), {1}) == (len(set(glyphs)), {cell_len(glyph) for glyph in glyphs})


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 30), st.integers(1, 30))
def test_bars_are_as_long_as_asked(confirmed: int, failed: int, in_flight: int, more: int, cells: int) -> None:
    """A bar takes its cells exactly, and a failure is never too small to be seen while there is room."""
    total = confirmed + failed + in_flight + more
    drawn = rollouts.bar(confirmed, failed, in_flight, total, cells)
    assert cells == text.width(drawn)
    if failed and total <= cells:
        assert "✗" in "".join(span.text for span in drawn)


@given(st.integers(0, 2**42), st.integers(0, 2**42), st.integers(0, 2**32), st.integers(16, 60))
def test_progress_fits_its_column(done: int, total: int, rate: int, cells: int) -> None:
    """Progress never overflows its column, however odd its numbers."""
    drawn = devices.progress(Transfer(done_bytes=done, total_bytes=total, rate_bytes_s=rate), cells)
    assert text.width(drawn) <= max(cells, 19)


def test_downloads_show_bytes_of_total() -> None:
    """A fetching device shows bar, share, bytes of total and rate."""
    fetching = msgspec.structs.replace(
        device("x", "web", "oslo"),
        phase=Phase.FETCHING,
        outcome=None,
        transfer=Transfer(done_bytes=2**30, total_bytes=2**31, rate_bytes_s=2**23),
    )
    shown = "".join(span.text for span in devices.phrase(fetching, 60))
    assert "━━━━━───── 50%  1.0/2.0 GiB 8.0 MiB/s" == shown


@pytest.mark.parametrize(
    ("phase", "says"),
    [
        (Phase.PREFLIGHT, "checks what it was offered"),
        (Phase.FETCHING, "fetches"),
        (Phase.ACTIVATING, "activates  reloading units"),
        (Phase.REVERTING, "goes back to what it ran  reloading units"),
    ],
)
def test_output_stands_beside_the_phase_it_is_of(phase: Phase, says: str) -> None:
    """Before an activation, the last line that a device said is that of an earlier update, and is not shown."""
    busy = msgspec.structs.replace(device("x", "web", "oslo"), phase=phase, outcome=None, lines=("reloading units",))
    assert says == "".join(span.text for span in devices.phrase(busy, 60))


def test_those_that_need_a_person_come_first() -> None:
    """The default order starts with what failed and ends with what is fine."""
    order = [devices.status_cell(record)[0].text.split()[1] for record in sorted(fleet_devices(), key=devices.needs_me)]
    assert ["failed", "reverted", "unhealthy", "drifted", "offline", "offline"] == order[:6]
    assert "ok" == order[-1]


def test_a_fingerprint_is_shown_whole() -> None:
    """The groups of a fingerprint hold each of its characters, in order."""
    shown = "".join(joining.fingerprint_rows(fingerprint("x"))).replace(" ", "")
    assert fingerprint("x") == "SHA256:" + shown


@given(st.integers(30, 120))
def test_pages_stay_within_their_width(cells: int) -> None:
    """No line of a page is wider than the page."""
    rights = fleet_access()
    pages = [
        *(devices.summary(record, NOW, cells) for record in fleet_devices()[::7]),
        *(joining.request_card(request, Store(), NOW, cells) for request in fleet_requests()),
        *(access.card(rights, key, NOW, cells) for key in access.rows(rights, NOW)),
        access.root_head(rights.root, cells),
        log.alarm(LogCheck(state="fork", detail="the log has another root " * 4), ["kiosk-1"] * 5, cells),
    ]
    assert cells >= max(text.width(line) for page in pages for line in page)


@given(st.integers(60, 200))
def test_a_rollout_stays_within_its_width(cells: int) -> None:
    """No line of a rollout's head is wider than the screen."""
    assert cells >= max(text.width(line) for one in fleet_rollouts() for line in rollouts.head(one, NOW, cells))


def test_counts_of_a_part_of_a_rollout_say_that_there_is_more() -> None:
    """Who may not read of all members is told that the counts are of those they may see."""
    whole = fleet_rollouts()[0]
    part = msgspec.structs.replace(whole, partial=True)
    assert ["that you may see" in text.plain(rollouts.head(one, NOW, 120)) for one in (whole, part)] == [False, True]


@pytest.mark.parametrize(("role", "stuck"), [("kiosk", True), ("nas", False)])
def test_a_device_that_cannot_fall_back_at_boot_is_told_apart(role: str, stuck: bool) -> None:
    """Its page warns of it, and its row while it waits for the very boot that may fail."""
    waiting = msgspec.structs.replace(
        next(one for one in fleet_devices() if one.tags["role"] == role and one.facts is not None),
        phase=Phase.REBOOT_PENDING, outcome=None, online=True, state="active", log_state="ok", cause="",
        reason="needs a reboot (kernel)", waits="",
    )  # fmt: skip
    row = "".join(span.text for span in devices.phrase(waiting, 80))
    assert ("needs a reboot (kernel); cannot fall back" if stuck else "needs a reboot (kernel)") == row
    (fallback,) = (line for name, line in devices.facts_rows(waiting) if name == "fallback")
    assert [("none: a boot that fails stays so", "warn") if stuck else ("boot counting", "plain")] == [
        (span.text, span.role) for span in fallback
    ]


def test_a_device_behind_the_log_says_by_how_much() -> None:
    """One that is many entries behind has not synced for long; where that is not known it says only that it is."""
    drawn = [text.plain([log.sight_cell("behind", by)]) for by in (1_200, 0)]
    assert ["◌ behind by 1,200", "◌ not there yet"] == drawn


@pytest.mark.parametrize(
    ("reason", "waits", "says"),
    [
        ("needs a reboot (kernel)", "", "needs a reboot (kernel)"),
        ("needs a reboot (kernel)", "outside its window", "needs a reboot (kernel); outside its window"),
        ("", "", "set for the next boot"),
    ],
)
def test_a_device_that_has_to_reboot_says_why(reason: str, waits: str, says: str) -> None:
    """Its own reason stands in its row and on its page, and what it waits for behind it."""
    waiting = msgspec.structs.replace(
        device("nas-9", "nas", "oslo"), phase=Phase.REBOOT_PENDING, outcome=None, reason=reason, waits=waits
    )
    assert says == "".join(span.text for span in devices.phrase(waiting, 80))
    page = text.plain(devices.headline(waiting, NOW, 80))
    assert says in page


@pytest.mark.parametrize(
    ("state", "word"),
    [("valid", "verified"), ("fork", "FORK"), ("invalid", "DOES NOT VERIFY"), ("behind", "behind")],
)
def test_the_log_head_says_how_it_stands(state: str, word: str) -> None:
    """Each state of the log has its words, and devices on another log are counted."""
    check = msgspec.convert({"state": state, "size": 1_204, "root": "ab" * 32, "detail": "entry 7 is wrong"}, LogCheck)
    shown = text.plain(log.log_head(check, ["fork", "fork", "agrees", "behind"], 160))
    assert word in shown
    assert "2 devices on another log" in shown


@pytest.mark.parametrize(
    ("at", "shown"), [(0, "never"), (1_700_000_000, "2023-11-14 22:13"), (2**53, "the far future")]
)
def test_any_time_that_the_wire_allows_can_be_shown(at: int, shown: str) -> None:
    """What a coordinator says of time ends no console."""
    assert shown == devices.when(at)


def test_a_stale_link_says_since_when() -> None:
    """What was shown stays, with its age."""
    link = chrome.Link(state="stale", since=NOW - 240)
    assert (Span("○ stale 4m", "bad"),) == chrome.link_spans(link, NOW)


A, B, C = (f"/nix/store/{letter * 32}-nixos-system-web-{version}" for letter, version in ("a1", "b2", "c2"))


@pytest.mark.parametrize(
    ("new", "cells", "expected"),
    [
        ("/nix/store/" + "d" * 32 + "-other", 20, ("web-1", "other")),
        (B, 7, ("1", "2")),
        (B, 3, ("aaaaaa…", "bbbbbb…")),
    ],
)
def test_a_change_of_system_is_named_by_what_differs(new: str, cells: int, expected: tuple[str, str]) -> None:
    """Beside each other two systems lose what they share; without the room for that there are their hashes."""
    assert expected == text.system_change(A, new, cells)


def test_systems_of_one_name_differ_by_their_hashes() -> None:
    """A rebuild under the same name is told apart by its hash."""
    assert ("bbbbbb…", "cccccc… web-2") == text.system_change(B, C, 30)
    assert ("bbbbbb…", "cccccc…") == text.system_change(B, C, 20)


def test_a_row_shows_the_system_it_runs_and_the_one_it_should_run() -> None:
    """Both stand in the table; where they are the same, once, and loud only where a person is needed."""
    fine = msgspec.structs.replace(device("x", "web", "oslo"), system=A, intended=A)
    assert "1" == "".join(span.text for span in devices.system_cell(fine, 30, NOW))
    behind = msgspec.structs.replace(fine, intended=B, outcome=Outcome.REVERTED)
    assert (Span("1", "dim"), Span(" → ", "dim"), Span("2", "warn")) == devices.system_cell(behind, 30, NOW)


def test_a_waiting_row_says_why_and_not_again_who() -> None:
    """The row is the device's own, so the sentence begins after its ``waits:``."""
    assert "wave 1 soaks" == text.why("wave 2 of 3 waits: wave 1 soaks")
    assert "its turn" == text.why("its turn")


def test_an_update_has_a_track() -> None:
    """What is behind, what is under way and what is to come have glyphs of their own."""
    shown = text.plain([devices.track(Phase.ACTIVATING)])
    assert "✓ preflight  ✓ fetching  ✓ verifying  ◐ activating  · checking  · confirming" == shown
    assert () == devices.track(Phase.IDLE)


def test_output_is_coloured_by_its_own_words() -> None:
    """Only what a program itself calls a warning or an error is loud."""
    roles = [devices.output_line(line)[0].role for line in ("warning: x", "error: x", "no error: x")]
    assert ["warn", "bad", "plain"] == roles


@given(st.integers(20, 200))
def test_the_counts_put_into_words_what_needs_a_person_first(cells: int) -> None:
    """Every state is counted at any width; words are given up from the quiet end on."""
    counts = Counter(status_of(record) for record in fleet_devices())
    drawn = text.plain([chrome._counts(counts, cells)])
    assert all(f"{devices.GLYPHS[status][0]} {count}" in drawn for status, count in counts.items())
    worded = [status in drawn for status in STATUSES if status in counts]
    assert sorted(worded, reverse=True) == worded


@given(st.integers(34, 120))
def test_the_footer_keeps_the_way_out(cells: int) -> None:
    """However narrow it is, actions, help and quit stay."""
    keys = [("enter", "Open", True), ("D", "Deploy", False), ("a", "Actions", True), ("?", "Help", True)]
    drawn = text.plain([chrome.footer([*keys, ("q", "Quit", True)], cells)])
    assert [True] * 3 == [word in drawn for word in ("a Actions", "? Help", "q Quit")]


COLUMNS = [
    Column[str](key=str(place), title="t", cells=cells, keep=keep, grow=grow, most=60, draw=lambda _r, _c, _n: ())
    for place, (cells, keep, grow) in enumerate([(11, 10, 0), (14, 10, 1), (30, 9, 3), (14, 6, 1), (5, 8, 0)])
]


@given(st.integers(11, 300))
def test_columns_never_overflow_and_go_by_rank(width: int) -> None:
    """Columns fit, and one that is to be kept never goes before one that is not."""
    laid = lay_out(COLUMNS, width)
    assert sum(cells for _, cells in laid) + GAP * (len(laid) - 1) <= width
    shown = {column.key for column, _ in laid}
    gone = [column.keep for column in COLUMNS if column.key not in shown]
    assert all(column.keep >= max(gone, default=0) for column, _ in laid)


RECORDS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5), max_size=6)


@given(
    RECORDS, st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(0, 5)), max_size=12), st.booleans()
)
def test_a_listing_kept_up_to_date_is_as_one_made_afresh(
    records_now: dict[str, int], changes: list[tuple[str, int | None]], down: bool
) -> None:
    """Judging only what changed gives the rows and the order of judging everything."""
    held = dict(records_now)
    listing: Listing[int] = Listing(lambda: held, lambda value: value)
    listing.filter(lambda value: value != 3)
    listing.sort((lambda value: value, down))
    listing.rebuild()
    for key, value in changes:
        if value is None:
            held.pop(key, None)
        else:
            held[key] = value
        listing.update([key])
    listing.settle()
    ranked = [held[key] for key in listing.ids]
    assert sorted((value for value in held.values() if value != 3), reverse=down) == ranked
    assert {key for key, value in held.items() if value != 3} == set(listing.ids)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"ok": 9, "offline": 2, "updating": 1, "reboot": 1, "waiting": 3}, ""),
        ({"ok": 9, "failed": 1}, "1 needs you"),
        ({"fork": 1, "cloned": 1, "refused": 1, "reverted": 1, "unhealthy": 1, "drifted": 995}, "1,000 need you"),
    ],
)
def test_the_header_counts_who_needs_a_person(counts: dict[str, int], said: str) -> None:
    """What passes by itself is none of it; nothing is said of nobody."""
    made = chrome.Chrome(
        fleet=FleetView(id="x", name="acme"), identity=Identity(principal="ops"), link=chrome.Link(state="live"),
        check=LogCheck(), counts=counts, tabs=[], active="devices",  # type: ignore[arg-type] # the table above holds statuses
    )  # fmt: skip
    first = text.plain([chrome.header(made, NOW, 80)[0]])
    assert (said in first, bool(said)) == (True, "need" in first)
