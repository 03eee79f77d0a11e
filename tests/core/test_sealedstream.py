"""A sealed stream: opened whole by its passphrase, and by nothing else; whatever is changed or missing is noticed."""

import io
import struct
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nixfleet.errors import Untrusted, UserError
from nixfleet.trust import sealedstream
from nixfleet.trust.sealedstream import open_stream, seal_stream


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive in milliseconds, and cut small chunks."""
    monkeypatch.setattr(sealedstream, "_OPS", 1)
    monkeypatch.setattr(sealedstream, "_MEMORY_BYTES", 8 << 20)
    monkeypatch.setattr(sealedstream, "CHUNK_BYTES", 64)


def sealed(data: bytes) -> bytes:
    """Seal bytes."""
    return b"".join(seal_stream([data], "secret"))


def opened(data: bytes, passphrase: str = "secret") -> bytes:
    """Open what was sealed."""
    return b"".join(open_stream(io.BytesIO(data).read, passphrase))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_what_is_sealed_is_opened(parts: list[bytes]) -> None:
    """However the bytes came, and however many chunks they make, none included."""
    assert b"".join(parts) == opened(b"".join(seal_stream(parts, "secret")))


@pytest.mark.parametrize("size", [0, 63, 64, 65, 128, 1_000])
def test_the_ends_of_chunks_are_no_ends_of_the_file(size: int) -> None:
    """A size at, below and above a chunk's."""
    assert bytes(size) == opened(sealed(bytes(size)))


def chunks(data: bytes) -> list[bytes]:
    """Split a sealed file: its head, then each chunk with its length."""
    head, _, rest = data.partition(b"\n")
    found = [head + b"\n"]
    while rest:
        size = 4 + int(struct.unpack(">I", rest[:4])[0])
        found.append(rest[:size])
        rest = rest[size:]
    return found


def test_another_passphrase_and_another_file_are_told_apart() -> None:
    """The first is the user's mistake, and so is a file that was never sealed."""
    data = sealed(b"x" * 200)
    with pytest.raises(UserError, match="the passphrase does not open this file"):
        opened(data, "other")
    for other in (b"", b"hello", b"hello\n", b"{}\n", b"x" * 5_000, b"\xff\n", data.replace(b"argon2id", b"scrypt  ")):
        with pytest.raises(UserError, match="no sealed file"):
            opened(other)
    with pytest.raises(UserError, match="passphrase has 1 to"):
        next(seal_stream([b"x"], ""))
    with pytest.raises(UserError, match="passphrase has 1 to"):
        opened(data, "")


def test_a_file_cannot_ask_for_all_memory() -> None:
    """Parameters out of bounds are refused before anything is derived."""
    data = sealed(b"x")
    for old, new in ((b'"ops":1', b'"ops":99'), (b'"memory_bytes":8388608', b'"memory_bytes":99999999999')):
        assert old in data
        with pytest.raises(UserError, match="no sealed file"):
            opened(data.replace(old, new))


def test_chunks_are_neither_left_out_nor_swapped_nor_cut_off_nor_added() -> None:
    """Each stands at its own place, and the last one knows that it is."""
    parts = chunks(sealed(bytes(range(250))))
    assert 5 == len(parts)
    head, one, two, three, last = parts
    for made in (
        [head, one, three, last],
        [head, two, one, three, last],
        [head, one, two, three],
        [head, one, two, three, last, last],
        [head, one, two, three, last, b"x"],
        [head, one, two, last],
        [head, one, two, three, last[:-1]],
        [head, one, two, three, last[:2]],
        [head, one, one, three, last],
        [head, one, struct.pack(">I", 1 << 30), two],
    ):
        with pytest.raises((Untrusted, UserError), match=r"damaged|cut short|goes on"):
            opened(b"".join(made))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_is_noticed(data: st.DataObject) -> None:
    """Anywhere in the file."""
    whole = bytearray(sealed(b"y" * 300))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((UserError, Untrusted)):
        opened(bytes(whole))


def test_a_large_stream_needs_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB go through in the memory of a few chunks."""
    monkeypatch.setattr(sealedstream, "CHUNK_BYTES", 1 << 20)

    def parts() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 20)

    tracemalloc.start()
    try:
        total = sum(map(len, seal_stream(parts(), "secret")))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total > 64 << 20
    assert peak < 16 << 20
