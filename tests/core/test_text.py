"""Foreign text is harmless wherever it is shown, whoever shows it; counts and times read well."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfleet.model import text

STEERING = (
    "\x1b",
    "[",
    "]",
    "\x9b",
    "\x9d",
    "\x90",
    "\x07",
    "\\",
    "31m",
    "\u202e",
    "\u2066",
    "\u061c",
    "\ud800",
    "\n",
    "x",
)
FOREIGN = st.text() | st.lists(st.sampled_from(STEERING)).map("".join)
"""Any text, and text made of little else than what steers a terminal."""


def steers(char: str) -> bool:
    """Tell whether a character controls, formats, turns the direction, ends a line or is half of another."""
    return unicodedata.category(char)[0] == "C" or unicodedata.category(char) in {"Zl", "Zp"}


@given(FOREIGN, st.integers(1, 50))
def test_nothing_that_steers_survives(foreign: str, most: int) -> None:
    """No control, mark of direction or lone surrogate; a sentence keeps its bound; cleaning twice changes nothing."""
    cleaned, sentence = text.clean(foreign), text.one_line(foreign, most)
    for shown in (cleaned, sentence, *text.clean_lines(foreign)):
        assert not any(map(steers, shown))
        assert shown == text.clean(shown)
    assert len(sentence) <= most


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]52;c;eA==\x1b\\text", "text"),
        ("\x1bP1$qm\x1b\\text", "text"),
        ("\x1b(Btext\x1bc", "text"),
        ("\x1b]8;;never ended", "]8;;never ended"),
        ("a\tb\u00a0c\u2028d", "a b c d"),
        ("\u202eevil \u2066x\u200b", "evil x"),
        ("half \ud83d of one", "half  of one"),
        ("größe ✓ 東京 e\u0301", "größe ✓ 東京 e\u0301"),
    ],
)
def test_sequences_go_whole_and_words_stay(foreign: str, shown: str) -> None:
    """A sequence vanishes with its parameters, one without an end hides nothing; letters of any script stay."""
    assert shown == text.clean(foreign)


def test_lines_end_where_a_terminal_begins_one() -> None:
    """A progress bar that returns to the first column is as many lines; what is no line's end makes none."""
    assert ("one", "two", "three", " four", "") == text.clean_lines("one\r\ntwo\rthree\n\x0bfour\n")


def test_a_sentence_is_one_line_with_single_blanks() -> None:
    """Runs of white space become one blank, and what is cut says so."""
    assert ("a b c", "a b…") == (text.one_line(" a\n\n b \tc "), text.one_line("a b c d", 4))


def test_cleaning_takes_time_in_proportion() -> None:
    """Openings of sequences without end keep no program busy: with time in their square, this would not end."""
    for opening in ("\x1b]", "\x90", "\x1b[", "\x9b", "\x1b "):
        assert "\x1b" not in text.clean(opening * 1_000_000)


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 devices"), (1, "1 device"), (2, "2 devices"), (12_000, "12,000 devices")]
)
def test_counts_agree_with_their_noun(number: int, said: str) -> None:
    """One is one, all else is many, and thousands are grouped."""
    assert said == text.counted(number, "device")


@pytest.mark.parametrize(("noun", "said"), [("entry", "2 entries"), ("day", "2 days"), ("address", "2 addresses")])
def test_nouns_get_their_own_plural(noun: str, said: str) -> None:
    """A noun is written as English does, never with brackets."""
    assert said == text.counted(2, noun)


def test_times_are_utc_and_may_be_beyond_the_calendar() -> None:
    """Every time a statement can name has words."""
    assert ("1970-01-01 00:01 UTC", "the far future") == (text.utc(60), text.utc(2**53 - 1))
