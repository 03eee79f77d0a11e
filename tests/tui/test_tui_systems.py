"""Systems in the list of devices: release and age, what differs of two, and hashes only where nothing else tells."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfleet.tui.view.systems import change_words, nixos_of, system_words

DAY_S = 86_400
NOW = 1_788_307_200
"""2026-09-02, midnight in UTC."""


def system(version: str, letter: str = "a", host: str = "web-01") -> str:
    """Make a store path of a system."""
    return f"/nix/store/{letter * 32}-nixos-system-{host}-{version}"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (system("25.05.20260902.77d01be"), "25.05, <1m old"),
        (system("25.05.20260603.77d01be"), "25.05, 13w old"),
        (system("25.11.20260603.dirty"), "25.11, 13w old"),
        (system("25.05.20270101.77d01be"), "25.05.20270101"),
        (system("25.05.20261345.77d01be"), "25.05.20261345.77d01be"),
        (system("25.05.2219"), "25.05.2219"),
        (system("25.05"), "25.05"),
        ("/nix/store/" + "a" * 32 + "-system", "aaaaaa… system"),
    ],
)
def test_a_system_is_named_by_release_and_age(path: str, said: str) -> None:
    """A day in the future, as under a device's wrong clock, or one that is none, stands as it is written."""
    assert said == system_words(path, NOW)


OLD, NEW = system("25.05.20260902.77d01be"), system("25.11.20261101.0a1b2c3", "b")


@pytest.mark.parametrize(
    ("old", "new", "cells", "expected"),
    [
        (OLD, NEW, 44, ("25.05.20260902", "25.11.20261101")),
        (OLD, NEW, 24, ("25.05", "25.11")),
        (OLD, system("25.05.20261101.0a1b2c3", "b"), 24, ("25.05.20260902", "1101")),
        (OLD, system("25.05.20260902.0a1b2c3", "b"), 20, ("aaaaaa…", "bbbbbb…")),
        (system("25.05.2219"), system("25.05.2304", "b"), 30, ("25.05.2219", "25.05.2304")),
    ],
)
def test_two_systems_are_told_apart_by_what_differs(old: str, new: str, cells: int, expected: tuple[str, str]) -> None:
    """Release and day where there is room, the release alone where it differs, hashes where the version is one."""
    assert expected == change_words(old, new, cells)


@given(st.text(max_size=60), st.text(max_size=60), st.integers(0, 60))
def test_any_name_can_be_shown(old: str, new: str, cells: int) -> None:
    """Whatever a device calls its system, there are words for it."""
    assert all(isinstance(words, str) for words in change_words(old, new, cells))
    assert nixos_of(old) is None or system_words(old, NOW)
