"""agent.toml: strict, with the environment and flags on top, and errors that name the place."""

import re
from pathlib import Path

import pytest

from nixfleet.agent.settings import (
    Checks,
    CommandCheck,
    ExtraCache,
    Fetching,
    HttpCheck,
    Settings,
    TcpCheck,
    UnitCheck,
    load,
    pinned,
)
from nixfleet.errors import UserError

WHOLE = f"""
name = "web-01"
token_file = "/etc/nixfleet/token"
urls = ["https://fleet.example.org"]
fleet = "{"ab" * 32}"
checkpoint = "12:{"cd" * 32}"
key_file = "/etc/ssh/ssh_host_ed25519_key"
state_dir = "/srv/nixfleet"
orphan_s = 60
poll_s = 5
report_lines = false
[tags]
site = "berlin"
[[caches]]
url = "https://cache.example.org"
key = "c-1:{"A" * 43}="
[[checks.units]]
unit = "app.service"
[[checks.http]]
url = "http://localhost/healthz"
status = 204
timeout_s = 3
[[checks.tcp]]
host = "localhost"
port = 22
[[checks.command]]
argv = ["/bin/true"]
retries = 0
[fetch]
rate_bytes_s = 1000000
stall_s = 10
total_s = 600
"""


def write(folder: Path, text: str) -> Path:
    """Write an agent.toml."""
    file = folder / "agent.toml"
    file.write_text(text)
    return file


def test_every_key_is_read(tmp_path: Path) -> None:
    """The whole file becomes settings, nothing is lost."""
    expected = Settings(
        name="web-01",
        token_file="/etc/nixfleet/token",
        urls=("https://fleet.example.org",),
        fleet="ab" * 32,
        checkpoint=f"12:{'cd' * 32}",
        key_file="/etc/ssh/ssh_host_ed25519_key",
        state_dir="/srv/nixfleet",
        orphan_s=60,
        poll_s=5,
        report_lines=False,
        tags={"site": "berlin"},
        caches=(ExtraCache(url="https://cache.example.org", key=f"c-1:{'A' * 43}="),),
        checks=Checks(
            units=(UnitCheck(unit="app.service"),),
            http=(HttpCheck(url="http://localhost/healthz", status=204, timeout_s=3),),
            tcp=(TcpCheck(host="localhost", port=22),),
            command=(CommandCheck(argv=("/bin/true",), retries=0),),
        ),
        fetch=Fetching(rate_bytes_s=1_000_000, stall_s=10, total_s=600),
    )
    found = load(write(tmp_path, WHOLE), {}, {})
    assert expected == found
    assert pinned(found) == (12, "cd" * 32)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    """Checks for newly failed units need no configuration."""
    assert Settings() == load(write(tmp_path, "# defaults\n"), {}, {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nmae = 'x'", "unknown key nmae"),
        ("[checks]\nunit = 1", "unknown key unit in checks"),
        ("name = 'Web 01'", "name: needs to be lower-case"),
        ("poll_s = 0", "poll_s: needs to be at least 1"),
        ("fleet = 'abc'", "fleet: needs to be 64 hex digits"),
        ("urls = ['ftp://x']", "urls[0]: needs to be an address"),
        ("checkpoint = '1'", "checkpoint: is not written"),
        ("name = ", "not TOML"),
    ],
)
def test_a_wrong_file_is_one_line_with_file_and_key(tmp_path: Path, text: str, reason: str) -> None:
    """Whoever wrote it finds the place at once."""
    file = write(tmp_path, text)
    with pytest.raises(UserError, match=re.escape(f"{file}: {reason}")):
        load(file, {}, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """No file is an error of its own."""
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/none: No such file")):
        load(tmp_path / "none", {}, {})


def test_environment_and_then_flags_are_on_top(tmp_path: Path) -> None:
    """File, environment, flags: the later wins."""
    file = write(tmp_path, "name = 'a'\npoll_s = 3\n")
    env = {
        "NIXFLEET_AGENT_NAME": "b",
        "NIXFLEET_AGENT_STATE_DIR": "/b",
        "NIXFLEET_AGENT_POLL_S": "9",
        "NIXFLEET_AGENT_REPORT_LINES": "false",
        "NIXFLEET_AGENT_URLS": "http://a.example, http://b.example",
        "PATH": "/bin",
    }
    found = load(file, env, {"state_dir": "/c"})
    assert ("b", "/c", 9, False) == (found.name, found.state_dir, found.poll_s, found.report_lines)
    assert found.urls == ("http://a.example", "http://b.example")


@pytest.mark.parametrize(
    ("env", "flags", "reason"),
    [
        ({"NIXFLEET_AGENT_NMAE": "x"}, {}, "NIXFLEET_AGENT_NMAE: there is no setting 'nmae'"),
        ({"NIXFLEET_AGENT_POLL_S": "often"}, {}, "NIXFLEET_AGENT_POLL_S: needs to be a whole number"),
        ({"NIXFLEET_AGENT_TAGS": "a=b"}, {}, "NIXFLEET_AGENT_TAGS: tags can only be set in the file"),
        ({}, {"state_dir": "relative"}, "--state-dir: is not written"),
    ],
)
def test_a_wrong_variable_or_flag_names_itself(
    tmp_path: Path, env: dict[str, str], flags: dict[str, str], reason: str
) -> None:
    """The error says where the value came from."""
    with pytest.raises(UserError, match=re.escape(reason)):
        load(write(tmp_path, ""), env, flags)
