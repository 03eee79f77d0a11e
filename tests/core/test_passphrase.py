"""A passphrase from a file: one line, and nobody else's to read."""

import os
from pathlib import Path

import pytest

from nixfleet.errors import UserError
from nixfleet.trust.passphrase import read_passphrase


def written(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    """Write a passphrase file."""
    path = folder / "passphrase"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("content", "read"), [("open sesame\n", "open sesame"), ("zwölf", "zwölf"), (" a \r\n", " a ")]
)
def test_the_only_line_is_the_passphrase(tmp_path: Path, content: str, read: str) -> None:
    """Without the end of its line, blanks kept."""
    assert read == read_passphrase(written(tmp_path, content.encode()))


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"x\n", 0o640, "can be read by others: run 'chmod 600"),
        (b"x\n", 0o604, "can be read by others"),
        (b"", 0o600, "holds no line"),
        (b"\n", 0o600, "holds no line"),
        (b"a\nb\n", 0o600, "more than one line"),
        (b"\xff\n", 0o600, "is not UTF-8"),
        (b"x" * 5_000, 0o600, "larger than 4096 bytes"),
    ],
)
def test_what_is_no_passphrase_is_said(tmp_path: Path, content: bytes, mode: int, why: str) -> None:
    """Each fault names the file, and never what is in it."""
    path = written(tmp_path, content, mode)
    with pytest.raises(UserError, match=why) as caught:
        read_passphrase(path)
    assert str(path) in str(caught.value)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    """A missing file, a folder and a device are each one clear error."""
    for path in (tmp_path / "none", tmp_path, Path("/dev/null")):
        with pytest.raises(UserError, match="passphrase file"):
            read_passphrase(path)


def test_a_pipe_will_do() -> None:
    """As a shell's `<(pass show fleet)` gives it."""
    reading, writing = os.pipe()
    try:
        os.write(writing, b"open sesame\n")
        os.close(writing)
        assert "open sesame" == read_passphrase(Path(f"/dev/fd/{reading}"))
    finally:
        os.close(reading)
