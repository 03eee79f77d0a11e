"""Nix's hashes, paths, narinfos and keys: against the published forms, against real Nix, and against abuse."""

import base64
import hashlib
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.nix.probes import need_nix

from nixfleet.errors import Untrusted, UserError
from nixfleet.trust import narinfo
from nixfleet.trust.narinfo import CacheKey, ClosureLine, NarInfo
from nixfleet.trust.sshsig import SecretKey

HASH = hashlib.sha256(b"content").digest()
KEY = CacheKey("fleet-1", SecretKey.from_seed(b"\x03" * 32))
PART = "0123456789abcdfghijklmnpqrsvwxyz"
PATH = f"/nix/store/{PART}-hello-2.12"
INFO = NarInfo(
    store_path=PATH,
    url="nar/abc.nar.zst",
    compression="zstd",
    file_hash=narinfo.to_base32_hash(f"sha256:{'00' * 32}"),
    file_bytes=10,
    nar_hash=narinfo.to_base32_hash(f"sha256:{HASH.hex()}"),
    nar_bytes=20,
    references=(f"/nix/store/{PART}-glibc", PATH),
    deriver=f"/nix/store/{PART}-hello-2.12.drv",
)

names = st.from_regex(r"[A-Za-z0-9+_?=-][A-Za-z0-9+._?=-]{0,40}", fullmatch=True)
paths = st.builds(
    lambda part, name: f"/nix/store/{part}-{name}",
    st.text(alphabet="0123456789abcdfghijklmnpqrsvwxyz", min_size=32, max_size=32),
    names,
)
hashes = st.binary(min_size=32, max_size=32).map(lambda digest: f"sha256:{narinfo.base32_encode(digest)}")


def reference_base32(data: bytes) -> str:
    """Encode digit by digit with shifts over bytes, as Nix's own printHash32 does."""
    digits = []
    for place in range((len(data) * 8 - 1) // 5 + 1 if data else 0):
        index, shift = divmod(place * 5, 8)
        following = data[index + 1] << (8 - shift) if index + 1 < len(data) else 0
        digits.append("0123456789abcdfghijklmnpqrsvwxyz"[(data[index] >> shift | following) & 31])
    return "".join(reversed(digits))


def test_base32_of_the_empty_hash() -> None:
    """The SHA-256 of nothing has the base32 form that Nix prints for it."""
    digest = hashlib.sha256(b"").digest()
    assert "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73" == narinfo.base32_encode(digest)


@given(data=st.binary(max_size=70))
def test_base32_round_trip(data: bytes) -> None:
    """Base32 equals the shifting definition and reads back."""
    assert reference_base32(data) == narinfo.base32_encode(data)
    assert data == narinfo.base32_decode(narinfo.base32_encode(data))


@pytest.mark.parametrize("text", ["e", "o", "1", "zz", "000", "A" * 32, "z" * 52, "0123456789abcdfghijklmnpqrsvwxy\n"])
def test_bad_base32_is_refused(text: str) -> None:
    """Foreign letters, impossible lengths and bits that no byte holds are refused."""
    with pytest.raises(UserError):
        narinfo.base32_decode(text)


@given(digest=st.binary(min_size=32, max_size=32))
def test_hash_forms_are_one(digest: bytes) -> None:
    """Hex, base64, SRI and base32 forms of one hash give one text."""
    encoded = base64.b64encode(digest).decode()
    expected = f"sha256:{reference_base32(digest)}"
    for text in (f"sha256:{digest.hex()}", f"sha256:{encoded}", f"sha256-{encoded}", expected):
        assert expected == narinfo.to_base32_hash(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "z" * 52,
        "sha256:" + "0" * 51,
        "sha256:" + "0" * 52 + "\n",
        "sha256:" + "0" * 63 + "g",
        "sha256-" + "A" * 43,
        "sha256-é",
        "sha512-" + "A" * 86 + "==",
        "md5:" + "0" * 32,
        "0" * 64,
    ],
)
def test_bad_hashes_are_refused(text: str) -> None:
    """Other algorithms, lengths and stray characters are UserErrors."""
    with pytest.raises(UserError):
        narinfo.to_base32_hash(text)


@given(path=paths)
def test_store_paths_are_accepted(path: str) -> None:
    """A well-formed path is returned as it is, and its hash part is 32 characters."""
    assert path == narinfo.check_store_path(path)
    assert path[11:43] == narinfo.hash_part(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/nix/store",
        f"/nix/store/{PART}",
        f"/nix/store/{PART}-",
        f"/nix/store/{PART[:-1]}-x",
        f"/nix/store/{PART.replace('z', 'e')}-x",
        f"/nix/store/{PART}-x/bin",
        f"/nix/store/{PART}-x\n",
        f"/nix/store/{PART}-.",
        f"/nix/store/{PART}-..",
        f"/nix/store/{PART}-a b",
        f"/nix/store/{PART}-é",
        f"/nix/store/{PART}-{'x' * 212}",
        f"/gnu/store/{PART}-x",
        f"/nix/store/../{PART}-x",
    ],
)
def test_bad_store_paths_are_refused(text: str) -> None:
    """What is not exactly one entry of the store is a UserError."""
    with pytest.raises(UserError, match="not a store path"):
        narinfo.check_store_path(text)


def test_longest_name_is_accepted() -> None:
    """A name of 211 characters, Nix's longest, is accepted."""
    narinfo.check_store_path(f"/nix/store/{PART}-{'x' * 211}")


@given(
    path=paths,
    references=st.lists(paths, max_size=8, unique=True),
    deriver=st.none() | paths,
    nar_hash=hashes,
    nar_bytes=st.integers(1, 2**53 - 1),
)
def test_narinfo_round_trip(
    path: str, references: list[str], deriver: str | None, nar_hash: str, nar_bytes: int
) -> None:
    """A written, signed narinfo parses back to the same and verifies under its key only."""
    info = KEY.signed(
        replace(
            INFO,
            store_path=path,
            references=tuple(sorted(references)),
            deriver=deriver,
            nar_hash=nar_hash,
            nar_bytes=nar_bytes,
            ca=None,
        )
    )
    parsed = narinfo.parse_narinfo(narinfo.format_narinfo(info))
    assert info == parsed
    assert "fleet-1" == narinfo.verify_narinfo(parsed, [KEY.public])
    assert narinfo.verify_narinfo(parsed, []) is None
    assert narinfo.verify_narinfo(parsed, [CacheKey.generate("fleet-1").public]) is None


def test_narinfo_text_is_nix_form() -> None:
    """The text has Nix's lines in Nix's order, references and deriver without the folder."""
    text = narinfo.format_narinfo(replace(INFO, signatures=("fleet-1:" + "A" * 86 + "==",), ca="fixed:r:sha256:x"))
    assert [
        f"StorePath: {PATH}",
        "URL: nar/abc.nar.zst",
        "Compression: zstd",
        f"FileHash: sha256:{'0' * 52}",
        "FileSize: 10",
        f"NarHash: {INFO.nar_hash}",
        "NarSize: 20",
        f"References: {PART}-glibc {PART}-hello-2.12",
        f"Deriver: {PART}-hello-2.12.drv",
        "Sig: fleet-1:" + "A" * 86 + "==",
        "CA: fixed:r:sha256:x",
        "",
    ] == text.split("\n")


def test_fingerprint_is_the_documented_form() -> None:
    """The fingerprint joins path, hash, size and the sorted full references."""
    expected = f"1;{PATH};{INFO.nar_hash};20;/nix/store/{PART}-glibc,{PATH}"
    assert expected == narinfo.fingerprint(replace(INFO, references=INFO.references[::-1]))


@pytest.mark.parametrize(
    "change",
    [
        {"store_path": f"/nix/store/{PART}-other"},
        {"nar_hash": f"sha256:{'0' * 52}"},
        {"nar_bytes": 21},
        {"references": ()},
    ],
)
def test_any_signed_field_counts(change: dict[str, str]) -> None:
    """A narinfo whose path, hash, size or references changed after signing verifies no more."""
    assert narinfo.verify_narinfo(replace(KEY.signed(INFO), **change), [KEY.public]) is None  # type: ignore[arg-type]  # each change fits its field


def test_signature_by_one_of_many_is_found() -> None:
    """The one good signature among foreign, damaged and misnamed ones is found; a renamed key's is not."""
    stranger = CacheKey.generate("stranger")
    renamed = replace(stranger, name="fleet-1")
    info = renamed.signed(stranger.signed(INFO))
    assert narinfo.verify_narinfo(info, [KEY.public]) is None
    assert "fleet-1" == narinfo.verify_narinfo(KEY.signed(info), [stranger.public.replace("r:", "x:"), KEY.public])


TEXT = narinfo.format_narinfo(KEY.signed(INFO))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>please log in</html>\n",
        TEXT.replace("StorePath: ", "StorePath: x"),
        TEXT.replace("StorePath", "Path"),
        TEXT.replace("URL: nar", "URL: ../nar"),
        TEXT.replace("URL: nar", "URL: /nar"),
        TEXT.replace("URL: nar", "URL: a b"),
        TEXT.replace("NarSize: 20", "NarSize: -20"),
        TEXT.replace("NarSize: 20", "NarSize: 0"),
        TEXT.replace("NarSize: 20", "NarSize: 99999999999999999999"),
        TEXT.replace("NarSize: 20", "NarSize: 2_0"),
        TEXT.replace("NarSize: 20\n", ""),
        TEXT.replace("FileSize: 10\n", ""),
        TEXT.replace("NarHash: sha256:", "NarHash: sha1:"),
        TEXT.replace("References: ", "References: ../../etc "),
        TEXT.replace("Deriver: ", "Deriver: /nix/store/"),
        TEXT.replace("Compression: zstd", "Compression: a b"),
        TEXT.replace("Sig: fleet-1:", "Sig: fleet-1"),
        TEXT + "CA: a b\n",
        TEXT + "NarSize: 20\n",
        TEXT + "\n",
        TEXT.replace("\n", "\r\n"),
        TEXT + "Extra: \x1b[31m\n",
        TEXT + "Sig: x:" + "A" * 86 + "==\n" * 2,
        TEXT + ("Sig: x:" + "A" * 86 + "==\n") * 100,
    ],
    ids=lambda text: hashlib.sha256(text.encode()).hexdigest()[:8],
)
def test_malformed_narinfos_are_refused(text: str) -> None:
    """Each strict rule of the parser refuses with Untrusted."""
    with pytest.raises(Untrusted):
        narinfo.parse_narinfo(text)


@given(text=st.text(max_size=400))
def test_parse_is_total(text: str) -> None:
    """Any text ends in Untrusted, never in another error."""
    with pytest.raises(Untrusted):
        narinfo.parse_narinfo(text)


def test_bound_is_the_callers() -> None:
    """A smaller bound refuses a text that is well-formed."""
    narinfo.parse_narinfo(TEXT, bound=len(TEXT))
    with pytest.raises(Untrusted, match=f"larger than {len(TEXT) - 1} bytes"):
        narinfo.parse_narinfo(TEXT, bound=len(TEXT) - 1)


def test_foreign_caches_are_understood() -> None:
    """Unknown keys, an unknown deriver and a plain NAR without file fields are accepted."""
    text = TEXT.replace(f"FileHash: {INFO.file_hash}\nFileSize: 10\n", "").replace("zstd\n", "none\n")
    text = re.sub("Deriver: .*", "Deriver: unknown-deriver\nSystem: x86_64-linux", text)
    parsed = narinfo.parse_narinfo(text)
    assert (INFO.nar_hash, 20, None) == (parsed.file_hash, parsed.file_bytes, parsed.deriver)


@pytest.mark.parametrize(
    "change", [{"deriver": "x\nSig: y"}, {"url": "a\nb"}, {"ca": "a\nb"}, {"signatures": ("a\nb",)}, {"nar_hash": "x"}]
)
def test_nothing_breaks_out_of_its_line(change: dict[str, str]) -> None:
    """A field that would write another line is refused when written."""
    with pytest.raises(UserError):
        narinfo.format_narinfo(replace(INFO, **change))  # type: ignore[arg-type]  # each change fits its field


def test_cache_key_round_trip_and_secrecy() -> None:
    """A key's text parses back; its repr shows no secret."""
    key = CacheKey.generate("cache.example.org-1")
    assert key == CacheKey.parse(key.text + "\n")
    assert key.public == CacheKey.parse(key.text).public
    assert key.text.split(":")[1] not in repr(key)
    assert key.secret.seed.hex() not in repr(key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        ":AAAA",
        "name:!!!!",
        "na me:AAAA",
        KEY.public,
        "x" * 2000,
        f"n:{base64.b64encode(b'x' * 64).decode()}",
    ],
)
def test_bad_cache_keys_are_refused_without_showing_them(text: str) -> None:
    """A malformed secret key is a UserError that does not repeat it."""
    with pytest.raises(UserError) as caught:
        CacheKey.parse(text)
    assert text.partition(":")[2][:20] not in str(caught.value) or not text.partition(":")[2]


def test_bad_cache_names_and_public_keys_are_refused() -> None:
    """A name with a space is refused; so is a secret key where a public one belongs, without showing it."""
    with pytest.raises(UserError, match="not a name"):
        CacheKey.generate("a b")
    with pytest.raises(UserError) as caught:
        narinfo.verify_narinfo(INFO, [KEY.text])
    assert KEY.text[10:30] not in str(caught.value)


def test_closure_digest_by_hand() -> None:
    """The digest is the SHA-256 of the sorted lines, whatever order and hash form they came in."""
    other = f"/nix/store/{PART}-glibc"
    lines = [
        ClosureLine(PATH, f"sha256:{HASH.hex()}", 20),
        ClosureLine(other, f"sha256-{base64.b64encode(bytes(32)).decode()}", 7),
    ]
    text = f"{other} sha256:{'0' * 52} 7\n{PATH} {INFO.nar_hash} 20\n"
    assert hashlib.sha256(text.encode()).hexdigest() == narinfo.closure_digest(lines)
    assert narinfo.closure_digest(lines) == narinfo.closure_digest(reversed(lines))


def test_closure_digest_refuses_nonsense() -> None:
    """Empty closures, paths named twice, and malformed lines are UserErrors."""
    line = ClosureLine(PATH, INFO.nar_hash, 20)
    for lines in ([], [line, line], [line, replace(line, nar_bytes=21)], [replace(line, nar_bytes=0)]):
        with pytest.raises(UserError):
            narinfo.closure_digest(lines)
    for bad in (replace(line, path="/etc/passwd"), replace(line, nar_hash="sha256:x")):
        with pytest.raises(UserError):
            narinfo.closure_digest([bad])


def nix(folder: Path, *argv: str) -> str:
    """Run a real Nix command on a store inside `folder`, without network or the user's settings."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "NIX_USER_CONF_FILES": "/dev/null"}
    environment["NIX_CONF_DIR"] = str(folder)
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.nix
def test_real_nix_agrees(tmp_path: Path) -> None:
    """Nix reads our keys and we its keys; both make the same signature; its narinfo parses, verifies, and is ours."""
    need_nix()
    (tmp_path / "nix.conf").write_text("experimental-features = nix-command\nsubstituters =\nbuild-users-group =\n")
    store = ["--store", f"local?root={tmp_path / 'root'}"]
    secret, public = tmp_path / "sec", tmp_path / "pub"
    nix(tmp_path, "nix-store", "--generate-binary-cache-key", "theirs-1", str(secret), str(public))
    theirs = CacheKey.parse(secret.read_text())
    assert public.read_text().strip() == theirs.public
    assert secret.read_text().strip() == theirs.text
    content = tmp_path / "content"
    content.write_text("hello")
    path = nix(tmp_path, "nix-store", *store, "--add", str(content))
    ours = tmp_path / "ours"
    ours.write_text(KEY.text)
    for file in (secret, ours):
        nix(tmp_path, "nix", "store", "sign", *store, "-k", str(file), path)
    cache = tmp_path / "cache"
    nix(tmp_path, "nix", "copy", *store, "--to", f"file://{cache}?compression=none", path)
    text = (cache / f"{narinfo.hash_part(path)}.narinfo").read_text()
    info = narinfo.parse_narinfo(text)
    assert path == info.store_path
    for key in (theirs, KEY):
        assert key.name == narinfo.verify_narinfo(info, [key.public])
        assert key.sign(narinfo.fingerprint(info)) in info.signatures
    assert text == narinfo.format_narinfo(info)
    assert info.nar_hash.removeprefix("sha256:") == nix(tmp_path, "nix-store", *store, "-q", "--hash", path)[7:]
