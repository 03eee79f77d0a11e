"""The options that shape a rollout: read exactly as they are meant, or refused in one sentence; all are in the help."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.commandline import Commands

from nixfleet.cli import shaping
from nixfleet.errors import UserError
from nixfleet.model.statements import Activation, StopAt, Wave, Window
from nixfleet.rollout.asking import UNSAID, parse_days, parse_wave, parse_when, parse_window, read_order

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WEEK = st.sets(st.sampled_from(DAYS), min_size=1).map(lambda days: sorted(days, key=DAYS.index))
TIMES = st.builds(lambda hours, minutes: f"{hours:02}:{minutes:02}", st.integers(0, 23), st.integers(0, 59))
ZONES = st.sampled_from(["UTC", "device", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
NOW = 1_764_072_000


@given(WEEK, TIMES, TIMES, ZONES)
def test_a_window_is_read_as_it_is_written(days: list[str], begin: str, end: str, zone: str) -> None:
    """Days, times and zone come out as they went in."""
    made = parse_window(f"{','.join(days)} {begin}-{end} {zone}")
    assert Window(days=tuple(days), from_=begin, to=end, tz=zone) == made  # type: ignore[arg-type]  # drawn from them


@given(st.sampled_from(DAYS), st.sampled_from(DAYS))
def test_a_range_of_days_goes_on_over_the_weekend(first: str, last: str) -> None:
    """From the first to the last, in the week's order, also from Friday to Monday."""
    days = parse_days(f"{first}-{last}")
    assert {first, last} <= set(days)
    assert (DAYS.index(last) - DAYS.index(first)) % 7 + 1 == len(days)
    assert sorted(days, key=DAYS.index) == list(days)


@given(st.text(max_size=40))
def test_any_other_text_is_no_window(text: str) -> None:
    """A text is a window or one error that shows what is wrong with it; nothing else is raised."""
    try:
        made = parse_window(text)
        said = "a window"
    except UserError as error:
        said = str(error)
        made = parse_window("00:00-01:00")
    assert re.search(r"a window|no window|are no days|no time zone", said)
    assert made == parse_window(f"{','.join(made.days)} {made.from_}-{made.to} {made.tz}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2:00-4:30", Window(days=DAYS, from_="02:00", to="04:30", tz="device")),  # type: ignore[arg-type]  # the week
        ("daily 22:00-05:00 UTC", Window(days=DAYS, from_="22:00", to="05:00", tz="UTC")),  # type: ignore[arg-type]
        ("Sat,SUN 10:00-12:00", Window(days=("sat", "sun"), from_="10:00", to="12:00", tz="device")),
        ("fri-mon 10:00-12:00", Window(days=("mon", "fri", "sat", "sun"), from_="10:00", to="12:00", tz="device")),
    ],
)
def test_windows_people_write(text: str, expected: Window) -> None:
    """What can be left out is every day, and each device's own time zone."""
    assert expected == parse_window(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", Wave(members=5)),
        ("010%", Wave(members="10%")),
        ("env=test", Wave(members={"env": ("test",)})),
        ("env=test site=oslo,rome:signed", Wave(members={"env": ("test",), "site": ("oslo", "rome")}, gate="signed")),
        ("100%:signed", Wave(members="100%", gate="signed")),
    ],
)
def test_waves_people_write(text: str, expected: Wave) -> None:
    """A count, a share or tags; with a gate that is signed."""
    assert expected == parse_wave(text)


@given(st.text(max_size=30))
def test_any_other_text_is_no_wave(text: str) -> None:
    """A text is a wave or one error; nothing else is raised."""
    try:
        made = parse_wave(text)
    except UserError:
        return
    assert (made.gate == "signed") == text.endswith(":signed")


def _said(**said: Any) -> dict[str, Any]:
    return {**UNSAID, **said}


def test_every_option_reaches_the_statement() -> None:
    """What is said of when and how is what will be signed."""
    made = read_order(
        _said(
            window="mon 22:00-05:00 UTC",
            not_before="2h",
            not_after="7d",
            prefetch=True,
            mode="boot",
            reboot="in-window",
            confirm_within="5m",
            contact="any",
            stop_at="5%",
            stop_at_least=3,
        ),
        NOW,
    ).wishes
    assert Window(days=("mon",), from_="22:00", to="05:00", tz="UTC") == made.window
    assert (NOW + 7_200, NOW + 7 * 86_400, True) == (made.not_before, made.not_after, made.prefetch)
    assert ("boot", "in_window", Activation(confirm_s=300, contact="any")) == (made.mode, made.reboot, made.activation)
    assert StopAt(percent=5, at_least=3) == made.stop_at


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"window": "22:00"}, "no window"),
        ({"window": "24:00-25:00"}, "no window"),
        ({"window": "mon 22:00-05:00 UTC extra"}, "no window"),
        ({"window": "moon 22:00-05:00"}, "no days"),
        ({"window": "22:00-05:00 Mars/Phobos"}, "no time zone"),
        ({"reboot": "in-window"}, "needs a --window"),
        ({"not_before": "soon"}, "no date"),
        ({"not_after": "2001-01-01"}, "over before it could begin"),
        ({"not_before": "7d", "not_after": "1d"}, "over before it could begin"),
        ({"confirm_within": "4s"}, "out of bounds"),
        ({"confirm_within": "2d"}, "out of bounds"),
        ({"test_for": "30m"}, "--for goes with --mode test"),
        ({"mode": "boot", "test_for": "30m"}, "--for goes with --mode test"),
        ({"mode": "test", "reboot": "now"}, "--mode test reboots nothing"),
        ({"mode": "test", "test_for": "59s"}, "--for 59s is out of bounds"),
        ({"mode": "test", "test_for": "8d", "device_timeout": "30d"}, "--for 8d is out of bounds"),
        ({"mode": "test", "test_for": "1h"}, "--device-timeout 1h is over before the trial"),
        ({"mode": "test", "device_timeout": "10m"}, "--device-timeout 10m is over before the trial"),
        ({"stop_at_least": 2}, "goes with a share"),
        ({"stop_at": "2", "stop_at_least": 2}, "a number already"),
        ({"wave": ("env=",)}, "selects nothing"),
        ({"wave": (":signed",)}, "no number of devices"),
    ],
)
def test_what_is_no_plan(said: dict[str, Any], why: str) -> None:
    """Each error names the value, and how to write it or what it needs."""
    with pytest.raises(UserError, match=why):
        read_order(_said(**said), NOW)


def test_a_trial_is_signed_with_its_time() -> None:
    """So long as is said, or half an hour, which the statement need not say."""
    said = read_order(_said(mode="test", test_for="2h", device_timeout="3h"), NOW).wishes
    assert ("test", Activation(for_s=7_200)) == (said.mode, said.activation)
    unsaid = read_order(_said(mode="test"), NOW).wishes
    assert ("test", Activation()) == (unsaid.mode, unsaid.activation)


def test_a_moment_is_a_date_or_a_time_from_now() -> None:
    """Both are unix seconds."""
    assert NOW + 600 == parse_when("10m", NOW)
    assert 1_798_761_600 == parse_when("2027-01-01T00:00+00:00", NOW)


@pytest.mark.parametrize("command", [("rollout", "start"), ("rollout", "rollback"), ("deploy",)])
def test_help_groups_the_options_by_what_they_are_about(nixfleet: Commands, command: tuple[str, ...]) -> None:
    """Nobody reads twenty options in a row; each stands in one section."""
    out = nixfleet(*command, "--help").out
    at = [out.index(f"\n{subject}:") for subject in ("Options", *shaping.OPTIONS)]
    assert sorted(at) == at
    for option in ("--on", "--wave", "--window", "--prefetch", "--reboot", "--confirm", "--json"):
        assert 1 == sum(line.lstrip().startswith(option) for line in out.splitlines()), option
