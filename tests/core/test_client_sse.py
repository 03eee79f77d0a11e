"""Server-sent events: the WHATWG rules, in one piece and cut anywhere."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfleet.client.sse import Event, Parser
from nixfleet.errors import Unreachable


def parse(*chunks: bytes, max_event_bytes: int = 10_000) -> list[Event]:
    """Feed chunks to a new parser and collect its events."""
    parser = Parser(max_event_bytes=max_event_bytes)
    return [event for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: one\n\n", [Event("message", "one")]),
        (b"event: sync\ndata: {}\n\n", [Event("sync", "{}")]),
        (b"data: a\ndata: b\n\n", [Event("message", "a\nb")]),
        (b"data\n\ndata\ndata\n\ndata:", [Event("message", ""), Event("message", "\n")]),
        (b"data:test\n\ndata: test\n\n", [Event("message", "test"), Event("message", "test")]),
        (b"data:  two blanks\n\n", [Event("message", " two blanks")]),
        (b": ping\n\n: ping\n\n", []),
        (b"event: lone\n\ndata: x\n\n", [Event("message", "x")]),
        (
            b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
            [Event("message", "a", "1"), Event("message", "b", "1"), Event("message", "c")],
        ),
        (b"id: 1\0\ndata: a\n\n", [Event("message", "a")]),
        (b"retry: 5\nfoo: bar\ndata: a\n\n", [Event("message", "a")]),
        (b"data: a\r\rdata: b\r\n\r\n", [Event("message", "a"), Event("message", "b")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event("message", "a")]),
        (b"data: \xff\n\n", [Event("message", "�")]),
        (b"data: unfinished\n", []),
    ],
)
def test_streams_mean_what_the_standard_says(stream: bytes, events: list[Event]) -> None:
    """Each stream gives exactly the events of the standard's rules."""
    assert events == parse(stream)


@given(st.data())
def test_where_a_stream_is_cut_does_not_matter(data: st.DataObject) -> None:
    """Any bytes give the same events in one piece as in any cut."""
    alphabet = st.sampled_from(
        [b"data", b"event", b"id", b":", b" ", b"\r", b"\n", b"\r\n", b"x", b"\xc3\xa4", b"\xef\xbb\xbf", b"\xc3"]
    )
    stream = b"".join(data.draw(st.lists(alphabet, max_size=40)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert parse(stream) == parse(*pieces)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=50))
def test_what_is_written_is_read_back(line: str) -> None:
    """Any line of text comes back as the data it was."""
    assert [Event("message", line)] == parse(b"data: " + line.encode() + b"\n\n")


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 200, b"data: xx\n" * 50, b"event: " + b"x" * 200])
def test_an_event_without_an_end_is_an_error_not_memory(stream: bytes) -> None:
    """A line or an event beyond the bound is refused as soon as the bound is passed."""
    with pytest.raises(Unreachable, match="larger than 100 bytes"):
        parse(stream, max_event_bytes=100)


def test_the_bound_is_for_one_event() -> None:
    """Any number of events below the bound pass."""
    assert 1_000 == len(parse(b"data: small\n\n" * 1_000, max_event_bytes=100_000))
