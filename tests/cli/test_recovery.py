"""docs/recovery.md: each procedure's commands, word for word, on a real coordinator; and what they came to."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.commandline import Commands, Done, free_port, now
from tests.factories import closure
from tests.sshagent import make_key

from nixfleet.client.admin import Admin
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.client.session import SessionKeeper
from nixfleet.model.device import Outcome
from nixfleet.server.coordinator import restoring
from nixfleet.server.serve import Server
from nixfleet.server.settings import ServerSettings
from nixfleet.trust.signers import KeygenSigner
from nixfleet.trust.sshsig import parse_public_key

DOCUMENT = Path(__file__).parents[2] / "docs" / "recovery.md"


def commands(number: int, prompt: str = "$") -> list[str]:
    """Give a section's commands on an admin's machine, in order; with the prompt ``#`` those on a device."""
    section = re.split(r"^## ", DOCUMENT.read_text(), flags=re.MULTILINE)[number]
    assert section.startswith(f"{number}. ")
    return re.findall(rf"^{re.escape(prompt)} nixfleet (.*)$", section, flags=re.MULTILINE)


class Person:
    """Somebody with key files, who types the document's commands with words of their own for those in capitals."""

    def __init__(self, nixfleet: Commands, folder: Path, *names: str) -> None:
        self.nixfleet = nixfleet
        self.keys = {name: make_key(folder / name.lower()).with_suffix("") for name in names}
        self.words = {name: str(path) for name, path in self.keys.items()}

    def fingerprint(self, name: str) -> str:
        """Give a key's fingerprint."""
        return parse_public_key(self.keys[name].with_suffix(".pub").read_text()).fingerprint

    def __call__(self, line: str, code: int = 0) -> Done:
        """Run a command of the document; its questions are answered with yes."""
        words = {**self.words, **{f"SHA256:{name}": self.fingerprint(name) for name in self.keys}}
        known = re.compile("|".join(sorted(map(re.escape, words), key=len, reverse=True)))
        argv = [known.sub(lambda found: words[found[0]], word) for word in shlex.split(line)]
        return self.nixfleet(*argv, "--yes", code=code)

    def as_(self, name: str, *argv: str, code: int = 0) -> Done:
        """Run any command with a key."""
        return self.nixfleet("--key", str(self.keys[name]), *argv, code=code)

    def release(self, by: str, name: str, device: str) -> None:
        """Publish a made-up release with a key."""

        async def act(client: Client) -> None:
            signer, home = KeygenSigner(self.keys[by]), self.nixfleet.home
            mirror = Mirror.open(home / f"mirror-{by}", self.nixfleet.fleet)
            file = home / f"{by}.session"
            await SessionKeeper(signer, fleet=self.nixfleet.fleet, file=file, clock=now).attach(client)
            await Admin(client, mirror, signer, now).release(name, devices={device: closure(name)})

        self.nixfleet.on_wire(act)


def join(folder: Path, token: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Join a fleet on a device whose state is in a folder, as root there would."""
    (folder / "token").write_text(token)
    (folder / "agent.toml").write_text(f'name = "web-09"\nvolatile_state = true\nstate_dir = "{folder}/state"\n')
    argv = ["agent", "join", str(folder / "token"), *options, "--config", str(folder / "agent.toml")]
    return subprocess.run(
        [sys.executable, "-m", "nixfleet", *argv], capture_output=True, text=True, timeout=60, check=False
    )


def founded(nixfleet: Commands, folder: Path, first: str, *names: str) -> Person:
    """Begin a fleet whose person has the first key and SECOND at the root."""
    person = Person(nixfleet, folder, first, "SECOND", "NEW", *names)
    second = str(person.keys["SECOND"].with_suffix(".pub"))
    nixfleet("init", "acme", "--url", nixfleet.url, "--key", str(person.keys[first]), "--second-key", second)
    person.words |= {"URL": nixfleet.url, "FLEET": nixfleet.fleet}
    return person


def root(nixfleet: Commands, by: str) -> dict[str, list[str]]:
    """Give the root's keys by principal, as somebody sees them."""
    shown = nixfleet("--key", by, "access", "root", "show", "--json").json["root"]
    return {one["name"]: one["keys"] for one in shown["principals"]}


def test_1_one_of_two_root_keys_is_lost(nixfleet: Commands, tmp_path: Path) -> None:
    """The other key replaces it; the lost one can do nothing more, and the context names the new one."""
    person = founded(nixfleet, tmp_path, "LOST")
    with nixfleet.serving():
        (name,) = root(nixfleet, str(person.keys["SECOND"]))
        person.words["ALICE"] = name
        for line in commands(1):
            person(line)
        assert {name: [person.fingerprint("SECOND"), person.fingerprint("NEW")]} == root(
            nixfleet, str(person.keys["SECOND"])
        )
        assert str(person.keys["NEW"]) == nixfleet("context", "show", "--json").json["key"]
        assert nixfleet("enroll", "token", "--yes").out
        person.as_("LOST", "enroll", "token", "--yes", code=3)


def test_2_a_root_key_was_stolen(nixfleet: Commands, tmp_path: Path) -> None:
    """What the thief did is all in the audit; what had not happened never will, and what stays is as the table says."""
    person = founded(nixfleet, tmp_path, "STOLEN", "EVE", "OPS")
    with nixfleet.serving():
        nixfleet.enroll_as(str(person.keys["STOLEN"]), "web-01", "mole")
        (name,) = root(nixfleet, str(person.keys["SECOND"]))
        person.words["ALICE"] = name
        eve = str(person.keys["EVE"].with_suffix(".pub"))
        person.as_("STOLEN", "access", "grant", "eve", "--to", eve, "--action", "deploy", "--yes")
        person.release("STOLEN", "evil", "web-01")
        rollout = person.as_("STOLEN", "rollout", "start", "evil", "--yes").out.strip()
        nixfleet.report("mole", rollout, Outcome.CONFIRMED)
        before = person.as_("SECOND", "audit", "list", "--json").json["entries"]
        dry, *rest = commands(2)
        shown = person(dry)
        stops = shown.out + shown.err
        assert ("eve" in stops, "evil" in stops) == (True, True)
        assert len(before) == person.as_("SECOND", "audit", "list", "--json").json["size"]
        revoke, update, audit, listing = rest
        person(revoke)
        person.as_("STOLEN", "device", "list", code=3)
        person.as_("EVE", "rollout", "start", "evil", "--yes", code=3)
        assert "root 2 is in force" in person(update).err
        said = person(audit).out
        stolen = [entry for entry in before if entry["by"] == person.fingerprint("STOLEN")]
        assert len(stolen) == len(said.splitlines()) - 1
        assert all(entry["what"] in said for entry in stolen)
        assert "was issued by a key that is revoked" in person(listing).out
        question = ("--key", person.fingerprint("STOLEN"), "--action", "deploy", "--device", "web-01")
        assert "revoked" in person.as_("SECOND", "access", "explain", *question, code=3).out
        assert "mole" in person.as_("SECOND", "device", "list").out
        person.as_("SECOND", "device", "retire", "mole", "--yes")
        assert person.as_("NEW", "enroll", "token", "--yes").out


def test_a_stolen_key_alone_is_worth_nothing_where_two_must_sign(nixfleet: Commands, tmp_path: Path) -> None:
    """With two principals and a threshold of 2 what a thief signs waits, and takes no effect."""
    person = founded(nixfleet, tmp_path, "STOLEN", "BOB")
    with nixfleet.serving():
        bob = str(person.keys["BOB"].with_suffix(".pub"))
        argv = ("access", "root", "update", "--add-principal", f"bob={bob}", "--threshold", "2", "--yes")
        person.as_("SECOND", *argv)
        person.as_("BOB", "access", "root", "sign", "--yes")
        theirs = ("access", "root", "update", "--remove-principal", "bob", "--threshold", "1", "--yes")
        assert "waits for 1 more of bob" in person.as_("STOLEN", *theirs).err
        revoking = ("access", "revoke", person.fingerprint("BOB"), "--yes")
        assert "too few root keys would be left" in person.as_("STOLEN", *revoking, code=3).err
        assert {"bob"} < root(nixfleet, str(person.keys["BOB"])).keys()


def test_3_a_principal_is_gone(nixfleet: Commands, tmp_path: Path) -> None:
    """The others put somebody else in their place, each with their own key, at their own time."""
    person = Person(nixfleet, tmp_path, "ALICE", "BOB", "CAROL", "NEW")
    nixfleet("init", "acme", "--url", nixfleet.url, "--key", str(person.keys["ALICE"]))
    with nixfleet.serving():
        public = {name: str(path.with_suffix(".pub")) for name, path in person.keys.items()}
        adding = [f"--add-principal={name.lower()}={public[name]}" for name in ("BOB", "CAROL")]
        person.as_("ALICE", "access", "root", "update", *adding, "--threshold", "2", "--yes")
        person.as_("BOB", "access", "root", "sign", "--yes")
        lines = [
            line.replace("--remove-principal CAROL", "--remove-principal carol").replace("DAVE=", "dave=")
            for line in commands(3)
        ]
        propose, show, sign, last = lines
        assert "waits for 1 more of bob, carol for the root in force" in person(propose).err
        assert "- principal carol" in person(show).out
        assert "root 3 is in force" in person(sign).err
        assert {"bob", "dave"} < root(nixfleet, str(person.keys["BOB"])).keys()
        assert "no root version waits" in person(last, code=2).err
        person.as_("CAROL", "device", "list", code=3)


def test_4_the_last_root_key_is_lost(nixfleet: Commands, tmp_path: Path) -> None:
    """Grants work until they end, the root does nothing more, and a new fleet beside it gives out tokens."""
    person = Person(nixfleet, tmp_path, "ROOT", "OPS", "SECOND")
    nixfleet("init", "acme", "--url", nixfleet.url, "--key", str(person.keys["ROOT"]))
    with nixfleet.serving():
        nixfleet.enroll_as(str(person.keys["ROOT"]), "web-01")
        ops = str(person.keys["OPS"].with_suffix(".pub"))
        may = ("--action", "deploy", "--action", "release")
        person.as_("ROOT", "access", "grant", "ops", "--to", ops, *may, "--yes")
        old = person.as_("ROOT", "enroll", "token", "--yes").out
        person.keys["ROOT"].unlink()
        person.release("OPS", "v1", "web-01")
        assert person.as_("OPS", "rollout", "start", "v1", "--yes").out.strip()
        assert (
            "only a root principal"
            in person.as_("OPS", "access", "root", "update", "--threshold", "1", "--yes", code=3).err
        )
        person.as_("OPS", "enroll", "token", "--yes", code=3)
        person.words |= {"NEXT": "next", "URL2": f"http://127.0.0.1:{free_port()}"}
        nixfleet.monkeypatch.setenv("SSH_AUTH_SOCK", str(nixfleet.agent.sock))
        begin, token = commands(4)
        assert "its second root key is" in person(begin).err
        data = nixfleet.data.with_name("next")
        server = Server(ServerSettings(data_dir=data, listen=person.words["URL2"].removeprefix("http://")))
        server.start()
        try:
            made = person(token).out
            assert 0 == join(tmp_path, old).returncode
            # On the device the line reads the same; a file with the token keeps it from other eyes.
            (line,) = commands(4, prompt="#")
            assert "agent join TOKEN --replace" == line
            said = join(tmp_path, made, "--replace")
            assert ("joined as web-09", 0) == (said.stdout.partition(",")[0], said.returncode)
            listed = nixfleet("--context", "next", "device", "list", "--json").json["devices"]
            assert ["web-09"] == [one["name"] for one in listed]
        finally:
            server.stop()


def test_5_the_coordinator_moves(nixfleet: Commands) -> None:
    """The new address is signed first; commands find the coordinator there though their context names the old one."""
    person = Person(nixfleet, nixfleet.home.parent)
    nixfleet.init()
    person.words |= {"URL2": f"http://127.0.0.1:{free_port()}", "URL": nixfleet.url}
    say, show, leave = commands(5)
    with nixfleet.serving():
        nixfleet.enroll("web-01")
        assert "root 2 is in force" in person(say).err
        assert "1 device has not replayed this root yet: web-01" in person(show).out
    server = Server(ServerSettings(data_dir=nixfleet.data, listen=person.words["URL2"].removeprefix("http://")))
    server.start()
    try:
        assert "root 3 is in force" in person(leave).err
        shown = nixfleet("access", "root", "show", "--json").json["root"]
        assert [person.words["URL2"]] == shown["urls"]
    finally:
        server.stop()


def test_6_the_log_key_was_stolen(nixfleet: Commands) -> None:
    """A key made beside the old one signs the log once the root names it, and the whole log verifies."""
    person = Person(nixfleet, nixfleet.home.parent)
    nixfleet.init()
    person.words["LOG.pub"] = str(make_key(nixfleet.data / "log-next.key"))
    name_it, verify = commands(6)
    with nixfleet.serving():
        assert "~ log key" in person(name_it).out
        # This machine's copy has seen the change; a fresh one replays it.
        assert "the log verifies: 2 entries" in nixfleet(*shlex.split(verify)).out
    (nixfleet.data / "log-next.key").replace(nixfleet.data / "log.key")
    with nixfleet.serving():
        assert nixfleet("enroll", "token", "--yes").out


def test_7_the_coordinator_is_lost_and_several_must_sign(
    nixfleet: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proposal goes from hand to hand in a file, and who made it makes the folder; the log goes on from there."""
    monkeypatch.setattr(restoring, "QUIET_S", 0)
    person = Person(nixfleet, tmp_path, "ALICE", "BOB")
    nixfleet("init", "acme", "--url", nixfleet.url, "--key", str(person.keys["ALICE"]))
    bob = str(person.keys["BOB"].with_suffix(".pub"))
    with nixfleet.serving():
        person.as_("ALICE", "access", "root", "update", f"--add-principal=bob={bob}", "--threshold", "2", "--yes")
        person.as_("BOB", "access", "root", "sign", "--yes")
        person.as_("ALICE", "log", "mirror")
    nixfleet.data.rename(tmp_path / "burnt")
    person.words["next.json"] = str(tmp_path / "next.json")
    propose, sign, finish = commands(7)
    assert "waits for 1 more of bob for the root in force" in person(f"{propose} --timeout 1").err
    assert "has all signatures" in person(sign).err
    assert "a new log key and a new cache key" in person(f"{finish} --timeout 1").err
    with nixfleet.serving():
        shown = person.as_("BOB", "access", "root", "show", "--json").json["root"]
        assert (3, 2, 1) == (shown["version"], shown["threshold"], shown["epoch"])
        assert "the log verifies: 5 entries" in person.as_("BOB", "audit", "verify").out
