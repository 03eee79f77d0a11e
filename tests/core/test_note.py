"""Signed notes and checkpoints: the C2SP forms, what must be tolerated, and what must not."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nixfleet.errors import Untrusted
from nixfleet.trust import note
from nixfleet.trust.sshsig import PublicKey, SecretKey

KEY = SecretKey.from_seed(b"\x01" * 32)
OTHER = SecretKey.from_seed(b"\x02" * 32)
ORIGIN = note.origin("ab" * 32, 1)
ROOT = bytes(range(32))


def unsigned(*lines: str) -> bytes:
    """Sign any text, so that only its parsing is in question."""
    return note.sign_note("\n".join(lines) + "\n", KEY, ORIGIN)


def test_checkpoint_is_the_c2sp_form() -> None:
    """A checkpoint is origin, size, base64 root, an empty line, and one signature line with an em dash."""
    data = note.sign_checkpoint(note.Checkpoint(ORIGIN, 42, ROOT), KEY).decode()
    text, _, signature = data.partition("\n\n")
    assert [f"nixfleet/{'ab' * 32}/1", "42", base64.b64encode(ROOT).decode()] == text.split("\n")
    assert signature.startswith(f"\N{EM DASH} {ORIGIN} ")
    assert signature.endswith("\n")


def test_published_key_hash() -> None:
    """The worked example in the documentation of golang.org/x/mod/sumdb/note opens with its verifier key."""
    raw = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:]
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + raw
    key = PublicKey.from_blob(blob)
    signed = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
        "\n"
        "\N{EM DASH} PeterNeumann "
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    text = note.open_note(signed.encode(), key, "PeterNeumann")
    assert signed.partition("\n\n")[0] + "\n" == text


@given(size=st.integers(0, 2**53 - 1), root=st.binary(min_size=32, max_size=32))
def test_checkpoint_round_trip(size: int, root: bytes) -> None:
    """A signed checkpoint opens to itself."""
    checkpoint = note.Checkpoint(ORIGIN, size, root)
    assert checkpoint == note.open_checkpoint(note.sign_checkpoint(checkpoint, KEY), KEY.public, ORIGIN)


@given(data=st.data())
@settings(max_examples=200)
def test_any_changed_bit_is_refused(data: st.DataObject) -> None:
    """No single-bit change of a checkpoint opens."""
    signed = bytearray(note.sign_checkpoint(note.Checkpoint(ORIGIN, 42, ROOT), KEY))
    bit = data.draw(st.integers(0, len(signed) * 8 - 1))
    signed[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(Untrusted):
        note.open_checkpoint(bytes(signed), KEY.public, ORIGIN)


@given(data=st.binary(max_size=300))
def test_open_is_total(data: bytes) -> None:
    """Any bytes end in Untrusted, never in another error."""
    with pytest.raises(Untrusted):
        note.open_checkpoint(data, KEY.public, ORIGIN)


def test_further_signatures_are_tolerated() -> None:
    """Signatures of unknown keys, names and algorithms, before or after ours, change nothing."""
    signed = note.sign_checkpoint(note.Checkpoint(ORIGIN, 42, ROOT), KEY)
    text, _, ours = signed.decode().partition("\n\n")
    witness = note.sign_note(text + "\n", OTHER, "witness.example/w1").decode().partition("\n\n")[2]
    same_name = note.sign_note(text + "\n", OTHER, ORIGIN).decode().partition("\n\n")[2]
    cosignature = f"\N{EM DASH} other {base64.b64encode(bytes(4 + 8 + 64)).decode()}\n"
    for block in (ours + witness, witness + ours, same_name + cosignature + ours):
        opened = note.open_checkpoint(f"{text}\n\n{block}".encode(), KEY.public, ORIGIN)
        assert 42 == opened.size


def test_failing_signature_of_our_key_condemns_the_note() -> None:
    """A bad signature by the expected key refuses the note even where a good one stands beside it."""
    text, _, ours = note.sign_checkpoint(note.Checkpoint(ORIGIN, 42, ROOT), KEY).decode().partition("\n\n")
    foreign = unsigned("another").decode().partition("\n\n")[2]
    with pytest.raises(Untrusted, match="does not fit"):
        note.open_checkpoint(f"{text}\n\n{ours}{foreign}".encode(), KEY.public, ORIGIN)


def test_extension_lines_are_ignored() -> None:
    """Further lines after the root are signed and otherwise without meaning."""
    root = base64.b64encode(ROOT).decode()
    opened = note.open_checkpoint(unsigned(ORIGIN, "7", root, "extension", "more"), KEY.public, ORIGIN)
    assert note.Checkpoint(ORIGIN, 7, ROOT) == opened


B64 = base64.b64encode(ROOT).decode()


@pytest.mark.parametrize(
    "lines",
    [
        (ORIGIN, "42"),
        (ORIGIN, "042", B64),
        (ORIGIN, "-1", B64),
        (ORIGIN, "+1", B64),
        (ORIGIN, " 1", B64),
        (ORIGIN, "1_0", B64),
        (ORIGIN, "\u0661", B64),
        (ORIGIN, "9" * 16, B64),
        (ORIGIN, "9" * 5000, B64),
        (ORIGIN, "42", B64[:-4]),
        (ORIGIN, "42", B64.rstrip("=")),
        (ORIGIN, "42", B64[:-2] + "9="),
        (ORIGIN, "42", base64.urlsafe_b64encode(b"\xff" * 32).decode()),
        (ORIGIN, "42", B64, "", "after an empty line"),
        ("nixfleet/another/1", "42", B64),
        (note.origin("ab" * 32, 2), "42", B64),
        (ORIGIN + " ", "42", B64),
    ],
)
def test_malformed_checkpoints_are_refused_though_signed(lines: tuple[str, ...]) -> None:
    """A genuine signature over a text that is no strict checkpoint of this log is refused."""
    with pytest.raises(Untrusted):
        note.open_checkpoint(unsigned(*lines), KEY.public, ORIGIN)


def test_wrong_key_or_name_is_refused() -> None:
    """A note by another key, or by the right key under another name, is refused and says whom it expects."""
    signed = note.sign_checkpoint(note.Checkpoint(ORIGIN, 42, ROOT), KEY)
    with pytest.raises(Untrusted, match=OTHER.public.fingerprint[:20].replace("+", r"\+")):
        note.open_checkpoint(signed, OTHER.public, ORIGIN)
    with pytest.raises(Untrusted, match="not signed"):
        note.open_note(signed, KEY.public, "another")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text\n",
        b"text\n\n",
        "text\n\n\N{EM DASH} name\n".encode(),
        b"text\n\n- name AAAAAAA=\n",
        "text\n\n\N{EM DASH} na+me AAAAAAA=\n".encode(),
        "text\n\n\N{EM DASH} name AAAA\n".encode(),
        "text\n\n\N{EM DASH} name AAAAAAA=".encode(),
        "te\x07xt\n\n\N{EM DASH} name AAAAAAA=\n".encode(),
        b"\xff\n\n",
        ("text\n\n" + "\N{EM DASH} name AAAAAAA=\n" * 101).encode(),
        b"x" * 16_385,
    ],
)
def test_malformed_notes_are_refused(data: bytes) -> None:
    """Each rule of the note form refuses."""
    with pytest.raises(Untrusted):
        note.open_note(data, KEY.public, ORIGIN)


def test_generic_note_round_trip_with_empty_lines() -> None:
    """Any text opens as it was signed, empty lines and other scripts included, and is no checkpoint."""
    text = "gate v1\n\nwave öpen\n\n"
    signed = note.sign_note(text, KEY, ORIGIN)
    assert text == note.open_note(signed, KEY.public, ORIGIN)
    with pytest.raises(Untrusted, match="checkpoint"):
        note.open_checkpoint(signed, KEY.public, ORIGIN)
