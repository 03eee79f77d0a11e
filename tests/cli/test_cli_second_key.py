"""The second root key that `nixfleet init` asks for: given, made, asked again, or left out with the way to add it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from nacl.pwhash import argon2id
from tests.cli.commandline import Commands
from tests.sshagent import make_key

from nixfleet.cli import passphrases
from nixfleet.trust.signers import public_key_of, unseal
from nixfleet.trust.sshsig import parse_public_key


def fingerprint(public: Path) -> str:
    """Give a public key file's fingerprint."""
    return parse_public_key(public.read_text()).fingerprint


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Give another public key, its private part beside it."""
    return make_key(tmp_path / "other")


def init(nixfleet: Commands, *argv: str, code: int = 0) -> str:
    """Begin the fleet, and give what was said."""
    said = nixfleet("init", "acme", "--url", nixfleet.url, "--key", str(nixfleet.agent.public), *argv, code=code)
    return said.err


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Answer on a terminal, one after the other; nothing is left over."""
    left: list[str] = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(click, "prompt", lambda *_args, **_named: left.pop(0))
    yield left
    assert [] == left


def test_root_1_holds_both_keys_under_one_person(nixfleet: Commands, other: Path) -> None:
    """A second key of another file is the same person's; either can act for the root, and no warning is left."""
    said = init(nixfleet, "--second-key", str(other))
    assert f"its second root key is {fingerprint(other)}" in said
    assert "1 root key" not in said
    server = nixfleet.server()
    server.start()
    try:
        (person,) = nixfleet("access", "root", "show", "--json").json["root"]["principals"]
        assert [fingerprint(nixfleet.agent.public), fingerprint(other)] == person["keys"]
        assert nixfleet("--key", str(other.with_suffix("")), "enroll", "token", "--yes").out
        assert "1 root key" not in nixfleet("access", "root", "show").err
    finally:
        server.stop()


def test_nobody_to_ask_goes_on_with_one_and_says_how_to_add_another(nixfleet: Commands) -> None:
    """Without a terminal there is one key, and the command that adds a second one later works as it is said."""
    said = init(nixfleet)
    assert "1 root key: if it is lost, so is the fleet's root; add a second one by 'nixfleet access root update" in said
    command = said.partition("add a second one by 'nixfleet ")[2].partition("'")[0].split()
    second = make_key(nixfleet.home / "second")
    server = nixfleet.server()
    server.start()
    try:
        done = nixfleet(*[word.replace("SECOND.pub", str(second)) for word in command], "--yes")
        assert "root 2 is in force" in done.err
        assert "1 root key" not in nixfleet("access", "root", "show").err
    finally:
        server.stop()


def test_it_is_asked_for_until_the_answer_can_be(nixfleet: Commands, other: Path, answers: list[str]) -> None:
    """A missing file and the first key again are said and asked again; `--yes` asks nothing."""
    answers += ["/nonexistent", str(nixfleet.agent.public), str(other)]
    said = init(nixfleet)
    assert "cannot read the key file /nonexistent: No such file or directory; try again" in said
    assert "this is the first root key again" in said
    assert f"its second root key is {fingerprint(other)}" in said
    nixfleet("init", "beta", "--url", nixfleet.url, "--key", str(nixfleet.agent.public), "--yes")


def test_none_is_an_answer(nixfleet: Commands, answers: list[str]) -> None:
    """Who wants one key gets one, and the warning."""
    answers += ["none"]
    assert "1 root key" in init(nixfleet)
    nixfleet("init", "beta", "--url", nixfleet.url, "--key", str(nixfleet.agent.public), "--second-key", "none")


def test_a_new_one_is_sealed_for_another_place(
    nixfleet: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written sealed, with a passphrase of its own, and whoever made it is told to move it away."""
    monkeypatch.setattr(argon2id, "MEMLIMIT_MODERATE", 8 << 20)
    secret = tmp_path / "secret"
    secret.write_text("apart\n")
    secret.chmod(0o600)
    monkeypatch.setenv(passphrases.VARIABLE, str(secret))
    said = init(nixfleet, "--second-key", "new")
    path = nixfleet.home / "config" / "keys" / "acme-second.key"
    assert f"the second root key is sealed in {path}: move it to another place" in said
    assert f"its second root key is {public_key_of(path).fingerprint}" in said
    assert public_key_of(path) == unseal(path.read_bytes(), "apart").public


@pytest.mark.parametrize(
    ("second", "why"), [("/nonexistent", "cannot read the key file"), ("new", "no terminal to ask for the passphrase")]
)
def test_a_wrong_second_key_leaves_nothing(nixfleet: Commands, second: str, why: str) -> None:
    """It is found before the fleet is made."""
    assert why in init(nixfleet, "--second-key", second, code=2)
    assert [] == [path for path in nixfleet.home.rglob("*") if path.is_file()]
