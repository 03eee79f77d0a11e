"""Join tokens: one line, read back exactly, never quoted in an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfleet.errors import UserError
from nixfleet.model.device import JoinToken
from nixfleet.model.statements import LogState
from nixfleet.trust.token import PREFIX, make, read

TOKEN = JoinToken(
    v=1, urls=("http://127.0.0.1:7070",), fleet="a" * 64, log=LogState(size=2, root="b" * 64), seed="c" * 64
)


def test_a_token_is_one_line_that_reads_back() -> None:
    """White space around the line is forgiven."""
    text = make(TOKEN)
    assert text.startswith(PREFIX)
    assert len(text.split()) == 1
    assert TOKEN == read(f"  {text}\n")


@pytest.mark.parametrize("text", ["", "hello", PREFIX, PREFIX + "A", PREFIX + "e30", PREFIX + "é" * 9, "x" * 10_000])
def test_what_is_no_token_is_a_user_error(text: str) -> None:
    """A wrong paste gets one clear line."""
    with pytest.raises(UserError, match="token"):
        read(text)


@given(st.integers(0, 10_000), st.characters())
def test_an_error_never_shows_the_token(place: int, char: str) -> None:
    """A damaged token is refused or means the same, and no error quotes its secret."""
    text = make(TOKEN)
    place %= len(text)
    said = ""
    try:
        read(text[:place] + char + text[place + 1 :])
    except UserError as error:
        said = str(error)
    assert text[-40:] not in said


def test_a_newer_token_says_so() -> None:
    """Another version asks for an update of this program."""
    newer = JoinToken(v=2, urls=TOKEN.urls, fleet=TOKEN.fleet, log=TOKEN.log, seed=TOKEN.seed)
    with pytest.raises(UserError, match="newer"):
        read(make(newer))


def test_a_bad_address_makes_no_token() -> None:
    """What could not be read is not written."""
    with pytest.raises(UserError, match="urls"):
        make(JoinToken(v=1, urls=("ftp://x",), fleet=TOKEN.fleet, log=TOKEN.log, seed=TOKEN.seed))
