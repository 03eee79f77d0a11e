"""SSHSIG: keys, strict parsing, verification from a digest, and interchange with OpenSSH itself."""

import base64
import contextlib
import hashlib
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import nacl.bindings
import nacl.exceptions
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nixfleet.errors import Untrusted, UserError
from nixfleet.trust import sshsig
from nixfleet.trust.opensshkey import read_public
from nixfleet.trust.sshkeys import _has_x, _sums, check_ed25519

NAMESPACE = "nixfleet-release-v1"
KEY = sshsig.SecretKey.from_seed(bytes(range(32)))
OTHER = sshsig.SecretKey.from_seed(b"\x07" * 32)

needs_openssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


def string(data: bytes) -> bytes:
    """Encode as RFC 4251 says, apart from the code under test."""
    return struct.pack(">I", len(data)) + data


def sk_key(secret: sshsig.SecretKey, application: bytes = b"ssh:") -> sshsig.PublicKey:
    """Return the public key of a security key that holds `secret`."""
    blob = string(b"sk-ssh-ed25519@openssh.com") + string(secret.public.raw) + string(application)
    return sshsig.PublicKey.from_blob(blob)


def sk_sign(
    secret: sshsig.SecretKey, message: bytes, *, flags: int = 1, counter: int = 7, application: bytes = b"ssh:"
) -> bytes:
    """Sign as an authenticator does (PROTOCOL.u2f): application hash, flags, counter, hash of the blob to sign."""
    signed = sshsig.to_sign(NAMESPACE, hashlib.sha512(message).digest())
    told = struct.pack(">BI", flags, counter)
    data = hashlib.sha256(application).digest() + told + hashlib.sha256(signed).digest()
    inner = string(b"sk-ssh-ed25519@openssh.com") + string(secret.sign_raw(data)) + told
    return sshsig.pack(sk_key(secret, application), NAMESPACE, inner)


def blob_of(  # the fields of PROTOCOL.sshsig, each of which a test may falsify
    *,
    magic: bytes = b"SSHSIG",
    version: int = 1,
    key: bytes = KEY.public.blob,
    namespace: bytes = NAMESPACE.encode(),
    reserved: bytes = b"",
    algorithm: bytes = b"sha512",
    kind: bytes = b"ssh-ed25519",
    raw: bytes | None = None,
    inner_tail: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """Assemble an SSHSIG blob over b'message' by hand; its signature fits whatever the fields say."""
    digest = hashlib.new(algorithm.decode(), b"message").digest()
    signed = b"SSHSIG" + string(namespace) + string(reserved) + string(algorithm) + string(digest)
    raw = KEY.sign_raw(signed) if raw is None else raw
    inner = string(kind) + string(raw) + inner_tail
    head = magic + struct.pack(">I", version) + string(key) + string(namespace)
    return head + string(reserved) + string(algorithm) + string(inner) + tail


def test_hand_made_blob_is_what_sign_makes() -> None:
    """The assembled blob equals the one `sign` returns, byte for byte: ed25519 is deterministic."""
    assert blob_of() == KEY.sign(NAMESPACE, b"message")


@given(message=st.binary(max_size=2000), seed=st.binary(min_size=32, max_size=32))
@settings(max_examples=60)
def test_round_trip(message: bytes, seed: bytes) -> None:
    """What a key signs verifies from the message and from its digest alone, and names that key."""
    key = sshsig.SecretKey.from_seed(seed)
    blob = key.sign(NAMESPACE, message)
    assert key.public == sshsig.verify(blob, message, NAMESPACE)
    signature = sshsig.parse(blob)
    sshsig.check(signature, hashlib.sha512(message).digest())
    assert (key.public, NAMESPACE, 0, 0) == (
        signature.key,
        signature.namespace,
        signature.flags,
        signature.counter,
    )


@given(data=st.data())
@settings(max_examples=300)
def test_any_changed_bit_is_refused(data: st.DataObject) -> None:
    """No single-bit change of a signature verifies: there is one encoding."""
    blob = bytearray(blob_of())
    bit = data.draw(st.integers(0, len(blob) * 8 - 1))
    blob[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(Untrusted):
        sshsig.verify(bytes(blob), b"message", NAMESPACE)


@given(blob=st.binary(max_size=1200))
def test_parse_is_total(blob: bytes) -> None:
    """Whatever bytes arrive, parsing ends in a signature or in Untrusted."""
    with pytest.raises(Untrusted):
        sshsig.parse(blob)


@given(cut=st.integers(0, len(blob_of()) - 1))
def test_cut_short_is_refused(cut: int) -> None:
    """A signature that ends early is refused wherever it ends."""
    with pytest.raises(Untrusted):
        sshsig.parse(blob_of()[:cut])


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (blob_of(magic=b"SSHSIX"), "wrong magic"),
        (blob_of(version=2), "wrong version"),
        (blob_of(version=0), "wrong version"),
        (blob_of(reserved=b"x"), "reserved field"),
        (blob_of(algorithm=b"sha256"), "hash algorithm"),
        (blob_of(namespace=b""), "malformed namespace"),
        (blob_of(namespace=b"two words"), "malformed namespace"),
        (blob_of(namespace=b"caf\xc3\xa9"), "malformed namespace"),
        (blob_of(namespace=b"x" * 129), "malformed namespace"),
        (blob_of(namespace=b"x\x00y"), "malformed namespace"),
        (blob_of(kind=b"ssh-rsa"), "another type"),
        (blob_of(kind=b"sk-ssh-ed25519@openssh.com"), "another type"),
        (blob_of(raw=b"\0" * 63), "not 64 bytes"),
        (blob_of(raw=b"\0" * 65), "not 64 bytes"),
        (blob_of(inner_tail=b"\x01\0\0\0\x07"), "trailing bytes"),
        (blob_of(tail=b"\0"), "trailing bytes"),
        (blob_of(tail=b"\0" * 900), "larger than 952"),
        (blob_of(key=string(b"ssh-rsa") + string(b"\1\0\1") + string(b"n" * 64)), "of type 'ssh-rsa' is not taken"),
        (blob_of(key=KEY.public.blob + b"\0"), "trailing bytes"),
    ],
)
def test_malformed_blobs_are_refused(blob: bytes, why: str) -> None:
    """Each strict rule of the format refuses, and says which."""
    with pytest.raises(Untrusted, match=why):
        sshsig.parse(blob)


def test_wrong_message_namespace_or_key_is_refused() -> None:
    """A signature holds for one message, one namespace and one key."""
    blob = blob_of()
    with pytest.raises(Untrusted, match="does not fit"):
        sshsig.verify(blob, b"another", NAMESPACE)
    with pytest.raises(Untrusted, match="nixfleet-release-v1"):
        sshsig.verify(blob, b"message", "nixfleet-root-v1")
    with pytest.raises(Untrusted, match="does not fit"):
        sshsig.verify(blob_of(key=OTHER.public.blob), b"message", NAMESPACE)


def test_security_key_with_touch_verifies() -> None:
    """A FIDO signature with a touch verifies and carries its flags and counter."""
    blob = sk_sign(KEY, b"message", flags=5, counter=0xFFFFFFFE)
    assert sk_key(KEY) == sshsig.verify(blob, b"message", NAMESPACE)
    signature = sshsig.parse(blob)
    assert (5, 0xFFFFFFFE) == (signature.flags, signature.counter)


@pytest.mark.parametrize("flags", [0, 4, 0x80])
def test_security_key_without_touch_is_refused(flags: int) -> None:
    """A FIDO signature whose flags do not prove a touch is refused though it is genuine."""
    with pytest.raises(Untrusted, match="without a touch"):
        sshsig.verify(sk_sign(KEY, b"message", flags=flags), b"message", NAMESPACE)


def test_security_key_flags_counter_and_application_are_signed() -> None:
    """Flags, counter and application cannot be changed after signing."""
    blob = sk_sign(KEY, b"message", flags=1, counter=7)
    assert blob.endswith(b"\x01\0\0\0\x07")
    other_application = sk_sign(KEY, b"message", application=b"ssh:b").replace(b"ssh:b", b"ssh:c")
    for forged in (blob[:-1] + b"\x08", blob[:-5] + b"\x05" + blob[-4:], other_application):
        with pytest.raises(Untrusted, match="does not fit"):
            sshsig.verify(forged, b"message", NAMESPACE)


def test_security_key_does_not_pass_as_a_plain_key() -> None:
    """A security key's bytes never verify a plain signature, nor a touchless blob its own type."""
    with pytest.raises(Untrusted, match="plain"):
        sshsig.verify_raw(sk_key(KEY), b"data", KEY.sign_raw(b"data"))
    with pytest.raises(Untrusted, match="another type"):
        sshsig.parse(blob_of(key=sk_key(KEY).blob))


@pytest.mark.parametrize("application", [b"", b"https://example.org", b"ssh:\n", b"ssh:" + b"x" * 200])
def test_foreign_fido_applications_are_refused(application: bytes) -> None:
    """A credential made for a web site, or with an odd application, is not an SSH key."""
    with pytest.raises(Untrusted):
        sk_key(KEY, application)


def small_order_points() -> list[bytes]:
    """Return every encoding of the points whose order divides eight, non-canonical ones too."""
    p = 2**255 - 19
    order_8 = int.from_bytes(
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
    )
    ys = [0, 1, p - 1, p, p + 1, order_8, p - order_8]
    return [(y | sign << 255).to_bytes(32, "little") for y in ys for sign in (0, 1)]


@pytest.mark.parametrize("raw", small_order_points())
def test_small_order_keys_are_refused(raw: bytes) -> None:
    """No key of small order is a key, and libsodium's verdict is the same."""
    assert not nacl.bindings.crypto_core_ed25519_is_valid_point(raw)
    with pytest.raises(Untrusted, match=r"small order|canonical"):
        sshsig.PublicKey.from_blob(string(b"ssh-ed25519") + string(raw))


@given(raw=st.binary(min_size=32, max_size=32))
@settings(max_examples=300)
def test_points_are_judged_as_libsodium_does(raw: bytes) -> None:
    """What is a key agrees with libsodium's decoder on random bytes."""
    assume(raw not in small_order_points())
    try:
        nacl.bindings.crypto_core_ed25519_add(raw, KEY.public.raw)
        expected = int.from_bytes(raw, "little") & (2**255 - 1) < 2**255 - 19
    except nacl.exceptions.RuntimeError:
        expected = False
    try:
        sshsig.PublicKey.from_blob(string(b"ssh-ed25519") + string(raw))
        actual = True
    except Untrusted:
        actual = False
    assert expected == actual


@given(raw=st.binary(min_size=32, max_size=32))
@settings(max_examples=300)
def test_points_are_judged_alike_without_libsodium(raw: bytes) -> None:
    """A build of libsodium that cannot add points leaves the verdict as it is: arithmetic says the same."""
    assume(raw not in small_order_points())
    assert _sums(raw) == _has_x(int.from_bytes(raw, "little") & (2**255 - 1))


def test_malleated_signature_is_refused() -> None:
    """A signature whose scalar is not reduced (RFC 8032 section 5.1.7) is refused."""
    raw = KEY.sign_raw(b"data")
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(raw[32:], "little") + order
    with pytest.raises(Untrusted):
        check_ed25519(KEY.public.raw, b"data", raw[:32] + scalar.to_bytes(32, "little"))


def test_rfc_8032_vectors() -> None:
    """The first and second test vectors of RFC 8032 section 7.1 come out."""
    first = sshsig.SecretKey.from_seed(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    assert "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a" == first.public.raw.hex()
    signature = first.sign_raw(b"")
    assert signature.hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155")
    sshsig.verify_raw(first.public, b"", signature)
    with pytest.raises(Untrusted):
        sshsig.verify_raw(first.public, b"x", signature)
    with pytest.raises(Untrusted, match="64 bytes"):
        sshsig.verify_raw(first.public, b"", signature[:-1])


def test_public_key_text_round_trip() -> None:
    """A key's text parses back to the same key, with or without a comment and line end."""
    for key in (KEY.public, sk_key(KEY)):
        assert key == sshsig.parse_public_key(key.text)
        assert key == sshsig.parse_public_key(f"{key.text} somebody@some where\n")
        assert key == sshsig.PublicKey.from_blob(key.blob)
        assert hash(key) == hash(sshsig.PublicKey.from_blob(bytes(bytearray(key.blob))))
    assert KEY.public != sk_key(KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 !!!!",
        "ssh-ed25519 é",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC",
        f"{KEY.public.text}\n{OTHER.public.text}",
        KEY.public.text[:-4],
        KEY.public.text.replace("ssh-ed25519", "sk-ssh-ed25519@openssh.com"),
        sk_key(KEY).text.replace("sk-ssh-ed25519@openssh.com", "ssh-ed25519"),
        f'command="x" {KEY.public.text}',
        KEY.public.text + " " + "x" * 3000,
    ],
)
def test_bad_key_lines_are_one_clear_error(text: str) -> None:
    """A line that is no usable key is a UserError."""
    with pytest.raises(UserError):
        sshsig.parse_public_key(text)


def test_secrets_do_not_show() -> None:
    """Neither repr nor str of a secret key holds its seed."""
    shown = repr(KEY) + str(KEY)
    assert KEY.seed.hex() not in shown
    assert repr(KEY.seed) not in shown
    assert KEY.public.fingerprint in shown


def test_generate_makes_different_keys() -> None:
    """Two generated keys differ, and a key equals the one made of its seed."""
    key = sshsig.SecretKey.generate()
    assert key != sshsig.SecretKey.generate()
    assert key == sshsig.SecretKey.from_seed(key.seed)
    assert hash(key) == hash(sshsig.SecretKey.from_seed(key.seed))
    with pytest.raises(UserError, match="32 bytes"):
        sshsig.SecretKey.from_seed(b"short")


def test_armor_round_trip() -> None:
    """An armored blob comes back, and damage to the frame or the base64 is refused."""
    blob = blob_of()
    assert blob == sshsig.dearmor(sshsig.armor(blob))
    assert blob == sshsig.dearmor(sshsig.armor(blob).replace("\n", "\r\n"))
    for bad in ("", sshsig.armor(blob)[3:], sshsig.armor(blob).replace("U1NI", "U1N!"), "x" * 10_000):
        with pytest.raises(Untrusted):
            sshsig.dearmor(bad)


@given(seed=st.binary(min_size=32, max_size=32))
def test_private_key_file_round_trip(seed: bytes) -> None:
    """A written private key file reads back to the same key."""
    key = sshsig.SecretKey.from_seed(seed)
    assert seed == sshsig.SecretKey.from_openssh(key.to_openssh()).seed
    assert key.public == read_public(key.to_openssh())


@given(data=st.data())
def test_damaged_private_key_files_are_user_errors(data: st.DataObject) -> None:
    """Any one changed byte of a private key file is refused, or leaves the key as it was (comments, KDF)."""
    lines = KEY.to_openssh().split("\n")
    raw = bytearray(base64.b64decode("".join(lines[1:-2])))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    text = "\n".join([lines[0], base64.b64encode(bytes(raw)).decode(), *lines[-2:]])
    with contextlib.suppress(UserError):
        assert KEY == sshsig.SecretKey.from_openssh(text)


def keygen(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the real ssh-keygen."""
    return subprocess.run(["ssh-keygen", *arguments], input=stdin, capture_output=True, timeout=30, check=False)


def make_key(folder: Path, passphrase: str = "") -> Path:
    """Let the real ssh-keygen make an ed25519 key."""
    path = folder / "id"
    done = keygen("-q", "-t", "ed25519", "-N", passphrase, "-C", "a comment", "-f", str(path))
    assert done.returncode == 0, done.stderr
    return path


@needs_openssh
def test_openssh_files_and_fingerprints(tmp_path: Path) -> None:
    """Keys made by ssh-keygen are read, with its fingerprint; keys written here are read by ssh-keygen."""
    path = make_key(tmp_path)
    key = sshsig.SecretKey.from_openssh(path.read_text())
    assert key.public == sshsig.parse_public_key(path.with_suffix(".pub").read_text())
    assert key.public.fingerprint == keygen("-lf", str(path)).stdout.decode().split()[1]
    written = tmp_path / "written"
    written.write_text(KEY.to_openssh())
    written.chmod(0o600)
    assert KEY.public.text == keygen("-y", "-f", str(written)).stdout.decode().strip()


@needs_openssh
def test_encrypted_and_foreign_private_keys_are_refused(tmp_path: Path) -> None:
    """An encrypted file shows its public key only; another type of key is refused with a reason."""
    path = make_key(tmp_path, "secret")
    with pytest.raises(UserError, match="passphrase"):
        sshsig.SecretKey.from_openssh(path.read_text())
    assert sshsig.parse_public_key(path.with_suffix(".pub").read_text()) == read_public(path.read_text())
    keygen("-q", "-t", "ecdsa", "-N", "", "-f", str(tmp_path / "ecdsa"))
    with pytest.raises(UserError, match="type 'ecdsa-sha2-nistp256' is not taken"):
        sshsig.SecretKey.from_openssh((tmp_path / "ecdsa").read_text())
    with pytest.raises(UserError, match="not an OpenSSH"):
        sshsig.SecretKey.from_openssh("-----BEGIN RSA PRIVATE KEY-----")


@needs_openssh
@pytest.mark.parametrize("message", [b"", b"payload", bytes(65536)], ids=["empty", "short", "64k"])
def test_ssh_keygen_signs_and_we_verify(tmp_path: Path, message: bytes) -> None:
    """A signature by ssh-keygen equals ours byte for byte, and verifies."""
    path = make_key(tmp_path)
    done = keygen("-Y", "sign", "-n", NAMESPACE, "-f", str(path), stdin=message)
    blob = sshsig.dearmor(done.stdout.decode())
    key = sshsig.SecretKey.from_openssh(path.read_text())
    assert key.public == sshsig.verify(blob, message, NAMESPACE)
    assert blob == key.sign(NAMESPACE, message)
    assert done.stdout.decode() == sshsig.armor(blob)


@needs_openssh
def test_ssh_keygen_refuses_what_we_refuse(tmp_path: Path) -> None:
    """A sha256 signature by ssh-keygen is genuine, and still not accepted here."""
    path = make_key(tmp_path)
    done = keygen("-Y", "sign", "-O", "hashalg=sha256", "-n", NAMESPACE, "-f", str(path), stdin=b"x")
    with pytest.raises(Untrusted, match="hash algorithm"):
        sshsig.parse(sshsig.dearmor(done.stdout.decode()))


@needs_openssh
@pytest.mark.parametrize("kind", ["plain", "sk"])
def test_we_sign_and_ssh_keygen_verifies(tmp_path: Path, kind: str) -> None:
    """`ssh-keygen -Y verify` and `check-novalidate` accept our signatures, and no other message."""
    message = b"a statement"
    key = KEY.public if kind == "plain" else sk_key(KEY)
    blob = KEY.sign(NAMESPACE, message) if kind == "plain" else sk_sign(KEY, message)
    signature, allowed = tmp_path / "sig", tmp_path / "allowed"
    signature.write_text(sshsig.armor(blob))
    allowed.write_text(f"admin@acme {key.text}\n")
    check = ["-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(signature)]
    verify = ["-Y", "verify", "-f", str(allowed), "-I", "admin@acme", "-n", NAMESPACE, "-s", str(signature)]
    assert 0 == keygen(*check, stdin=message).returncode
    assert 0 == keygen(*verify, stdin=message).returncode
    assert key.fingerprint in keygen(*verify, stdin=message).stdout.decode()
    assert 0 != keygen(*verify, stdin=b"another").returncode


@given(at=st.integers(0, 300), byte=st.integers(0, 255), cut=st.integers(0, 300), tail=st.binary(max_size=3))
def test_the_short_way_reads_what_the_long_way_reads(at: int, byte: int, cut: int, tail: bytes) -> None:
    """A plain key's signature, whole or spoiled anywhere, is read or refused as by the reader of all forms."""
    blob = bytearray(KEY.sign("nixfleet-device-v1@" + "0" * 32, b"payload"))
    blob[at % len(blob)] = byte
    data = bytes(blob[: len(blob) - cut % 4]) + tail

    def read(way: Callable[[bytes], sshsig.Signature]) -> sshsig.Signature | str:
        try:
            return way(data)
        except Untrusted as error:
            return str(error)

    assert read(sshsig._parse_any) == read(sshsig.parse)
