"""A fleet on the command line, against a real coordinator: begun, joined, read, kept in order; what is not signed."""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nacl.pwhash import argon2id
from tests.cli.commandline import Commands, entries, free_port
from tests.factories import device_id, key
from tests.sshagent import make_key

from nixfleet.cli import passphrases
from nixfleet.cli.behind import Embedded
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Unreachable, UserError
from nixfleet.model.views import EnrollView, FleetView
from nixfleet.server import serve
from nixfleet.server.settings import ServerSettings


def test_init_makes_a_fleet_and_makes_it_current(nixfleet: Commands) -> None:
    """The fleet's id is the context's; a loopback address is warned of; a second one of the name is refused."""
    done = nixfleet("init", "acme", "--url", f"{nixfleet.url}/", "--key", str(nixfleet.agent.public), "--json")
    assert {"name": "acme", "fleet": nixfleet.fleet, "urls": [nixfleet.url]}.items() <= done.json.items()
    shown = nixfleet("context", "show", "--json").json
    expected = {"name": "acme", "fleet": nixfleet.fleet, "urls": [nixfleet.url], "key": str(nixfleet.agent.public)}
    assert {**expected, "checkpoint": shown["checkpoint"]} == shown
    again = nixfleet("init", "acme", "--url", nixfleet.url, "--key", str(nixfleet.agent.public), code=2)
    assert "already known" in again.complaint
    second = nixfleet("init", "beta", "--url", nixfleet.url)
    assert "only this machine can join" in second.err
    listed = nixfleet("context", "list", "--json").json
    assert ("beta", ["acme", "beta"]) == (listed["current"], sorted(listed["contexts"]))
    nixfleet("context", "use", "acme")
    assert "* " in nixfleet("context", "list").out.splitlines()[1][:2]
    assert "no context 'gamma'" in nixfleet("context", "use", "gamma", code=2).complaint


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["acme"], "--url http://"),
        (["Acme", "--url", "http://a"], "no fleet name"),
        (["../acme", "--url", "http://a", "--key", "new"], "no fleet name"),
        (["acme", "--url", "a:7070"], "no coordinator's address"),
        (["acme", "--url", "http://x:99999"], "no coordinator's address"),
        (["acme", "--url", "http://[::1"], "no coordinator's address"),
        (["acme", "--url", "http://a", "--key", "/nonexistent"], "cannot read the key file"),
        (["acme", "--url", "http://a", "--key", "SHA256:" + "A" * 43], "ssh-agent holds no key"),
        (["acme", "--url", "http://a", "--key", "new"], "no terminal"),
    ],
)
def test_init_that_cannot_be_leaves_nothing(nixfleet: Commands, argv: list[str], why: str) -> None:
    """A wrong name, address or key is one line, and no folder, key or context is made."""
    assert why in nixfleet("init", *argv, code=2).complaint
    assert [] == [path for path in nixfleet.home.rglob("*") if path.is_file()]


def test_a_new_key_is_asked_for_once_and_made_last(nixfleet: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase said twice seals the key; what cannot be is found before; a key left over can be named."""
    asked: list[str] = []

    def answer(text: str) -> str:
        asked.append(text)
        return "open sesame"

    monkeypatch.setattr(argon2id, "MEMLIMIT_MODERATE", 8 << 20)  # what is asked is under test, not the sealing
    monkeypatch.setattr(passphrases, "ask_hidden", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    key_file = nixfleet.home / "config" / "keys" / "acme.key"
    wrong = ("--url", "http://x:0"), ("--url", nixfleet.url, "--database", "mysql://a")
    for options in wrong:
        nixfleet("init", "acme", "--key", "new", *options, code=2)
    nixfleet.data.mkdir(parents=True)
    (nixfleet.data / "log.key").write_text("left over")
    assert "already holds log.key" in nixfleet("init", "acme", "--key", "new", "--url", nixfleet.url, code=2).complaint
    assert ([], False) == (asked, key_file.exists())
    nixfleet("init", "beta", "--key", "new", "--url", nixfleet.url, "--yes")
    twice = ["Passphrase for the new key: ", "The same again: "]
    assert twice == asked
    (nixfleet.data / "log.key").unlink()
    sealed = nixfleet.home / "config" / "keys" / "beta.key"
    nixfleet("init", "acme", "--key", str(sealed), "--url", nixfleet.url, "--yes")
    assert [*twice, f"Passphrase of {sealed}: "] == asked


def test_a_device_without_a_token_gets_its_lines_from_context_show(served: Commands, tmp_path: Path) -> None:
    """They are what the agent reads; the checkpoint is one that this machine has verified."""
    early = served("context", "show")
    assert ("checkpoint" in early.out, "nixfleet audit verify" in early.err) == (False, True)
    served("audit", "verify")
    lines = served("context", "show").out.partition("enrolled:\n")[2]
    held = Mirror.open(served.home / "state" / "mirrors" / served.fleet, served.fleet).log_state
    expected = {"urls": [served.url], "fleet": served.fleet, "checkpoint": f"1:{held.root}"}
    assert expected == tomllib.loads(lines)
    assert expected["checkpoint"] == served("context", "show", "--json").json["checkpoint"]
    assert "nixfleet context show" in served("enroll", "list").err


def test_a_coordinator_that_was_just_started_is_waited_for(nixfleet: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `nixfleet coordinator &` in a script the next command does not fail: it asks until it is answered."""
    nixfleet.init()
    server, ask = nixfleet.server(), Client.fleet

    async def refused_at_first(client: Client) -> FleetView:
        try:
            return await ask(client)
        except Unreachable:
            await asyncio.to_thread(server.start)
            raise

    monkeypatch.setattr(Client, "fleet", refused_at_first)
    try:
        assert 1 == len(nixfleet("enroll", "token").out.split())
    finally:
        server.stop()


def test_a_console_uses_the_coordinator_that_was_faster(served: Commands) -> None:
    """One that begins to serve while the console starts is used, and still serves when the console has ended."""
    embedded = Embedded(ServerSettings(data_dir=served.data, listen=f"127.0.0.1:{free_port()}"))
    embedded.start()
    assert not embedded.serves
    embedded.stop()
    served("device", "list")


def test_a_database_that_is_gone_is_not_made_anew(nixfleet: Commands) -> None:
    """Serving a fleet whose database was moved away is refused, and leaves nothing in its place."""
    nixfleet.init()
    held = nixfleet.data / "fleet.db"
    held.rename(nixfleet.home / "away.db")
    assert "bring fleet.db back" in nixfleet("coordinator", "--listen", "127.0.0.1:0", code=2).complaint
    with pytest.raises(UserError, match="bring fleet"):
        nixfleet.server().start()
    assert not held.exists()
    (nixfleet.home / "away.db").rename(held)
    server = nixfleet.server()
    server.start()
    try:
        assert 1 == entries(nixfleet)
    finally:
        server.stop()


def test_a_coordinator_is_started_as_its_options_say(nixfleet: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens where the fleet's URL needs it unless told otherwise; `--metrics-anywhere` opens the metrics."""
    nixfleet.init()
    started: list[ServerSettings] = []
    monkeypatch.setattr(serve, "run_forever", lambda settings, _: started.append(settings))
    nixfleet("coordinator")
    nixfleet("coordinator", "--listen", "127.0.0.2:1", "--metrics-anywhere")
    expected = [
        ServerSettings(data_dir=nixfleet.data, listen=f"127.0.0.1:{nixfleet.port}"),
        ServerSettings(data_dir=nixfleet.data, listen="127.0.0.2:1", metrics_anywhere=True),
    ]
    assert expected == started


def test_a_coordinator_serves_the_fleet_named_before_the_command(
    nixfleet: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nixfleet --context NAME coordinator` serves that fleet, as `coordinator --context NAME` does."""
    nixfleet.init()
    nixfleet("init", "beta", "--url", nixfleet.url)
    started: list[ServerSettings] = []
    monkeypatch.setattr(serve, "run_forever", lambda settings, _: started.append(settings))
    nixfleet("coordinator")
    nixfleet("--context", "acme", "coordinator")
    nixfleet("--context", "beta", "coordinator", "--context", "acme")
    assert ["beta", "acme", "acme"] == [settings.data_dir.name for settings in started]


def test_init_without_a_way_to_remember_the_fleet_takes_it_back(nixfleet: Commands) -> None:
    """When the settings cannot be written, the fleet that nobody could use is taken away again."""
    nixfleet.home.mkdir()
    (nixfleet.home / "config").write_text("in the way")
    complaint = nixfleet("init", "acme", "--url", nixfleet.url, code=2).complaint
    assert str(nixfleet.home / "config") in complaint
    assert not nixfleet.data.exists()


def test_a_device_that_asks_is_enrolled_by_fingerprint(served: Commands) -> None:
    """`enroll list` shows it; the wrong key, no key without a terminal, and a wrong name are refused."""
    served.ask("web-01", tags={"site": "oslo"}, reason="new")
    (listed,) = served("enroll", "list", "--json").json["requests"]
    assert ("web-01", key("web-01").public.fingerprint) == (listed["name"], listed["fingerprint"])
    assert "web-01" in served("enroll", "list").out
    assert "no device asks under the name 'web-02'" in served("enroll", "web-02", code=2).complaint
    wrong = served("enroll", "web-01", "--key", key("other").public.fingerprint, code=2)
    assert "with that key" in wrong.complaint
    unasked = served("enroll", "web-01", code=2)
    assert "add --yes" in unasked.err
    done = served("enroll", "web-01", "--key", key("web-01").public.text, "--tag", "env=prod", "--json")
    assert {"env": "prod", "site": "oslo"} == done.json["tags"]
    shown = served("device", "show", "web-01", "--json").json
    assert ({"env": "prod", "site": "oslo"}, device_id("web-01")) == (shown["tags"], shown["id"])
    assert [] == served("enroll", "list", "--json").json["requests"]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"key": key("thief").public.text}, "another fingerprint"),
        ({"device": device_id("other")}, "another request of web-01 than the device has signed"),
        ({"tags": {"env": "prod"}}, "another request of web-01 than the device has signed"),
        ({"payload": b"", "signature": b""}, "a request that web-01 has not signed"),
        (
            {"key": key("thief").public.text, "fingerprint": key("thief").public.fingerprint},
            "another request of web-01 than the device has signed",
        ),
    ],
)
def test_a_request_that_the_device_did_not_sign_is_not_signed_either(
    served: Commands, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], why: str
) -> None:
    """A coordinator that shows another key, id or tags than the device asked with gets no signature."""
    served.ask("web-01")
    honest = Client.enroll_requests

    async def hostile(self: Client) -> tuple[EnrollView, ...]:
        return tuple(msgspec.structs.replace(one, **changed) for one in await honest(self))

    monkeypatch.setattr(Client, "enroll_requests", hostile)
    for argv in (["--yes"], ["--key", key("web-01").public.fingerprint]):
        assert why in served("enroll", "web-01", *argv, code=4).complaint
    assert 1 == entries(served)


def test_a_token_is_alone_on_standard_output(served: Commands) -> None:
    """What goes into a file is the token; that only this machine can join is said beside it."""
    done = served("enroll", "token", "--tag", "env=prod", "--uses", "2", "--days", "1")
    assert 1 == len(done.out.split())
    assert "only this machine can join" in done.err
    quiet = served("enroll", "token", "--quiet", "--json")
    assert (["token", "waits"], "", "") == (list(quiet.json), quiet.json["waits"], quiet.err)
    assert "range" in served("enroll", "token", "--days", "367", code=2).complaint
    assert "no tag" in served("enroll", "token", "--tag", "prod", code=2).complaint


def test_acts_on_devices_that_would_change_nothing_are_not_signed(served: Commands) -> None:
    """Tags that are there already, or are not there to be taken away, and the end of no hold: wrong usage."""
    served.enroll("web-01")
    before = entries(served)
    for argv in (["tag", "web-01", "env=prod"], ["tag", "web-01", "site-"], ["hold", "web-01", "--end"]):
        assert "nothing is signed" in served("device", *argv, code=2).complaint
    assert before == entries(served)


@pytest.mark.parametrize("name", ["web-09", "x" * 1_500, "../etc", ""])
def test_a_device_that_is_not_there_is_said(served: Commands, name: str) -> None:
    """With the way on, whatever was typed as its name."""
    for verb in ("show", "logs", "history", "retire"):
        complaint = served("device", verb, name, "--yes", code=2).complaint
        assert complaint.startswith("nixfleet: there is no device ")
        assert complaint.endswith("'nixfleet device list' shows them all")


def test_devices_are_listed_tagged_held_and_retired(served: Commands) -> None:
    """Every act is in the log and seen at once; `--json` gives records."""
    served.enroll("web-01", "web-02")
    assert ["web-01", "web-02"] == [one["name"] for one in served("device", "list", "--json").json["devices"]]
    table = served("device", "list", "tag.env:prod").out.splitlines()
    assert (["NAME", "STATE", "SYSTEM", "SEEN", "TAGS", "WHY"], 3) == (table[0].split(), len(table))
    served("device", "tag", "web-01", "site=oslo", "env-", "-m", "OPS-1")
    assert {"site": "oslo"} == served("device", "show", "web-01", "--json").json["tags"]
    assert ["web-01"] == [one["name"] for one in served("device", "list", "tag.site:oslo", "--json").json["devices"]]
    assert "OPS-1" == served("audit", "list", "--limit", "1", "--json").json["entries"][0]["note"]
    held = served("device", "hold", "web-01", "--until", "2099-01-31T18:00+00:00", "--json").json
    assert 4_073_565_600 == held["held_until"]
    assert "held" == served("device", "show", "web-01", "--json").json["state"]
    served("device", "hold", "web-01", "--end")
    assert "active" == served("device", "show", "web-01", "--json").json["state"]
    for until in ("soon", "2001-01-01", "0001-01-01"):
        assert 2 == served("device", "hold", "web-01", "--until", until, code=2).code
    assert "--until DATE" in served("device", "hold", "web-01", code=2).complaint
    assert "add --yes" in served("device", "retire", "web-02", code=2).err
    served("device", "retire", "web-02", "--yes")
    assert "retired" == served("device", "show", device_id("web-02"), "--json").json["state"]
    assert "no device" in served("device", "retire", "web-02", "--yes", code=2).complaint
    for argv in (["show", "nas"], ["logs", "nas"], ["history", "nas"], ["tag", "nas", "a=b"]):
        assert "nas" in served("device", *argv, code=2).complaint
    assert {"next": 0, "lines": []} == served("device", "logs", "web-01", "--json").json
    assert {"attempts": []} == served("device", "history", "web-01", "--json").json
    assert "tags      site=oslo" in served("device", "show", "web-01").out


def test_the_state_that_is_shown_is_the_one_that_is_asked_for(served: Commands) -> None:
    """STATE is the query's word; a query that cannot be read names its word, and the fields."""
    served.enroll("web-01")
    (line,) = served("device", "list").out.splitlines()[1:]
    assert ["web-01", "new"] == line.split()[:2]
    assert [line] == served("device", "list", "status:new").out.splitlines()[1:]
    unknown = served("device", "list", "web", "stat:new", code=2).complaint
    assert "no field 'stat', in 'stat'; the fields are status, name, " in unknown
    assert "'gone' is no status: " in served("device", "list", "status:gone", code=2).complaint
    assert "a value is missing here, in 'seen>'" in served("device", "list", "web seen>", code=2).complaint
    assert "tag.KEY" in served("device", "list", "--help").out


def test_what_audit_writes_is_accepted_by_ssh_keygen(served: Commands, tmp_path: Path) -> None:
    """`audit show N --out DIR` gives three files and the command line that verifies them; a changed byte fails."""
    served.enroll("web-01")
    listed = served("audit", "list", "--json").json
    assert ["root", "device"] == [entry["type"] for entry in listed["entries"]]
    assert {"valid"} == {entry["verdict"] for entry in listed["entries"]}
    for index in range(2):
        folder = tmp_path / f"entry-{index}"
        done = served("audit", "show", str(index), "--out", str(folder))
        line = done.err.strip().partition(": ")[2]
        assert line.startswith("ssh-keygen -Y verify")
        subprocess.run(["bash", "-ec", line], cwd=folder, check=True, capture_output=True, timeout=10)
        (folder / "payload.json").write_bytes((folder / "payload.json").read_bytes() + b" ")
        spoiled = subprocess.run(["bash", "-ec", line], cwd=folder, check=False, capture_output=True, timeout=10)
        assert 0 != spoiled.returncode
    whole = served("audit", "show", "1", "--json").json
    assert {"entry", "payload", "signature"} == set(whole)
    assert "web-01" == json.loads(whole["payload"])["name"]
    assert "the newest is number 1" in served("audit", "show", "2", code=2).complaint
    assert "2 entries" in served("audit", "verify").out
    verified = served("audit", "verify", "--json").json
    assert {"size": 2, "fleet": served.fleet, "first_void": None}.items() <= verified.items()


def test_another_admin_gets_to_know_the_fleet(served: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """`context add` verifies the whole log before it writes anything; the id is compared."""
    fleet, url = served.fleet, served.url
    served.enroll("web-01")
    monkeypatch.setenv("NIXFLEET_HOME", str(served.home.with_name("second")))
    assert "no fleet is known here" in served("device", "list", code=2).complaint
    assert "another fleet" in served("context", "add", url, "--fleet", "a" * 64, code=2).complaint
    assert "no fleet id" in served("context", "add", url, "--fleet", "abc", code=2).complaint
    assert "add --yes" in served("context", "add", url, code=2).err
    assert not served.home.with_name("second").exists()
    added = served("context", "add", url, "--fleet", fleet, "--name", "prod", "--json").json
    assert ("prod", fleet, 2) == (added["name"], added["fleet"], added["log_size"])
    assert ["web-01"] == [one["name"] for one in served("device", "list", "--json").json["devices"]]


def test_what_was_kept_out_of_the_log_can_be_read(served: Commands) -> None:
    """`audit list --refused` shows the journal: when, whose, what and why."""
    assert "nothing was refused" in served("audit", "list", "--refused").err
    with contextlib.closing(sqlite3.connect(served.data / "fleet.db")) as database, database:
        row = (int(time.time()), "SHA256:someone", "nixfleet-device-v1@0", "0" * 64, "the name web-01 is taken")
        database.execute("INSERT INTO refusals (at, by, namespace, sha256, reason) VALUES (?, ?, ?, ?, ?)", row)
    (line,) = served("audit", "list", "--refused").out.splitlines()[1:]
    assert line.endswith("SHA256:someone  append a statement: device  the name web-01 is taken")
    (refusal,) = served("audit", "list", "--refused", "--json").json["refusals"]
    assert ("SHA256:someone", "the name web-01 is taken") == (refusal["by"], refusal["reason"])


def test_a_key_without_rights_is_refused(served: Commands, tmp_path: Path) -> None:
    """Who is nobody in the log may neither read nor sign: exit code 3, and nothing is appended."""
    stranger = make_key(tmp_path / "stranger")
    for argv in (["device", "list"], ["enroll", "token"], ["audit", "verify"]):
        done = served("--key", str(stranger.with_suffix("")), *argv, code=3)
        assert "nixfleet: " in done.complaint
    assert 1 == entries(served)


def test_doctor_says_what_is_wrong_and_the_fix(nixfleet: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check is one line; the exit code is that of the first thing that is wrong."""
    assert "nixfleet init" in nixfleet("doctor", code=2).out
    nixfleet.init()
    assert "is the coordinator running" in nixfleet("doctor", code=5).out
    server = nixfleet.server()
    server.start()
    try:
        checks = {each["check"]: each["verdict"] for each in nixfleet("doctor", "--json").json["checks"]}
        healthy = dict.fromkeys(("settings", "key", "coordinator", "clock", "log", "rights"), "ok")
        assert healthy.items() <= checks.items()
        assert ("warning", "warning") == (checks["address"], checks["root"])
        assert "1 root key: if it is lost" in nixfleet("doctor").out
        monkeypatch.delenv("SSH_AUTH_SOCK")
        assert "run ssh-add" in nixfleet("doctor", code=2).out
        monkeypatch.setenv("PATH", str(nixfleet.home))
        assert "warning nix" in nixfleet("doctor", code=2).out
    finally:
        server.stop()


def test_a_damaged_copy_of_the_log_is_named(served: Commands) -> None:
    """What this machine holds is verified at every start; the way out is said, and works."""
    served("audit", "list")
    folder = served.home / "state" / "mirrors" / served.fleet
    leaves = folder / "leaves"
    data = bytearray(leaves.read_bytes())
    data[40] ^= 1
    leaves.write_bytes(data)
    assert "move the folder away" in served("audit", "list", code=4).complaint
    shutil.rmtree(folder)
    assert 1 == entries(served)
