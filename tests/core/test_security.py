"""SECURITY.md: what it says is held by tests that are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
TABLE = TESTS.parent / "SECURITY.md"


def rows() -> list[list[str]]:
    """Read the table of attackers: the cells of each line below its head."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_each_line_of_the_threat_table_names_tests_that_are_there() -> None:
    """A test that is renamed or removed takes its line with it."""
    found = rows()
    assert len(found) > 20
    for attacker, tries, gets, tests in found:
        assert attacker
        assert tries
        assert gets
        named = re.findall(r"`([a-z_/]+\.py)::(test_[a-z0-9_]+)`", tests)
        assert len(named) == tests.count("`") / 2 > 0, tests
        for file, name in named:
            assert f"def {name}(" in (TESTS / file).read_text(), f"{file}::{name}"
