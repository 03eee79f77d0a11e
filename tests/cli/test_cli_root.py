"""`nixfleet access root`: what is shown, proposed and co-signed by different people over time, and what is refused."""

import asyncio
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.cli.commandline import Commands
from tests.factories import key
from tests.sshagent import make_key

from nixfleet.cli.main import main
from nixfleet.client import roots
from nixfleet.client.api import Client
from nixfleet.model.answers import Reports
from nixfleet.model.device import Outcome
from nixfleet.trust.sshsig import parse_public_key


@pytest.fixture
def bob(tmp_path: Path) -> Path:
    """Give another person's private key file, with the public one beside it."""
    return make_key(tmp_path / "bob").with_suffix("")


def public(private: Path) -> str:
    """Give the path of its public key."""
    return str(private.with_suffix(".pub"))


def fingerprint(private: Path) -> str:
    """Give its fingerprint."""
    return parse_public_key(private.with_suffix(".pub").read_text()).fingerprint


def me(nixfleet: Commands) -> str:
    """Give the name of the first principal."""
    return str(nixfleet("access", "root", "show", "--json").json["root"]["principals"][0]["name"])


def test_a_second_principal_signs_later(served: Commands, bob: Path) -> None:
    """A version waits in the log until the new principal has signed it with their own key; then its rules bind."""
    first = served("access", "root", "show")
    assert ("threshold  1 of 1" in first.out, "! 1 root key" in first.err) == (True, True)
    change = ("--add-principal", f"bob={public(bob)}", "--threshold", "2", "--rule", "env=prod: deploy approvals=1")
    dry = served("access", "root", "update", *change, "--dry-run")
    assert f"  + principal bob {fingerprint(bob)}\n" in dry.out
    assert "  + rule env=prod: deploy approvals=1\n" in dry.out
    done = served("access", "root", "update", *change, "-m", "TICKET-1", "--yes", "--json").json
    name = me(served)
    assert (2, "1 more of bob for the new one") == (done["version"], done["waits"])
    shown = served("access", "root", "show")
    assert f"signed by {name}; waits for 1 more of bob for the new one" in shown.out
    assert ("note: TICKET-1" in shown.out, f"root 2 ({done['digest'][:12]}" in shown.out) == (True, True)
    again = served("access", "root", "sign", "--yes", code=3)
    assert f"{name} has signed it already; it waits for 1 more of bob" in again.err
    signed = served("--key", str(bob), "access", "root", "sign", done["digest"][:8], "--yes")
    assert "root 2 is in force" in signed.err
    record = served("access", "root", "show", "--json").json
    assert (2, 2, []) == (record["root"]["version"], record["root"]["threshold"], record["waiting"])
    assert "no root version waits" in served("access", "root", "sign", code=2).complaint


def test_of_two_versions_that_wait_one_comes_in_force(served: Commands, bob: Path) -> None:
    """The second proposal is warned of the first; once one is signed, the other is shown as what can never be."""
    served("access", "root", "update", "--add-principal", f"bob={public(bob)}", "--threshold", "2", "--yes")
    served("--key", str(bob), "access", "root", "sign", "--yes")
    first = served("access", "root", "update", "--url", "http://a", "--yes", "--json").json["digest"]
    second = served("--key", str(bob), "access", "root", "update", "--url", "http://b", "--yes")
    assert f"! root 3 ({first[:12]}) waits for signatures already; only one can come in force" in second.err
    assert "2 root versions wait for signatures; say which" in served("access", "root", "sign", code=2).complaint
    served("--key", str(bob), "access", "root", "sign", first, "--yes")
    shown = served("access", "root", "show")
    assert "root 3 is superseded: root 3 is in force; it can never take effect" in shown.out
    (late,) = served("access", "root", "show", "--json").json["waiting"]
    refused = served("access", "root", "sign", late["digest"], "--yes", code=3)
    assert "is superseded: root 3 is in force; propose it anew with 'nixfleet access root update'" in refused.err


def test_a_rule_that_nobody_can_meet_is_warned_of(served: Commands, bob: Path) -> None:
    """Nine approvals and no approver: said before the signature, with the root, and by doctor; and not of others."""
    add = ("--add-principal", f"bob={bob}.pub", "--threshold", "2")
    rule = ("--rule", "env=prod: deploy approvals=9", "--rule", "env=test: deploy note")
    said = served("access", "root", "update", *add, *rule, "--yes")
    words = "rule env=prod: deploy approvals=9: nothing under it can take effect: 9 approvals asked for, and nobody may"
    assert 1 == said.err.count("nothing under it")
    assert f"! {words}" in said.err
    served("--key", str(bob), "access", "root", "sign", "--yes")
    assert f"! {words}" in served("access", "root", "show").err
    (warning,) = (one for one in served("access", "root", "show", "--json").json["warnings"] if "rule" in one)
    assert warning.startswith(words)
    checks = served("doctor", "--json").json["checks"]
    assert any(one["verdict"] == "warning" and one["text"].startswith(words) for one in checks)


def test_who_is_no_principal_proposes_and_signs_nothing(served: Commands, bob: Path, tmp_path: Path) -> None:
    """A key of neither version is refused before anything is asked of the coordinator; the log has nothing of it."""
    eve = make_key(tmp_path / "eve").with_suffix("")
    served("access", "root", "update", "--add-principal", f"bob={public(bob)}", "--threshold", "2", "--yes")
    refused = served("--key", str(eve), "access", "root", "sign", "--yes", code=3)
    assert "names the key" in refused.complaint
    update = served("--key", str(bob), "access", "root", "update", "--threshold", "1", "--yes", code=3)
    assert "only a root principal proposes a new root" in update.complaint


def test_without_a_terminal_nothing_is_signed_unasked(served: Commands, bob: Path) -> None:
    """Neither `update` nor `sign` signs when there is nobody to ask."""
    argv = ("access", "root", "update", "--add-key")
    assert "add --yes" in served(*argv, f"{me(served)}={public(bob)}", code=2).err
    assert 1 == served("access", "root", "show", "--json").json["root"]["version"]
    for command in (("access", "root", "sign"), ("approve", "1")):
        assert "carries no note of its own: leave -m out" in served(*command, "-m", "T-1", code=2).err


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("--add-principal", "bob"), "'bob' is not NAME=KEY"),
        (("--add-principal", "Bob=ssh-ed25519 AAAA"), "not a usable public key"),
        (("--add-key", "bob=/nonexistent"), "cannot read the key file"),
        (("--add-key", "bob=SHA256:abc"), "is a fingerprint; a key that is to be signed is needed whole"),
        (("--remove-key", "bob"), "'bob' is no fingerprint"),
        (("--url", "ftp://x"), "no coordinator's address"),
        (("--cache", "https://c"), "no URL=KEY of a cache"),
        (("--rule", "prod"), "is no rule"),
        (("--protocol", "2"), "this nixfleet follows protocol 1"),
        ((), "nothing would change"),
    ],
)
def test_a_wrong_wish_is_one_line(served: Commands, argv: tuple[str, ...], why: str) -> None:
    """Each option says how it is written."""
    assert why in served("access", "root", "update", *argv, "--yes", code=2).complaint


def test_a_cache_comes_and_goes(served: Commands) -> None:
    """A cache is named with its key, whatever its address contains, and taken away by its address."""
    url = "https://cache.example.org/x=y"
    served("access", "root", "update", "--cache", f"{url}=name-1:{'A' * 43}=", "--yes")
    assert f"{url} name-1:{'A' * 43}=" in served("access", "root", "show").out
    served("access", "root", "update", "--remove-cache", url, "--yes")
    assert url not in served("access", "root", "show").out


def test_an_address_stays_until_all_devices_know_the_new_one(served: Commands) -> None:
    """A changed address warns to keep the old one, and `root show` names the devices that have not replayed it."""
    served.enroll("web-01", "web-02")
    done = served("access", "root", "update", "--url", "http://new.example.org", "--url", served.url, "--yes")
    assert "keep" not in done.err
    shown = served("access", "root", "show", "--json").json
    assert ["web-01", "web-02"] == shown["behind"]
    moved = served("access", "root", "update", "--url", "http://new.example.org", "--yes")
    assert "2 devices do not know root 2 yet: web-01, web-02" in moved.err
    assert f"keep {served.url} serving until" in moved.err


def test_a_protocol_is_raised_when_each_device_says_so_itself(
    served: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device below, or one that has not reported, is named and nothing is signed; what it signs counts, no view."""
    for module in ("client.roots", "client.following", "trust.replay.rules", "server.coordinator.admission"):
        monkeypatch.setattr(f"nixfleet.{module}.PROTOCOL", 2)
    served.enroll("web-01", "web-02", "web-03")
    served("device", "retire", "web-03", "--yes")
    raising = ("access", "root", "update", "--protocol", "2", "--yes")
    silent = served(*raising, code=3).err
    assert "2 devices cannot follow protocol 2 yet: web-01 (has not reported yet), web-02 (has not" in silent
    rollout = "0" * 64
    served.report("web-01", rollout, Outcome.CONFIRMED, protocol=2)
    served.report("web-02", rollout, Outcome.CONFIRMED, protocol=1)
    assert "1 device cannot follow protocol 2 yet: web-02 (protocol 1)" in served(*raising, code=3).err
    served.report("web-02", rollout, Outcome.CONFIRMED, protocol=2)
    honest = Client.device_reports

    async def swapped(client: Client, after: str = "") -> Reports:
        one, other = (await honest(client, after)).reports
        return Reports(reports=(replace(one, report=other.report), replace(other, report=one.report)))

    monkeypatch.setattr(Client, "device_reports", swapped)
    assert "its report does not hold" in served(*raising, code=3).err
    monkeypatch.setattr(Client, "device_reports", honest)
    assert "root 2 is in force" in served(*raising).err
    assert 2 == served("access", "root", "show", "--json").json["root"]["protocol"]


def test_who_cosigns_a_higher_protocol_asks_the_devices_again(
    served: Commands, bob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that is there since, and below, keeps it from completing; so does a co-signer's own old software."""
    served("access", "root", "update", "--add-principal", f"bob={public(bob)}", "--threshold", "2", "--yes")
    as_bob = ("--key", str(bob))
    served(*as_bob, "access", "root", "sign", "--yes")
    with monkeypatch.context() as newer:
        for module in ("client.roots", "client.following", "trust.replay.rules", "server.coordinator.admission"):
            newer.setattr(f"nixfleet.{module}.PROTOCOL", 2)
        done = served("access", "root", "update", "--protocol", "2", "--yes", "--json").json
        served.ask("web-01")
        served("enroll", "web-01", "--key", key("web-01").public.fingerprint, "--yes")
        served(*as_bob, "approve", str(int(done["index"]) + 1), "--yes")
        for command in (("access", "root", "sign"), ("approve", done["digest"])):
            refused = served(*as_bob, *command, "--yes", code=3).err
            assert "1 device cannot follow protocol 2 yet: web-01 (has not reported yet)" in refused
        served.report("web-01", "0" * 64, Outcome.CONFIRMED, protocol=2)
        newer.setattr("nixfleet.client.following.PROTOCOL", 1)
        assert "follows protocol 1, not 2" in served(*as_bob, "access", "root", "sign", "--yes", code=2).err
        newer.setattr("nixfleet.client.following.PROTOCOL", 2)
        assert "root 3 is in force" in served(*as_bob, "access", "root", "sign", "--yes").err


def test_software_that_is_too_old_says_so_and_signs_nothing(served: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the protocol is above what this machine follows, each command says that it shows an old state of things."""
    with monkeypatch.context() as newer:
        for module in ("client.roots", "client.following", "trust.replay.rules", "server.coordinator.admission"):
            newer.setattr(f"nixfleet.{module}.PROTOCOL", 2)
        served("access", "root", "update", "--protocol", "2", "--yes")
    shutil.rmtree(served.home / "state" / "mirrors")
    too_old = "this nixfleet follows protocol 1, and the fleet's root says 2: update it"
    assert f"! {too_old}; what came later is not judged here" in served("audit", "list").err
    assert too_old in served("enroll", "token", "--yes", code=2).err


def test_a_coordinator_takes_no_root_that_it_could_not_serve(served: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A protocol above its own, or a log key that it does not hold, is turned away and leaves the log as it was."""
    with monkeypatch.context() as newer:
        for module in ("client.roots", "client.following"):
            newer.setattr(f"nixfleet.{module}.PROTOCOL", 2)
        raised = served("access", "root", "update", "--protocol", "2", "--yes", code=3)
    assert "this coordinator follows protocol 1, not 2: update it first" in raised.err
    changed = served("access", "root", "update", "--log-key", key("stolen").public.text, "--yes", code=3)
    assert "a log key that this coordinator does not hold" in changed.err
    assert 1 == served("audit", "list", "--json").json["size"]


def test_the_log_changes_its_key_between_two_checkpoints(nixfleet: Commands) -> None:
    """A coordinator that holds the next key signs with it once the root names it, and goes on with it alone."""
    nixfleet.init()
    following = make_key(nixfleet.data / "log-next.key")
    with nixfleet.serving():
        before = nixfleet("access", "root", "show", "--json").json["root"]["log_key"]
        done = nixfleet("access", "root", "update", "--log-key", str(following), "--yes")
        assert f"~ log key {before} → {parse_public_key(following.read_text()).fingerprint}" in done.out
        assert "root 2 is in force" in done.err
        nixfleet("enroll", "token", "--yes")
    (nixfleet.data / "log-next.key").replace(nixfleet.data / "log.key")
    with nixfleet.serving():
        nixfleet("enroll", "token", "--yes")
        assert "the log verifies" in nixfleet("audit", "verify").out


def test_a_version_that_was_overtaken_is_shown_anew(
    served: Commands, bob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes in force between the preview and the signature stops the signing: it was not what was shown."""
    honest = roots.propose

    async def slow(*args: object, **named: object) -> object:
        monkeypatch.setattr(roots, "propose", honest)
        await asyncio.to_thread(_update, served, "http://b")
        return await honest(*args, **named)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(roots, "propose", slow)
    late = served("access", "root", "update", "--add-key", f"{me(served)}={public(bob)}", "--yes", code=1)
    assert "root 2 came in force meanwhile" in late.err


def _update(nixfleet: Commands, url: str) -> None:
    assert not main(["access", "root", "update", "--url", url, "--url", nixfleet.url, "--yes"])
