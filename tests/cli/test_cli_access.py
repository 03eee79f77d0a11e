"""`nixfleet access grant|list|explain|revoke` on a real coordinator: what is signed, shown, and refused in words."""

from pathlib import Path
from typing import Any

import pytest
from tests.cli.commandline import Commands
from tests.factories import key
from tests.sshagent import make_key

from nixfleet.trust.sshsig import parse_public_key


class People:
    """Persons with key files, made when they are first named."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> str:
        """Give the private key file of a name, its public one beside it."""
        path = self.folder / name
        if not path.exists():
            make_key(path)
        return str(path)

    def fingerprint(self, name: str) -> str:
        """Give the fingerprint of a name's key."""
        return parse_public_key(Path(f"{self[name]}.pub").read_text()).fingerprint


@pytest.fixture
def people(tmp_path: Path) -> People:
    """Give persons with keys."""
    (tmp_path / "people").mkdir()
    return People(tmp_path / "people")


def granted(nixfleet: Commands, people: People, name: str, *options: str, by: str | None = None) -> Any:
    """Grant something to a person, as the root or by another, and give the answer."""
    signer = () if by is None else ("--key", people[by])
    return nixfleet(*signer, "access", "grant", name, "--to", f"{people[name]}.pub", *options, "--json").json


def delegated(served: Commands, people: People) -> tuple[str, str, str]:
    """Let the root's org let a team let its CI deploy to production."""
    both = ("--action", "deploy", "--action", "grant")
    org = granted(served, people, "org", *both, "--depth", "2", "--max-devices", "9")
    team = granted(served, people, "team", "--on", "env=prod", *both, "--depth", "1", "--days", "30", by="org")
    ci = granted(served, people, "ci", "--action", "deploy", "--on", "env=prod", "--max-devices", "3", by="team")
    return org["id"], team["id"], ci["id"]


def test_a_right_is_handed_on_within_what_one_has(served: Commands, people: People) -> None:
    """No parent is named: it is the signer's own grant, and what is not said is as much as that allows."""
    org, team, ci = delegated(served, people)
    view = served("access", "list", "--json").json
    by_id = {one["id"]: one for one in view["grants"]}
    assert [org, team, ci] == list(by_id)
    assert ["", org, team] == [by_id[one]["parent"] for one in (org, team, ci)]
    assert ["org", "org/team", "org/team/ci"] == [by_id[one]["name"] for one in (org, team, ci)]
    assert [9, 9, 3] == [by_id[one]["max_devices"] for one in (org, team, ci)]
    assert by_id[team]["not_after"] == by_id[ci]["not_after"]
    assert ["live"] * 3 == [by_id[one]["state"] for one in (org, team, ci)]
    shown = served("access", "list").out.splitlines()
    assert "1 signature for what the root does" in shown[0]
    assert ["WHO", "org", "  team", "    ci"] == [
        line[: len(line) - len(line.lstrip()) + 4].rstrip() for line in shown[2:]
    ]
    assert f"{ci[:12]}  deploy" in shown[-1]
    assert "3 devices" in shown[-1]


@pytest.mark.parametrize(
    ("by", "options", "why"),
    [
        ("ci", ["--action", "deploy", "--on", "env=prod"], "may not be handed on: it does not allow grant"),
        ("team", ["--action", "release", "--on", "env=prod"], "allows deploy, grant only"),
        ("team", ["--action", "deploy"], "covers env=prod only"),
        ("team", ["--action", "deploy", "--on", "env=prod", "--days", "60"], "lasts from"),
        ("team", ["--action", "deploy", "--on", "env=prod", "--max-devices", "10"], "is limited to 9 devices"),
        ("team", ["--action", "deploy", "--action", "grant", "--on", "env=prod", "--depth", "1"], "has depth 1"),
        ("team", ["--action", "approve", "--on", "env=prod"], "given by the root alone"),
        ("stranger", ["--action", "deploy"], "neither root nor a grant names the key"),
    ],
)
def test_what_one_may_not_hand_on_is_said(
    served: Commands, people: People, by: str, options: list[str], why: str
) -> None:
    """Exit code 3 and the limit that is in the way; nothing is signed."""
    delegated(served, people)
    size = served("audit", "list", "--json").json["size"]
    asked = ("--key", people[by], "access", "grant", "guest", "--to", f"{people['guest']}.pub", *options)
    complaint = served(*asked, code=3).complaint
    assert why in complaint
    assert size == served("audit", "list", "--json").json["size"]


def test_the_widest_grant_that_covers_is_handed_on_from(served: Commands, people: People) -> None:
    """Of several the one with the fewest tags; another may be named, and one that does not cover is said."""
    narrow = granted(
        served, people, "ops", "--action", "deploy", "--action", "grant", "--depth", "1", "--on", "env=test"
    )["id"]
    wide = granted(served, people, "ops", "--action", "deploy", "--action", "grant", "--depth", "1")["id"]
    test = ("--action", "deploy", "--on", "env=test")
    assert wide == granted(served, people, "a", *test, by="ops")["parent"]
    assert narrow == granted(served, people, "b", *test, "--parent", narrow[:8], by="ops")["parent"]
    argv = ("--key", people["ops"], "access", "grant", "c", "--to", f"{people['c']}.pub", "--action", "deploy")
    assert f"its grant {narrow[:12]} covers env=test only" in served(*argv, "--parent", narrow[:8], code=3).complaint
    refused = served(*argv, "--action", "release", code=3).complaint
    assert f"its grant {wide[:12]} allows deploy, grant only (and its other grant does not cover it)" in refused
    mine = served("access", "grant", "d", "--to", f"{people['d']}.pub", *test, "--parent", narrow[:8], code=3)
    assert f"does not hold grant {narrow[:12]}" in mine.complaint


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "say --action for each thing they may do, or --read"),
        (["--action", "deploy", "--read"], "say --action for each thing they may do, or --read"),
        (["--action", "deploy", "--days", "3", "--until", "2030-01-01"], "not both"),
        (["--action", "deploy", "--until", "soon"], "is no date"),
        (["--action", "deploy", "--until", "2020-01-01"], "is over already"),
        (["--action", "deploy", "--max-uses", "3"], "max_uses belongs to a grant whose only action is enroll"),
        (["--action", "deploy", "--on", "env"], "selects nothing"),
        (["--action", "deploy", "--on", "env=a", "--on", "env=b"], "given twice"),
        (["--action", "fly"], "is not one of"),
        (["--action", "grant"], "belong together"),
        (["--action", "deploy", "--depth", "1"], "belong together"),
        (["--action", "deploy", "--parent", "abcdef12"], "there is no grant 'abcdef12'"),
    ],
)
def test_what_is_no_grant(served: Commands, people: People, options: list[str], why: str) -> None:
    """One line with exit code 2, and nothing is signed."""
    assert why in served("access", "grant", "a", "--to", f"{people['a']}.pub", *options, code=2).complaint
    assert 1 == served("audit", "list", "--json").json["size"]


def test_a_key_is_a_line_or_a_file(served: Commands, people: People) -> None:
    """The text of a public key, with its comment, is as good as its file; a fingerprint is no key to grant to."""
    line = Path(f"{people['a']}.pub").read_text().strip()
    made = served("access", "grant", "a", "--to", line, "--to", f"{people['b']}.pub", "--read", "--json").json
    assert [people.fingerprint("a"), people.fingerprint("b")] == made["keys"]
    fingerprint = people.fingerprint("a")
    assert "is a fingerprint" in served("access", "grant", "a", "--to", fingerprint, "--read", code=2).complaint
    assert "cannot read" in served("access", "grant", "a", "--to", "/nonexistent", "--read", code=2).complaint


def test_a_right_is_explained(served: Commands, people: People) -> None:
    """Yes with the chain, no with the link that fails; by fingerprint, file or principal; exit code 0 or 3."""
    served.enroll("web-01")
    served.enroll("dev-01", tag="env=dev")
    _, team, ci = delegated(served, people)
    asked = ("access", "explain", "--action", "deploy")
    for who in (people.fingerprint("ci"), f"{people['ci']}.pub", "org/team/ci"):
        said = served(*asked, "--key", who, "--device", "web-01")
        assert f"yes: org/team/ci may deploy to web-01, by grant {ci[:12]}" in said.out
        assert f"      ✓ org/team/ci by grant {ci[:12]}\n" in said.out
    no = served(*asked, "--key", "org/team/ci", "--device", "dev-01", code=3)
    assert f"no: org/team/ci lacks the right to deploy to dev-01: its grant {ci[:12]} covers env=prod only" in no.out
    record = served(*asked, "--key", "org/team/ci", "--device", "dev-01", "--json", code=3).json
    assert (False, False, people.fingerprint("ci")) == (record["allowed"], record["waits"], record["key"])
    assert ["root", "org", "org/team", "org/team/ci"] == [link["holder"] for link in record["chains"][0]["links"]]
    served("access", "revoke", "org/team", "--yes")
    cut = served(*asked, "--key", "org/team/ci", "--device", "web-01", code=3).out
    assert f"grant {team[:12]}, on which its grant {ci[:12]} stands, is revoked" in cut
    assert f"    ✗ org/team by grant {team[:12]}: is revoked\n" in cut
    assert "no principal of" in served(*asked, "--key", "nobody", "--device", "web-01", code=2).complaint
    assert "there is no device" in served(*asked, "--key", "org", "--device", "x", code=2).complaint


def test_a_revocation_shows_what_it_would_stop(served: Commands, people: People) -> None:
    """The dry run signs nothing; a rollout that was replaced is over already; then it happens, and is told."""
    served.enroll("web-01")
    granted(served, people, "ci", "--action", "deploy", "--action", "release", "--action", "grant", "--depth", "1")
    granted(served, people, "bot", "--action", "deploy", by="ci")
    for name in ("one", "two"):
        release = served.release(name, web_01=name)
        served("--key", people["ci"], "rollout", "start", release, "--yes", "--all-at-once")
    size = served("audit", "list", "--json").json["size"]
    dry = served("access", "revoke", "ci", "--dry-run")
    assert f"entries: {size}" == f"entries: {served('audit', 'list', '--json').json['size']}"
    assert ["rollout", "grant", "enrolments,"] == [line.split()[0] for line in dry.err.splitlines()[1:]]
    assert "deploy of two to all devices: ci lacks the right to deploy" in dry.err
    assert "there is no terminal" in served("access", "revoke", "ci", code=2).err.lower()
    done = served("access", "revoke", "ci", "--yes", "--json").json
    assert ["rollout", "grant"] == [one["kind"] for one in done["stops"]]
    assert {"ci": "revoked", "ci/bot": "cut"} == {
        one["name"]: one["state"] for one in served("access", "list", "--json").json["grants"]
    }
    again = served("access", "revoke", done["grant"], code=2).complaint
    assert "revoked already" in again


def test_a_key_is_revoked_everywhere(served: Commands, people: People) -> None:
    """By its fingerprint; the holder may do so, a stranger to it may not, and who may is said."""
    granted(served, people, "ops", "--action", "deploy")
    granted(served, people, "ci", "--action", "deploy")
    ci = people.fingerprint("ci")
    refused = served("--key", people["ops"], "access", "revoke", ci, "--yes", code=3).err
    assert f"ops lacks the right to revoke the key {ci}" in refused
    own = served("--key", people["ci"], "access", "revoke", ci, "--yes").err
    assert f"the key {ci} of ci is revoked; it is signed and sent, but this key may not read the log any more" in own
    assert "key" in served("--key", people["ci"], "access", "list", code=3).complaint
    assert [ci] == [
        one["keys"][0] for one in served("access", "list", "--json").json["grants"] if one["state"] == "revoked"
    ]
    assert "revoked already" in served("access", "revoke", ci, "--yes", code=2).complaint
    assert "there is no grant" in served("access", "revoke", "abc", code=2).complaint


def test_a_root_principals_name_for_another_key_is_warned_of(served: Commands, people: People) -> None:
    """Approvals would count both as one person; a right for that principal's own key is nothing to warn of."""
    me = served("access", "root", "show", "--json").json["root"]["principals"][0]["name"]
    other = served("access", "grant", me, "--to", f"{people['org']}.pub", "--action", "approve")
    assert f"! {me} is a root principal, and this is another key: approvals count both as one person" in other.err
    own = served("access", "grant", me, "--to", str(served.agent.public), "--action", "approve")
    assert "root principal" not in own.err


def test_a_list_without_grants_says_how_to_make_one(served: Commands) -> None:
    """Only the root has rights in a new fleet."""
    shown = served("access", "list")
    assert "nixfleet access grant NAME" in shown.err
    assert [] == served("access", "list", "--json").json["grants"]


def test_a_token_shows_its_uses(served: Commands) -> None:
    """How many devices came in by it, of how many."""
    served("enroll", "token", "--tag", "env=prod", "--uses", "2")
    assert "0 of 2 uses" in served("access", "list").out
    assert key("web-01").public.fingerprint not in served("access", "list").out


def test_a_team_makes_tokens_for_its_own_devices(served: Commands, people: People) -> None:
    """By a grant of `enroll` that it may hand on, and for its tags alone; the token's grant stands below it."""
    both = ("--action", "enroll", "--action", "grant")
    team = granted(served, people, "team", *both, "--depth", "1", "--on", "team=web")["id"]
    as_team = ("--key", people["team"], "enroll", "token", "--uses", "2")
    assert 1 == len(served(*as_team, "--tag", "team=web", "--tag", "env=test").out.split())
    token = served("access", "list", "--json").json["grants"][-1]
    assert (team, ["enroll"], 2) == (token["parent"], token["actions"], token["max_uses"])
    assert {"team": ["web"], "env": ["test"]} == token["select"]
    assert f"its grant {team[:12]} covers team=web only" in served(*as_team, "--tag", "team=db", code=3).complaint
    granted(served, people, "ops", "--action", "enroll")
    refused = served("--key", people["ops"], "enroll", "token", code=3).complaint
    assert "ops lacks the right to grant this: its grant" in refused


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("grant", "web team"), "'web team' is no principal's name"),
        (("grant", "org/web"), "'org/web' is no principal's name"),
        (("grant", "web", "--until", "2020-01-01"), "is over already"),
        (("grant", "web", "--from", "2199-01-01", "--until", "2198-01-01"), "this grant cannot be: it ends before"),
        (("grant", "web", "--max-uses", "3"), "this grant cannot be: max_uses belongs to"),
        (("revoke", "SHA256:abc"), "'SHA256:abc' is no fingerprint"),
        (("explain", "--key", "SHA256:abc", "--action", "deploy", "--device", "web-01"), "is no fingerprint"),
    ],
)
def test_what_cannot_be_signed_is_a_matter_of_words(
    served: Commands, people: People, argv: tuple[str, ...], why: str
) -> None:
    """A wrong name, date, limit or fingerprint ends with 2 and how it is written, before anything is signed."""
    served.enroll("web-01")
    size = served("audit", "list", "--json").json["size"]
    more = ("--to", f"{people['guest']}.pub", "--action", "deploy") if argv[0] == "grant" else ()
    assert why in served("access", *argv, *more, "--yes", code=2).complaint
    assert size == served("audit", "list", "--json").json["size"]


def test_the_list_says_in_one_word_what_became_of_a_grant(served: Commands, people: People) -> None:
    """Why stands beside it only where the word does not say it; a token that let its device in is used up."""
    served("access", "grant", "org", "--to", f"{people['org']}.pub", "--action", "deploy")
    served("access", "revoke", "org", "--yes")
    assert "revoked" == served("access", "list").out.splitlines()[-1].split()[-1]
    assert "it is" not in served("access", "list").out
