"""How results are shown: nothing that others wrote can steer a terminal, columns align, sizes and ages read well."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import store_path

from nixfleet.cli import output
from nixfleet.model.text import clean


@given(st.lists(st.tuples(st.text(max_size=8), st.text(min_size=1, max_size=8)), min_size=1, max_size=5))
def test_columns_of_a_table_start_in_the_same_cell(rows: list[tuple[str, str]]) -> None:
    """Whatever the cells hold, wide characters and control characters too, every row is one line."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nixfleet.cli.output.click.echo", lines.append)
        output.table(("A", "B"), rows, "none")
    assert len(rows) + 1 == len(lines)
    width = max(1, *(output.cells(clean(left)) for left, _ in rows)) + 2
    for line, (left, right) in zip(lines[1:], rows, strict=True):
        gap = " " * (width - output.cells(clean(left)))
        assert f"{clean(left)}{gap}{clean(right)}".rstrip() == line


@given(st.text(max_size=200))
def test_json_cannot_steer_a_terminal_either(text: str) -> None:
    """No control character of any kind reaches standard output, and a program reads what was there."""
    written: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nixfleet.cli.output.click.echo", written.append)
        output.as_json({text: text})
    assert {text: text} == json.loads(written[0])
    bare = written[0].replace("\n", "")
    assert not any(unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" for char in bare)


def test_json_shows_what_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    """Letters of any script stay; C1 controls, marks of direction, DEL and private characters are escapes."""
    output.as_json("Zürich 東京 \x9b2J \u202egnp \x7f \U000f0000")
    assert '"Zürich 東京 \\u009b2J \\u202egnp \\u007f \\udb80\\udc00"\n' == capsys.readouterr().out


def test_an_empty_table_says_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence goes to standard error: a program that reads the table gets nothing."""
    output.table(("A",), [], "nothing yet; do this")
    assert ("", "nothing yet; do this\n") == capsys.readouterr()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1_023, "1023 B"),
        (1_024, "1.0 KiB"),
        (3_565_158, "3.4 MiB"),
        (1 << 41, "2.0 TiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_sizes_are_in_words(count: int, text: str) -> None:
    """Binary units, one digit behind the point."""
    assert text == output.size(count)


@pytest.mark.parametrize(
    ("then", "text"),
    [
        (None, "never"),
        (0, "never"),
        (1_000_000, "now"),
        (999_941, "now"),
        (999_940, "1m ago"),
        (996_400, "1h ago"),
        (827_200, "2d ago"),
        (1_000_500, "now"),
    ],
)
def test_ages_are_in_one_step(then: int | None, text: str) -> None:
    """Minutes, hours or days; the future is now."""
    assert text == output.age(then, 1_000_000)


def test_a_system_is_named_so_that_people_tell_it_apart() -> None:
    """The name first, then the hash's first digits; anything else as it is."""
    path = store_path("nixos-system-web-25.05")
    assert f"nixos-system-web-25.05 ({path[11:17]})" == output.system_name(path)
    assert ("old", "") == (output.system_name("/run/old"), output.system_name(""))


def test_progress_is_plain_lines_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """No escape sequence, no line twice, not more than one in two seconds but the last; quiet means none."""
    meter = output.Meter("push", quiet=False)
    for done in range(100):
        meter.bytes(done, 100)
    meter.end("done")
    lines = capsys.readouterr().err.splitlines()
    assert ["push:   0% of 100 B", "push: done"] == lines
    meter = output.Meter("push", quiet=True)
    meter.bytes(1, 2)
    meter.end("done")
    assert ("", "") == capsys.readouterr()


def test_a_line_that_came_too_soon_is_told_later(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a log of a watch would never say why the rollout waits, when that is the last to change."""
    seconds = iter([10.0, 10.5, 11.0, 12.5, 13.0])
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    meter = output.Meter("watch", quiet=False)
    for text in ("starts", "waits", "waits", "waits", "waits"):
        meter.show(text)
    assert ["watch: starts", "watch: waits"] == capsys.readouterr().err.splitlines()


def test_what_is_done_goes_to_programs_as_json_and_to_people_as_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON on standard output, a sentence on standard error, nothing when quiet."""
    output.done({"name": "ä"}, "it is done", json=True, quiet=False)
    output.done({}, "it is done", json=False, quiet=False)
    output.done({}, "it is done", json=False, quiet=True)
    assert ('{\n  "name": "ä"\n}\n', "it is done\n") == capsys.readouterr()
