"""Letting devices in on the command line: by what ssh knows, by a list, under another name, with another key."""

import subprocess
from pathlib import Path

import pytest
from tests.cli.commandline import Commands, now
from tests.factories import device_id, fingerprint, key

from nixfleet.client.bulk import BULK_FROM
from nixfleet.model.device import CLONE, EnrollRequest, Facts
from nixfleet.trust import token as tokens
from nixfleet.trust.reports import sign_enroll
from nixfleet.trust.sshsig import parse_public_key

MANY = BULK_FROM + 2


def entries(nixfleet: Commands) -> list[str]:
    """List what the log says, oldest first: type and what."""
    listed = nixfleet("audit", "list", "--limit", "1000", "--json").json["entries"]
    return [f"{one['type']} {one['what']}" for one in sorted(listed, key=lambda one: one["index"])]


def known_hosts(folder: Path, *lines: str, hashed: bool = False) -> str:
    """Write a known_hosts file; give its path."""
    file = folder / "known_hosts"
    file.write_text("".join(f"{line}\n" for line in lines))
    if hashed:
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, timeout=10, capture_output=True)
    return str(file)


def line(host: str, name: str) -> str:
    """Write the line of a host with the key of this name."""
    return f"{host} {key(name).public.text}"


def asks_with(nixfleet: Commands, name: str, key_name: str, device: str = "") -> None:
    """Let somebody ask under a name and a device's id, with a key of another name."""
    secret = key(key_name)
    made = EnrollRequest(
        v=1,
        fleet=nixfleet.fleet,
        device=device_id(device or name),
        name=name,
        key=secret.public.text,
        at=now(),
        facts=Facts(hostname=name, model="box", addresses=("10.0.0.7",)),
    )
    nixfleet.on_wire(lambda client: client.enroll_request(sign_enroll(made, secret)))


@pytest.mark.parametrize("hashed", [False, True])
def test_a_device_is_let_in_by_the_key_that_ssh_knows(served: Commands, tmp_path: Path, hashed: bool) -> None:
    """Nobody compares by eye: the file has exactly the key that the device shows, hashed or not."""
    file = known_hosts(tmp_path, line("web-01", "old"), line("web-01", "web-01"), hashed=hashed)
    served.ask("web-01")
    done = served("enroll", "web-01", "--from-known-hosts", file, "--tag", "env=prod", "--json").json
    assert (fingerprint("web-01"), False, "") == (done["key"], done["rekeyed"], done["waits"])
    assert {"env": "prod"} == served("device", "show", "web-01", "--json").json["tags"]


def test_ssh_s_own_file_is_read_without_a_name_for_it(
    served: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ssh does; and `--host` says under which name, and port, ssh knows the device."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("nixfleet.cli.asking.SYSTEM_HOSTS", str(tmp_path / "none"))
    served.ask("web-01")
    missing = served("enroll", "web-01", "--from-known-hosts", code=2).complaint
    assert f"there is neither {tmp_path}/.ssh/known_hosts nor" in missing
    (tmp_path / ".ssh").mkdir()
    known_hosts(tmp_path / ".ssh", line("[10.0.0.7]:2222", "web-01"))
    assert "knows no host web-01: say under which name with --host" in (
        served("enroll", "web-01", "--from-known-hosts", code=2).complaint
    )
    served("enroll", "web-01", "--from-known-hosts", "--host", "10.0.0.7:2222")
    assert [device_id("web-01")] == [one["id"] for one in served("device", "list", "--json").json["devices"]]


@pytest.mark.parametrize(
    ("lines", "code", "why"),
    [
        ((line("web-01", "web-01"), f"@revoked * {key('web-01').public.text}"), 2, "only a revoked key of web-01"),
        ((line("web-01", "thief"),), 4, "it is another machine, or has a key of its own"),
        (("web-01 ecdsa-sha2-nistp256 AAAA",), 2, "no ssh-ed25519 key of web-01, only ecdsa-sha2-nistp256"),
        (("@cert-authority *" + line("", "ca"),), 2, "only a certificate authority for web-01"),
        ((line("web-02", "web-01"),), 2, "knows no host web-01"),
        ((line("10.0.0.7", "thief"), line("web-01.evil", "thief")), 2, "knows no host web-01"),
    ],
)
def test_who_shows_no_key_that_ssh_knows_stays_outside(
    served: Commands, tmp_path: Path, lines: tuple[str, ...], code: int, why: str
) -> None:
    """Another key is untrusted; none is said with the way on; what a device calls itself is not looked up."""
    asks_with(served, "web-01", "web-01")
    assert why in served("enroll", "web-01", "--from-known-hosts", known_hosts(tmp_path, *lines), code=code).complaint
    assert 1 == len(entries(served))


def test_of_two_that_ask_under_a_name_the_known_one_is_let_in(served: Commands, tmp_path: Path) -> None:
    """An impostor beside the device changes nothing, and is not let in."""
    asks_with(served, "web-01", "thief", device="thief")
    served.ask("web-01")
    served("enroll", "web-01", "--from-known-hosts", known_hosts(tmp_path, line("web-01", "web-01")))
    assert ["thief"] == [
        next(name for name in ("thief", "web-01") if fingerprint(name) == one["fingerprint"])
        for one in served("enroll", "list", "--json").json["requests"]
    ]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--all-from", "list", "web-01"], "not both"),
        (["--tag", "a=b"], "no device is named"),
        (["a", "b", "--key", "SHA256:x"], "are for one device"),
        (["a", "--host", "b"], "goes with --from-known-hosts"),
        (["a", "--key", "SHA256:x", "--from-known-hosts", "/dev/null"], "not both"),
        (["a", "--as", "No Name"], "name"),
        (["a", "--from-known-hosts", "/nonexistent"], "/nonexistent: No such file"),
        (["--all-from", "/nonexistent"], "/nonexistent: No such file"),
        (["--bogus"], "No such option"),
    ],
)
def test_options_that_contradict_each_other_are_said(nixfleet: Commands, argv: list[str], why: str) -> None:
    """Before anything is asked of a coordinator."""
    assert why in nixfleet("enroll", *argv, code=2).complaint


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", ": it names no device"),
        (f"web-01 SHA256:{'x' * 43} extra\n", ":1: 'extra' is no tag"),
        ("web-01 SHA256:x\n", ":1: 'SHA256:x' is no fingerprint"),
        ("# nothing\nweb-01\nweb-01 env=prod\n", ":3: web-01 stands twice"),
        ("web-01 ssh-ed25519 AAAA\n", ":1: not a usable public key"),
    ],
)
def test_a_list_that_cannot_be_read_is_named_with_its_line(
    nixfleet: Commands, tmp_path: Path, text: str, why: str
) -> None:
    """Where a person will look for it."""
    file = tmp_path / "list"
    file.write_text(text)
    assert f"{file}{why}" in nixfleet("enroll", "--all-from", str(file), code=2).complaint


def test_a_list_of_devices_costs_one_signature(served: Commands, tmp_path: Path) -> None:
    """One grant, then the devices; who does not ask or shows another key is said, and does not keep the rest out."""
    names = [f"web-{number:02}" for number in range(MANY)]
    for name in names:
        served.ask(name)
    asks_with(served, "bad", "thief")
    file = tmp_path / "list"
    lines = [f"{name} {fingerprint(name)} rack={name}  # shelf" for name in names[1:]]
    file.write_text(
        "\n".join([f"{names[0]} {key(names[0]).public.text} rack=0", *lines, f"bad {fingerprint('bad')}", "away"])
    )
    done = served("enroll", "--all-from", str(file), "--tag", "env=prod", "--yes", "--json", code=1).json
    assert names == [one["name"] for one in done["devices"]]
    assert {"env": "prod", "rack": "web-01"} == done["devices"][1]["tags"]
    assert ["bad", "away"] == [one["name"] for one in done["left"]]
    kinds = [one.split()[0] for one in entries(served)]
    assert ["root", "grant", *["device"] * MANY] == kinds
    assert f"{MANY} uses" in entries(served)[1]
    again = served("enroll", "--all-from", str(file), "--yes", code=1)
    assert f"not {names[0]}: {names[0]} is enrolled already" in again.err
    assert MANY + 2 == len(entries(served))


def test_names_are_let_in_together_once_their_keys_are_compared(served: Commands, tmp_path: Path) -> None:
    """Without a terminal nobody compares; by what ssh knows nobody has to."""
    for name in ("web-01", "web-02"):
        served.ask(name)
    asked = served("enroll", "web-01", "web-02", code=2)
    assert "Are these 2 the keys that the devices themselves show?" in asked.err
    assert fingerprint("web-02") in asked.err
    file = known_hosts(tmp_path, line("web-01", "web-01"), line("web-02", "web-02"))
    assert "2 devices enrolled" in served("enroll", "web-01", "web-02", "--from-known-hosts", file).err


def test_a_taken_name_is_shown_with_the_commands_that_solve_it(served: Commands) -> None:
    """The name moves with --replace, or the new one gets another; a plain enrolment is refused and says so."""
    served.enroll("web-01")
    asks_with(served, "web-01", "new", device="new")
    (asked,) = served("enroll", "list", "--json").json["requests"]
    assert "name taken" == asked["asks"]
    assert "nixfleet enroll web-01 --replace, or --as another name" in served("enroll", "list").out
    refused = served("enroll", "web-01", "--key", fingerprint("new"), code=2).complaint
    assert "--replace" in refused
    served("enroll", "web-01", "--key", fingerprint("new"), "--as", "web-02")
    assert ["web-01", "web-02"] == [one["name"] for one in served("device", "list", "--json").json["devices"]]
    asks_with(served, "web-02", "newer", device="newer")
    served("enroll", "web-02", "--key", fingerprint("newer"), "--replace")
    assert fingerprint("newer") == fingerprint_of(served, "web-02")
    assert "retired" == served("device", "show", device_id("new"), "--json").json["state"]


def test_a_copied_disk_is_not_offered_the_name_of_the_first_machine(served: Commands) -> None:
    """Moving the name would retire the machine that has it: the list gives the other command."""
    served.enroll("web-01")
    reason = f"{CLONE}: this disk was in web-01, device {device_id('web-01')}"
    made = EnrollRequest(
        v=1,
        fleet=served.fleet,
        device=device_id("copy"),
        name="web-01",
        key=key("copy").public.text,
        at=now(),
        reason=reason,
    )
    served.on_wire(lambda client: client.enroll_request(sign_enroll(made, key("copy"))))
    (asked,) = served("enroll", "list", "--json").json["requests"]
    assert asked["words"].startswith(f"{reason}; the name web-01 is taken by device")
    assert "nixfleet enroll web-01 --as another name" == asked["command"]


def fingerprint_of(nixfleet: Commands, name: str) -> str:
    """Give the key that the log has for a device."""
    return parse_public_key(nixfleet("device", "show", name, "--json").json["key"]).fingerprint


def test_a_known_device_with_another_key_is_offered_as_such(served: Commands) -> None:
    """In so many words, never as an enrolment: tags and names are not its business; the old key is worth nothing."""
    served.enroll("web-01")
    asks_with(served, "web-01", "second")
    (asked,) = served("enroll", "list", "--json").json["requests"]
    assert "another key" == asked["asks"]
    unasked = served("enroll", "web-01", code=2)
    assert f"says that it is web-01, which is enrolled with the key {fingerprint('web-01')}" in unasked.err
    assert "add --yes" in unasked.err
    for option in (["--replace"], ["--tag", "a=b"], ["--as", "web-02"]):
        told = served("enroll", "web-01", "--key", fingerprint("second"), *option, code=2).complaint
        assert "is enrolled already, and asks for another key" in told
    done = served("enroll", "web-01", "--key", fingerprint("second"), "--json").json
    assert (True, {"env": "prod"}) == (done["rekeyed"], done["tags"])
    assert fingerprint("second") == fingerprint_of(served, "web-01")
    assert [] == served("enroll", "list", "--json").json["requests"]


def test_a_known_machine_does_not_take_the_place_of_another(served: Commands, tmp_path: Path) -> None:
    """Its key is the one that ssh knows, its name its own, and the id that it asks under another device's."""
    served.enroll("web-01")
    asks_with(served, "web-09", "web-09", device="web-01")
    file = known_hosts(tmp_path, line("web-09", "web-09"))
    for argv in (["--from-known-hosts", file], ["--key", fingerprint("web-09")], ["--yes"]):
        told = served("enroll", "web-09", *argv, code=3).complaint
        assert "who asks as web-09 says that it is web-01, which it would replace" in told
    (asked,) = served("enroll", "list", "--json").json["requests"]
    assert "nixfleet device rekey web-01 --key KEY" == asked["command"]
    assert fingerprint("web-01") == fingerprint_of(served, "web-01")


def test_many_at_once_never_give_a_known_device_another_key(served: Commands, tmp_path: Path) -> None:
    """That is an act of its own, on one device, by its name."""
    served.enroll("web-01")
    asks_with(served, "web-01", "second")
    file = tmp_path / "list"
    file.write_text(f"web-01 {fingerprint('second')}\n")
    told = served("enroll", "--all-from", str(file), code=1).err
    assert "not web-01: it says that it is web-01, and shows another key than" in told
    assert fingerprint("web-01") == fingerprint_of(served, "web-01")


def test_a_list_shows_the_tokens_that_still_let_somebody_in(served: Commands) -> None:
    """Tags, uses left and end, by the id that a revocation takes; one that is used up is gone from it."""
    made = served("enroll", "token", "--tag", "env=prod", "--uses", "3", "--days", "1", "-m", "rack 7").out.strip()
    (shown,) = served("enroll", "list", "--json").json["tokens"]
    assert (3, 3, {"env": ["prod"]}, "rack 7") == (shown["left"], shown["uses"], shown["tags"], shown["note"])
    assert tokens.read(made).fleet == served.fleet
    table = served("enroll", "list").out
    assert (shown["id"] in table, "3 of 3" in table, "env=prod" in table) == (True, True, True)


def test_a_request_is_dropped_by_name_and_key(served: Commands) -> None:
    """So that another key may ask under that id; of several, the one that is named."""
    served.ask("web-01")
    asks_with(served, "web-01", "thief", device="thief")
    assert "2 devices ask under the name" in served("enroll", "drop", "web-01", code=2).complaint
    dropped = served("enroll", "drop", "web-01", "--key", fingerprint("thief"), "--json").json
    assert device_id("thief") == dropped["device"]
    assert [fingerprint("web-01")] == [
        one["fingerprint"] for one in served("enroll", "list", "--json").json["requests"]
    ]
    assert "no device asks" in served("enroll", "drop", "web-09", code=2).complaint


def test_many_devices_are_tagged_held_and_retired_with_a_signature_each_time(served: Commands) -> None:
    """Names stand side by side; what cannot be is said before anything is signed."""
    names = [f"web-{number}" for number in range(MANY)]
    served.enroll(*names)
    before = len(entries(served))
    tagged = served("device", "tag", *names, "site=rome", "env-", "--json").json["devices"]
    assert names == [one["name"] for one in tagged]
    assert f"{MANY} devices: each takes no updates until 2099" in (
        served("device", "hold", *names, "--until", "2099-01-31T18:00+00:00").err
    )
    assert {("held", "rome")} == {
        (one["state"], one["tags"]["site"]) for one in served("device", "list", "--json").json["devices"]
    }
    served("device", "hold", *names, "--end")
    assert "web-0 is not held" in served("device", "hold", *names, "--end", code=2).complaint
    assert "they already have these tags" in served("device", "tag", *names, "site=rome", code=2).complaint
    for argv in (["site=rome"], ["web-0"]):
        assert "say NAME, and KEY=VALUE" in served("device", "tag", *argv, code=2).complaint
    asked = served("device", "retire", *names, code=2).err
    assert "Retire web-0, web-1" in asked
    assert f"{MANY} devices retired" in served("device", "retire", *names, "--yes").err
    kinds = [one.split()[0] for one in entries(served)[before:]]
    assert ["grant", *["device"] * MANY] * 4 == kinds


def test_an_admin_gives_a_device_another_key(served: Commands, tmp_path: Path) -> None:
    """As a text or a file; a fingerprint is too little, and what is another's, or there already, is not signed."""
    served.enroll("web-01", "web-02")
    file = tmp_path / "new.pub"
    file.write_text(f"{key('new').public.text} web-01\n")
    wrong = [
        (fingerprint("new"), "a fingerprint is not enough"),
        (str(tmp_path / "none"), "No such file"),
        (key("web-01").public.text, "has the key"),
        (key("web-02").public.text, "is that of web-02: each device has its own"),
        ("ssh-rsa AAAA", "not a usable public key"),
    ]
    for text, why in wrong:
        assert why in served("device", "rekey", "web-01", "--key", text, "--yes", code=2).complaint
    assert "add --yes" in served("device", "rekey", "web-01", "--key", str(file), code=2).err
    done = served("device", "rekey", "web-01", "--key", str(file), "--yes", "--json").json
    assert (fingerprint("new"), "") == (done["key"], done["waits"])
    assert fingerprint("new") == fingerprint_of(served, "web-01")
