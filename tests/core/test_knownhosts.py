"""What ssh knows of hosts: plain, hashed, by pattern, on other ports, revoked, and by authority."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import fingerprint, key

from nixfleet.errors import UserError
from nixfleet.trust.knownhosts import KnownHost, known_host, split_host

A, B = key("a").public.text, key("b").public.text
RSA = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7"


def keys(text: str, host: str, port: int = 22) -> tuple[str, ...]:
    """Give the keys of a host by one file's text."""
    return known_host([text], host, port).keys


@pytest.mark.parametrize(
    ("hosts", "named"),
    [
        ("web-01", True),
        ("WEB-01", True),
        ("other,web-01,10.0.0.1", True),
        ("web-*", True),
        ("web-0?", True),
        ("*,!web-01", False),
        ("!web-01,*", False),
        ("*,!web-02", True),
        ("web-0", False),
        ("web-011", False),
        ("[web-01]:2222", False),
        ("web-[0-9]1", False),
    ],
)
def test_a_line_is_for_the_hosts_that_its_patterns_name(hosts: str, named: bool) -> None:
    """As ssh reads them: ``*`` and ``?``, ``!`` excludes wherever it stands, letters of either case, no brackets."""
    assert ((fingerprint("a"),) if named else ()) == keys(f"{hosts} {A} comment\n", "Web-01")


def test_another_port_is_another_host() -> None:
    """It stands in brackets; the standard port stands without."""
    text = f"[web-01]:2222 {A}\nweb-01 {B}\n"
    assert (fingerprint("a"),) == keys(text, "web-01", 2222)
    assert (fingerprint("b"),) == keys(text, "web-01")


def test_several_keys_several_files_and_duplicates() -> None:
    """Every key counts once, in the order of the lines."""
    found = known_host([f"h {A}\nh {B}\nh {A}\n", f"h {B}\n"], "h")
    assert (fingerprint("a"), fingerprint("b")) == found.keys


def test_a_revoked_key_counts_wherever_it_stands() -> None:
    """Before or after the line that trusts it, for all hosts or this one; another host's is nothing to it."""
    for text in (f"h {A}\n@revoked * {A}\n", f"@revoked h {A}\nh {A}\n"):
        assert KnownHost("h", (), frozenset({fingerprint("a")})) == known_host([text], "h")
    assert (fingerprint("a"),) == keys(f"h {A}\n@revoked x {A}\n", "h")


def test_an_authority_is_no_key() -> None:
    """It vouches for certificates; a device that showed its key would be the authority itself."""
    assert KnownHost("h", (), authority=True) == known_host([f"@cert-authority *,!x {A}\n"], "h")


def test_other_types_are_told_and_what_is_broken_is_passed_over() -> None:
    """A comment, a short line, an unknown marker and a key that is none do no harm to the line behind them."""
    broken = f"# h {A}\nh\nh ssh-ed25519\n@odd h {A}\nh ssh-ed25519 AAAA\nh {A[:-4]}\n|1|x|y {A}\n|1|| {A}\n|1 {A}\n"
    text = f"{broken}h {RSA}\nh {B}\n"
    assert KnownHost("h", (fingerprint("b"),), others=("ssh-rsa",)) == known_host([text], "h")


def test_names_hashed_by_ssh_keygen_are_found(tmp_path: Path) -> None:
    """With and without a port, among others, and only under their own name."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen")
    file = tmp_path / "known_hosts"
    file.write_text(f"web-01 {A}\n[web-02]:2222 {B}\nother {A}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, timeout=10, capture_output=True)
    text = file.read_text()
    assert "web" not in text
    assert (fingerprint("a"),) == keys(text, "web-01")
    assert (fingerprint("b"),) == keys(text, "web-02", 2222)
    assert () == keys(text, "web-02") == keys(text, "web-03")


@given(st.text(), st.text(min_size=1))
def test_no_text_makes_it_raise_or_find_a_key(text: str, host: str) -> None:
    """Files of anybody are read to their end."""
    assert () == keys(text, host)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("web-01", ("web-01", 22)),
        ("web-01:2222", ("web-01", 2222)),
        ("[web-01]:2222", ("web-01", 2222)),
        ("[fd00::1]:2222", ("fd00::1", 2222)),
        ("fd00::1", ("fd00::1", 22)),
        ("10.0.0.1", ("10.0.0.1", 22)),
    ],
)
def test_a_host_is_written_as_for_ssh(text: str, host: tuple[str, int]) -> None:
    """With or without a port, IPv6 in brackets where there is one."""
    assert host == split_host(text)


@pytest.mark.parametrize("text", ["", ":22", "a:0", "a:70000", "a:x", "a b", "a,b", "*", "!a"])
def test_what_is_no_host_is_said(text: str) -> None:
    """A pattern or a list would match more than the one machine."""
    with pytest.raises(UserError, match="is no host; write HOST or HOST:PORT"):
        split_host(text)
