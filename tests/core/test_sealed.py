"""A key sealed with a passphrase: opened, bounded, damaged, and asked for."""

import re
from pathlib import Path

import msgspec
import pytest
from nacl.pwhash import argon2id
from tests.core.keyfiles import KEY, NAMESPACE, OTHER, PAYLOAD, find

from nixfleet.errors import UserError
from nixfleet.trust import sealed, signers


@pytest.fixture(scope="module")
def sealed_key() -> bytes:
    """Seal a key with little work, for what is not about the work itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argon2id, "MEMLIMIT_MODERATE", 8 << 20)
        return signers.seal(KEY, "zwölf")


def test_sealed_key_opens() -> None:
    """The passphrase opens it, however the letter is composed, by much work; the public key shows without it."""
    sealed_key = signers.seal(KEY, "zwölf")
    assert {"ops": 3, "memory_bytes": 256 << 20}.items() <= msgspec.json.decode(sealed_key).items()
    assert KEY == signers.unseal(sealed_key, "zwo\u0308lf")
    assert KEY.public == signers.sealed_public(sealed_key)
    assert signers.is_sealed(sealed_key)
    assert KEY.seed.hex() not in sealed_key.decode()


def test_wrong_passphrase_is_a_user_error(sealed_key: bytes) -> None:
    """A wrong passphrase opens nothing and says so."""
    with pytest.raises(UserError, match="passphrase does not open"):
        signers.unseal(sealed_key, "wrong")
    for text in ("", "x" * 2000, "\ud800"):
        with pytest.raises(UserError, match="passphrase"):
            signers.unseal(sealed_key, text)
    with pytest.raises(UserError, match="passphrase has"):
        signers.seal(KEY, "")


@pytest.mark.parametrize(
    "change",
    [
        {"memory_bytes": 1 << 40},
        {"memory_bytes": 1},
        {"ops": 0},
        {"ops": 1000},
        {"kdf": "none"},
        {"format": "nixfleet-sealed-key-v2"},
        {"salt": "00"},
        {"box": "zz"},
        {"extra": 1},
    ],
)
def test_sealed_parameters_are_bounded(sealed_key: bytes, change: dict[str, object]) -> None:
    """A file that asks for other work, or has other fields, is refused before any work."""
    content = {**msgspec.json.decode(sealed_key), **change}
    with pytest.raises(UserError, match="not a sealed key file"):
        signers.unseal(msgspec.json.encode(content), "zwölf")


def test_sealed_file_with_another_public_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The public key in clear must be the sealed one's."""
    monkeypatch.setattr(argon2id, "MEMLIMIT_MODERATE", 8 << 20)
    content = msgspec.json.decode(signers.seal(KEY, "x"))
    content["key"] = OTHER.public.text
    with pytest.raises(UserError, match="another key than it says"):
        signers.unseal(msgspec.json.encode(content), "x")
    with pytest.raises(UserError, match="larger than"):
        signers.unseal(b" " * 5000, "x")
    with pytest.raises(UserError, match="not a sealed key file"):
        sealed.sealed_public(b"\xff")


def test_a_sealed_file_asks_once_and_only_to_sign(tmp_path: Path, sealed_key: bytes) -> None:
    """Its public key shows at once; the first signature asks for the passphrase, the next ones do not."""
    path, asked = tmp_path / "key.json", []
    path.write_bytes(sealed_key)

    def ask() -> str:
        asked.append(1)
        return "zwölf"

    signer = find(KEY.public, key_file=path, passphrase=ask)
    assert (KEY.public, []) == (signer.key, asked)
    for _ in range(2):
        assert KEY.sign(NAMESPACE, PAYLOAD) == signer.sign(NAMESPACE, PAYLOAD)
    assert [1] == asked
    assert "zwölf" not in repr(signer)
    assert KEY.seed.hex() not in repr(signer)


def test_a_sealed_file_that_cannot_be_opened_says_so(tmp_path: Path, sealed_key: bytes) -> None:
    """A wrong passphrase names the file and asks anew next time; nobody to ask names the file for a passphrase."""
    path, answers = tmp_path / "key.json", iter(["wrong", "zwölf"])
    path.write_bytes(sealed_key)
    signer = find(key_file=path, passphrase=lambda: next(answers))
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: the passphrase does not open"):
        signer.sign(NAMESPACE, PAYLOAD)
    assert KEY.sign(NAMESPACE, PAYLOAD) == signer.sign(NAMESPACE, PAYLOAD)
    with pytest.raises(UserError, match=r"no terminal to ask for its passphrase.*NIXFLEET_PASSPHRASE_FILE"):
        find(key_file=path).sign(NAMESPACE, PAYLOAD)
    with pytest.raises(UserError, match="is needed"):
        find(OTHER.public, key_file=path, passphrase=lambda: "zwölf")
