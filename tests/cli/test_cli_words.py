"""What people type: tags, targets, durations, waves and addresses are read exactly, or refused in one sentence."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import store_path

from nixfleet.cli.addresses import is_loopback, listen_for
from nixfleet.cli.releases import read_release_file
from nixfleet.cli.words import parse_targets
from nixfleet.errors import UserError
from nixfleet.model.statements import StopAt, Wave
from nixfleet.model.typed import check_name, checked_url, duration, parse_duration, parse_tags
from nixfleet.rollout.asking import UNSAID, Order, RolloutWishes, read_order

NAMES = st.from_regex(r"[a-z]([a-z0-9_.-]{0,20}[a-z0-9])?", fullmatch=True)
NOW = 1_764_072_000
VALUES = st.from_regex(r"[A-Za-z0-9]{1,20}", fullmatch=True)


def plan(**said: object) -> Order:
    """Read options of a rollout, of which most are not said."""
    return read_order({**UNSAID, **said}, NOW)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_tags_are_read_as_they_are_written(tags: dict[str, str]) -> None:
    """What is joined by an equals sign comes apart again."""
    assert tags == parse_tags(f"{key}={value}" for key, value in tags.items())


@given(st.text(max_size=40))
def test_any_other_text_is_no_tag(text: str) -> None:
    """A text is a tag that can be written back, or one error that shows it."""
    try:
        said = " ".join(f"{key}={value}" for key, value in parse_tags([text]).items())
    except UserError as error:
        said = str(error).partition(" is no tag")[0]
    assert said in {text, repr(text)}


def test_a_tag_given_twice_is_an_error_only_when_the_values_differ() -> None:
    """The same tag twice says nothing new; another value contradicts it."""
    assert {"a": "1"} == parse_tags(["a=1", "a=1"])
    with pytest.raises(UserError, match="twice"):
        parse_tags(["a=1", "a=2"])


@given(st.integers(min_value=0, max_value=31_536_000))
def test_durations_are_written_as_they_are_read(seconds: int) -> None:
    """Whatever is shown can be typed again."""
    assert seconds == parse_duration(duration(seconds))


@given(st.text(max_size=20))
def test_a_duration_is_read_or_refused(text: str) -> None:
    """No text but digits and a unit passes, and none is longer than a year."""
    try:
        assert 0 <= parse_duration(text) <= 31_536_000
    except UserError:
        pass
    else:
        assert text.rstrip("smhd").isascii()
        assert text.rstrip("smhd").isdigit()


@pytest.mark.parametrize("text", ["", "m", "1.5h", "-1", "10 m", "1w", "2y", "99999999d", "٣m", "1m\n"])
def test_what_is_no_duration(text: str) -> None:
    """Units that are not meant, signs, blanks and foreign digits are refused."""
    with pytest.raises(UserError, match=r"duration|longer"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("web-01", "is not NAME=PATH"),
        (f"={store_path('s')}", "is not NAME=PATH"),
        ("web-01=/nix/store", "no store path"),
        ("web-01=./result", "no store path"),
        (f"web-01={store_path('s')}/bin", "no store path"),
        (f"web-01={store_path('s')}\n", "no store path"),
        ("web-01=/nix/store/../etc/passwd", "no store path"),
    ],
)
def test_what_is_no_target(text: str, why: str) -> None:
    """Only NAME=PATH with a store path itself is a target; the error shows what is wrong."""
    with pytest.raises(UserError, match=why):
        parse_targets([text])


def test_a_device_has_one_system() -> None:
    """A device that is given twice is an error, also with the same path."""
    one = f"web-01={store_path('s')}"
    assert {"web-01": store_path("s")} == parse_targets([one])
    with pytest.raises(UserError, match="twice"):
        parse_targets([one, one])


def test_a_plan_says_what_was_typed() -> None:
    """Names, tags, waves, limits and durations come out of the options."""
    made = plan(
        on=("web-01", "env=prod"), wave=("1", "010%"), soak="10m", max_in_flight=5, stop_at="2%", device_timeout="30m"
    )
    assert (
        Order(
            names=frozenset({"web-01"}),
            wishes=RolloutWishes(
                select={"env": ("prod",)},
                waves=(Wave(members=1), Wave(members="10%")),
                soak_s=600,
                max_in_flight=5,
                stop_at=StopAt(percent=2),
                device_timeout_s=1_800,
            ),
        )
        == made
    )


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"wave": ("0",)}, "no number of devices"),
        ({"wave": ("101%",)}, "no number of devices"),
        ({"wave": ("-1",)}, "no number of devices"),
        ({"wave": ("half",)}, "no number of devices"),
        ({"wave": ("1",), "all_at_once": True}, "exclude each other"),
        ({"stop_at": "0%"}, "no number of devices"),
        ({"soak": "soon"}, "no duration"),
        ({"device_timeout": "9s"}, "too short"),
        ({"on": ("env=",)}, "selects nothing"),
    ],
)
def test_what_is_no_plan(said: dict[str, object], why: str) -> None:
    """A value that means nothing is refused by name."""
    with pytest.raises(UserError, match=why):
        plan(**said)


def test_a_release_file_is_read(tmp_path: Path) -> None:
    """`agents` maps device names to store paths; other keys are others' business."""
    file = tmp_path / "deploy.json"
    file.write_text(f'{{"agents": {{"web-01": "{store_path("s")}"}}, "more": 1}}')
    assert {"web-01": store_path("s")} == read_release_file(file)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"agents": []}', '{"agents": {"web-01": 1}}', '{"agents": {"web-01": "/tmp"}}', "[" * 100_000],
)
def test_a_file_that_is_no_release_file_is_named(tmp_path: Path, text: str) -> None:
    """Every other content is one error."""
    file = tmp_path / "deploy.json"
    file.write_text(text)
    with pytest.raises(UserError):
        read_release_file(file)
    with pytest.raises(UserError, match="No such file"):
        read_release_file(tmp_path / "none")


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a.", "a" * 64, "a\n", "../a"])
def test_what_is_no_release_name(name: str) -> None:
    """A name that the log would refuse is refused before anything is pushed."""
    with pytest.raises(UserError, match="no release name"):
        check_name(name, "release")


@pytest.mark.parametrize(
    ("url", "listen"),
    [
        ("http://127.0.0.1:7070", "127.0.0.1:7070"),
        ("http://localhost:8080", "127.0.0.1:8080"),
        ("http://[::1]:8080", "127.0.0.1:8080"),
        ("http://fleet.example.org", "0.0.0.0:80"),
        ("http://192.168.1.10:7070", "0.0.0.0:7070"),
        ("https://fleet.example.org", "127.0.0.1:7070"),
    ],
)
def test_a_coordinator_listens_where_its_url_needs_it(url: str, listen: str) -> None:
    """Loopback for loopback, everywhere for a name that devices use, behind the proxy for https."""
    assert listen == listen_for(url)


def test_addresses_are_checked() -> None:
    """An address is http or https with a host; a last slash does not matter."""
    assert "http://a.example:1" == checked_url("http://a.example:1/")
    for good in ("https://fleet.acme.example", "http://[::1]:7070", "http://desk/fleet"):
        assert good == checked_url(good)
    assert (True, False) == (is_loopback("http://127.3.2.1"), is_loopback("http://10.0.0.1"))
    for wrong in (
        "",
        "a.example",
        "ftp://a.example",
        "http://",
        "http://a?x",
        "http://a/?x",
        "http://a#x",
        "http://a b",
        "http://x:99999",
        "http://[::1",
        "http://x:0",
        "http://x:y",
    ):
        with pytest.raises(UserError, match="address"):
            checked_url(wrong)
