"""Settings: strict TOML, contexts, and files that appear whole or not at all."""

import os
import stat
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfleet import config
from nixfleet.config import Context, Settings
from nixfleet.errors import UserError

FLEET = "ab" * 32
HOME = Context(fleet=FLEET, urls=("http://127.0.0.1:7070",), key="SHA256:abc")


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of a made-up program."""

    name: str = "n"
    urls: tuple[str, ...] = ()
    port: int = 1
    quiet: bool = False


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Give an environment whose admin folders are this test's own."""
    return {"NIXFLEET_HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("name = ", "not TOML"),
        ("nmae = 'x'", "unknown key nmae"),
        ("port = 'x'", "port: needs to be a whole number, not text in quotes"),
        ("urls = [1]", "urls[0]: needs to be text in quotes, not a whole number"),
        ("\x00", "not TOML"),
        ("a = " + "[" * 5_000, "not TOML"),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, text: str, trouble: str) -> None:
    """A malformed file, or an unknown or wrong key, is one sentence that names file and key."""
    path = tmp_path / "some.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        config.read_toml(path, Shape)
    assert str(caught.value).startswith(f"{path}: {trouble}")


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("fleet = 'xyz'", "contexts.work.fleet: needs to be 64 hex digits"),
        (f"fleet = '{FLEET}'\nurls = ['ftp://x']", "contexts.work.urls[0]: needs to be an address like http"),
        (f"fleet = '{FLEET}'\nurls = []", "contexts.work.urls: needs a length of at least 1"),
        ("urls = ['http://x']", "contexts.work: fleet is missing"),
        (f"fleet = '{FLEET}'\nurls = 'http://x'", "contexts.work.urls: needs to be a list in brackets, not text"),
        (f"fleet = '{FLEET}'\nurls = ['http://x']\nkee = ''", "unknown key kee in contexts.work"),
        (f"fleet = '{FLEET}'\nurls = ['http://x']\n[contexts.'A!']", "contexts: 'A!' is no name; it needs to be lower"),
        (
            f"fleet = '{FLEET}'\nurls = ['http://x']\n[keys]\na = 3",
            "keys.a: needs to be text in quotes, not a whole number",
        ),
    ],
)
def test_a_wrong_context_is_named_with_what_it_needs(env: dict[str, str], text: str, trouble: str) -> None:
    """Of several contexts the wrong one is named, with its key and what belongs there in plain words."""
    config.put_context("home", HOME, env=env)
    path = config.settings_file(env)
    path.write_text(f"{path.read_text()}[contexts.work]\n{text}\n")
    with pytest.raises(UserError) as caught:
        config.read_admin(env)
    assert str(caught.value).startswith(f"{path}: {trouble}")


def test_a_missing_or_huge_file_is_a_sentence(tmp_path: Path) -> None:
    """A file that is not there, or beyond the bound, is told by name."""
    with pytest.raises(UserError, match="No such file"):
        config.read_toml(tmp_path / "none.toml", Shape)
    (tmp_path / "huge.toml").write_text("#" * (config.MAX_CONFIG_BYTES + 1))
    with pytest.raises(UserError, match="larger than"):
        config.read_toml(tmp_path / "huge.toml", Shape)


def test_contexts_are_added_chosen_and_read_back(env: dict[str, str]) -> None:
    """The context added last is current; ``use`` and the variable choose another; a flag stands over all."""
    config.put_context("home", HOME, env=env)
    config.put_context("work", msgspec.structs.replace(HOME, key=""), env=env)
    assert "work" == config.choose_context(None, env)[0]
    config.use_context("home", env)
    assert ("home", HOME) == config.choose_context(None, env)
    assert "work" == config.choose_context(None, {**env, "NIXFLEET_CONTEXT": "work"})[0]
    assert "home" == config.choose_context("home", {**env, "NIXFLEET_CONTEXT": "work"})[0]


def test_no_fleet_and_a_wrong_name_say_what_to_do(env: dict[str, str]) -> None:
    """With nothing known the next command is named; with a wrong name the known ones are."""
    with pytest.raises(UserError, match="nixfleet init NAME"):
        config.choose_context(None, env)
    config.put_context("home", HOME, env=env)
    with pytest.raises(UserError, match=r"no context 'hoem'; known are home"):
        config.choose_context("hoem", env)
    with pytest.raises(UserError, match="known are home"):
        config.use_context("hoem", env)
    with pytest.raises(UserError, match="context"):
        config.put_context("Not A Name", HOME, env=env)
    assert ["home"] == list(config.read_admin(env).contexts)


def test_a_single_context_needs_no_choice(env: dict[str, str]) -> None:
    """With exactly one context and no current one, that one is meant; with two, the person is asked."""
    config.write_admin(Settings(contexts={"home": HOME}), env)
    assert "home" == config.choose_context(None, env)[0]
    config.write_admin(Settings(contexts={"home": HOME, "work": HOME}), env)
    with pytest.raises(UserError, match="context use NAME"):
        config.choose_context(None, env)


@given(
    st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
    st.dictionaries(st.from_regex(r"\A[a-z0-9]([a-z0-9._-]{0,9}[a-z0-9])?\Z"), st.text(max_size=20), max_size=3),
)
def test_settings_survive_being_written(keys: dict[str, str], names: dict[str, str]) -> None:
    """Whatever is written as TOML reads back the same."""
    contexts = {name: Context(fleet=FLEET, urls=("https://x.example/a?b='c'",), key=key) for name, key in names.items()}
    settings = Settings(current=next(iter(names), ""), contexts=contexts, keys=keys)
    assert settings == msgspec.convert(tomllib.loads(config._as_toml(settings)), Settings)


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    """An atomic write leaves the new content, mode 0600, and no other file behind."""
    path = tmp_path / "deep" / "file"
    config.write_atomic(path, b"old")
    config.write_atomic(path, b"new")
    assert (b"new", 0o600) == (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
    assert [path] == list(path.parent.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fails, the old content stands, nothing is left behind, and the path is named."""
    path = tmp_path / "file"
    config.write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="file cannot be written: No space left"):
        config.write_atomic(path, b"new")
    assert (b"old", [path]) == (path.read_bytes(), list(tmp_path.iterdir()))


def test_folders_are_the_users_own_unless_told(tmp_path: Path, env: dict[str, str]) -> None:
    """``NIXFLEET_HOME`` puts everything under one folder; without it the system's conventions hold."""
    assert tmp_path / "data/fleets/acme" == config.coordinator_dir("acme", env)
    assert tmp_path / f"state/mirrors/{FLEET}" == config.mirror_dir(FLEET, env)
    assert tmp_path / f"state/sessions/{FLEET}/a_b-c" == config.session_file(FLEET, "SHA256:a/b+c", env)
    assert tmp_path / "state/logs" == config.log_dir(env)
    assert all(folder.name == "nixfleet" for folder in config.admin_dirs({}))
