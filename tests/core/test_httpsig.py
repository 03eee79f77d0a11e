"""Signed requests: the one profile, and every way to leave it."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import fingerprint, key

from nixfleet.errors import Untrusted
from nixfleet.model.ids import Fingerprint
from nixfleet.trust.httpsig import Skewed, sign_request, verify_head
from nixfleet.trust.sshkeys import check_ed25519
from nixfleet.trust.sshsig import PublicKey

FLEET = "f" * 64
NOW = 1_800_000_000


def key_of(wanted: Fingerprint) -> PublicKey | None:
    """Know one key."""
    return key("lead").public if wanted == fingerprint("lead") else None


def signed(body: bytes = b"{}", query: str = "size=3", created: int = NOW, name: str = "lead") -> dict[str, str]:
    """Sign a usual request."""
    return sign_request(key(name), method="POST", path="/v1/log", query=query, body=body, created=created, fleet=FLEET)


def verified(headers: dict[str, str], **changed: object) -> Fingerprint:
    """Verify the usual request, but for what is changed."""
    body = changed.pop("body", b"{}")
    assert isinstance(body, bytes)
    usual: dict[str, object] = {"method": "POST", "path": "/v1/log", "query": "size=3", "now": NOW, "fleet": FLEET}
    head = verify_head(headers, key_of=key_of, **(usual | changed))  # type: ignore[arg-type]  # by name
    head.digest.check(body)
    return head.signer


def test_a_signed_request_tells_its_signer() -> None:
    """The verifier returns the fingerprint, whatever the case of header names."""
    assert fingerprint("lead") == verified(signed())
    assert fingerprint("lead") == verified({name.upper(): value for name, value in signed().items()})


def test_an_empty_body_and_query_are_signed_too() -> None:
    """Nothing is signed as nothing: the digest of the empty body, and a bare question mark."""
    headers = signed(body=b"", query="")
    assert fingerprint("lead") == verified(headers, body=b"", query="")


@pytest.mark.parametrize(
    "changed", [{"method": "PUT"}, {"path": "/v1/logs"}, {"query": "size=4"}, {"query": ""}, {"body": b"{} "}]
)
def test_no_signed_part_can_change(changed: dict[str, object]) -> None:
    """Method, path, query and body are bound."""
    with pytest.raises(Untrusted):
        verified(signed(), **changed)


@pytest.mark.parametrize("off_s", [-301, 301, 10**9])
def test_a_wrong_clock_is_told_apart(off_s: int) -> None:
    """A well-signed request whose clock is over 300 s off is `Skewed`, so that the client can retry."""
    with pytest.raises(Skewed, match="clock"):
        verified(signed(created=NOW + off_s))
    assert fingerprint("lead") == verified(signed(created=NOW + (300 if off_s > 0 else -300)))


def test_a_stranger_does_not_learn_about_the_clock() -> None:
    """An unknown key is refused as such, clock or not."""
    with pytest.raises(Untrusted, match="may not ask") as caught:
        verified(signed(name="stranger", created=0))
    assert not isinstance(caught.value, Skewed)


def test_another_fleet_is_refused() -> None:
    """The tag binds a request to its fleet."""
    with pytest.raises(Untrusted, match="another fleet"):
        verified(signed(), fleet="0" * 64)


@pytest.mark.parametrize("name", ["Content-Digest", "Signature-Input", "Signature"])
def test_each_header_is_needed_once(name: str) -> None:
    """A missing or doubled header is refused."""
    headers = signed()
    with pytest.raises(Untrusted, match="twice"):
        verified({**headers, name.lower(): headers[name]})
    del headers[name]
    with pytest.raises(Untrusted, match="no header"):
        verified(headers)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("Signature-Input", ' "@query"', ""),
        ("Signature-Input", ";alg", ';nonce="x";alg'),
        ("Signature-Input", "sig=", "sig1="),
        ("Signature-Input", 'alg="ed25519"', 'alg="hmac-sha256"'),
        ("Signature-Input", "created=", "created=0"),
        ("Content-Digest", "sha-256", "md5"),
        ("Content-Digest", "sha-256", "sha-512"),
        ("Signature", "sig=:", "sig=::"),
    ],
)
def test_only_the_one_profile_is_read(name: str, old: str, new: str) -> None:
    """Another label, parameter, order or algorithm is refused."""
    headers = signed()
    headers[name] = headers[name].replace(old, new)
    with pytest.raises(Untrusted):
        verified(headers)


@given(st.data())
def test_no_character_of_a_header_can_change(data: st.DataObject) -> None:
    """Any changed character of any of the three headers is refused."""
    headers = signed()
    name = data.draw(st.sampled_from(sorted(headers)))
    place = data.draw(st.integers(0, len(headers[name]) - 1))
    char = data.draw(st.characters(max_codepoint=300))
    changed = headers[name][:place] + char + headers[name][place + 1 :]
    if changed == headers[name]:
        return
    with pytest.raises(Untrusted):
        verified({**headers, name: changed})


def test_a_body_is_compared_after_its_head() -> None:
    """The head is judged without the body, which is compared at the end."""
    head = verify_head(
        signed(body=b"long"), method="POST", path="/v1/log", query="size=3", now=NOW, fleet=FLEET, key_of=key_of
    )
    assert fingerprint("lead") == head.signer
    head.digest.check(b"long")
    with pytest.raises(Untrusted, match="body"):
        head.digest.check(b"short")


@pytest.mark.parametrize("changed", [{"path": "v1"}, {"path": "/a\nb"}, {"query": "a b"}, {"query": "x" * 9_000}])
def test_a_malformed_target_is_refused(changed: dict[str, object]) -> None:
    """What could break a line of the signature base never gets into one."""
    with pytest.raises(Untrusted, match="malformed"):
        verified(signed(), **changed)


def test_the_example_of_rfc_9421_verifies() -> None:
    """Appendix B.2.6: its signature base, signed by its test-key-ed25519 (appendix B.1.4)."""
    raw = base64.b64decode("JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=")
    base = (
        b'"date": Tue, 20 Apr 2021 02:07:55 GMT\n'
        b'"@method": POST\n'
        b'"@path": /foo\n'
        b'"@authority": example.com\n'
        b'"content-type": application/json\n'
        b'"content-length": 18\n'
        b'"@signature-params": ("date" "@method" "@path" "@authority" "content-type" "content-length")'
        b';created=1618884473;keyid="test-key-ed25519"'
    )
    signature = base64.b64decode(
        "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    )
    check_ed25519(raw, base, signature)
    with pytest.raises(Untrusted):
        check_ed25519(raw, base.replace(b"/foo", b"/bar"), signature)


def test_the_example_of_rfc_9530_is_our_content_digest() -> None:
    """Appendix B.1 of RFC 9530: the SHA-256 of a small JSON body."""
    headers = sign_request(
        key("web-01"), method="POST", path="/foo", query="", body=b'{"hello": "world"}\n', created=0, fleet="f" * 64
    )
    assert "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:" == headers["Content-Digest"]
