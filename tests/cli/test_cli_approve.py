"""`nixfleet approve` on a real coordinator: what waits and for whom, the exact payload, and who may not sign it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.cli.commandline import Commands, now
from tests.factories import closure
from tests.sshagent import make_key

from nixfleet.client.admin import Act, Admin
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.client.session import SessionKeeper
from nixfleet.model.statements import Action, Grant, Principal
from nixfleet.trust.signers import KeygenSigner
from nixfleet.trust.sshsig import parse_public_key

RULE = "env=prod: deploy,device approvals=1"


class People:
    """The fleet's people, each with a key file: `me` in the agent and bob at the root, others by grants."""

    def __init__(self, nixfleet: Commands, folder: Path) -> None:
        self.nixfleet = nixfleet
        self.keys = {
            name: make_key(folder / name).with_suffix("") for name in ("bob", "ops", "checker", "outsider", "ops-ci")
        }

    def __call__(self, who: str, *argv: str, code: int = 0) -> Any:
        """Run a command as somebody."""
        return self.nixfleet("--key", str(self.keys[who]), *argv, code=code)

    def text(self, who: str) -> str:
        """Give somebody's public key."""
        words = self.keys[who].with_suffix(".pub").read_text().split()
        return f"{words[0]} {words[1]}"

    def acting(self, who: str, act: Any) -> Any:
        """Act as somebody without the command line; `who` may be any of them."""

        async def run(client: Client) -> Any:
            signer, home = KeygenSigner(self.keys[who]), self.nixfleet.home
            mirror = Mirror.open(home / f"mirror-{who}", self.nixfleet.fleet)
            keeper = SessionKeeper(signer, fleet=self.nixfleet.fleet, file=home / f"{who}.session", clock=now)
            await keeper.attach(client)
            return await act(Admin(client, mirror, signer, now))

        return self.nixfleet.on_wire(run)

    def grant(self, who: str, actions: Sequence[Action], by: str = "bob", **fields: Any) -> str:
        """Let a root principal, or a holder, grant; gives the digest."""
        to = Principal(name=who, keys=(self.text(who),))
        made = {"parent": None, "select": {}, "not_before": now() - 60, "not_after": now() + 3_600, **fields}

        def build(head: Any, _: Any) -> list[Act]:
            return [Act(Grant(**head.fields(), to=to, actions=tuple(actions), **made))]

        async def act(admin: Admin) -> str:
            return (await admin.act(build))[0].digest

        return str(self.acting(by, act))

    def release(self, name: str, device: str, by: str = "ops") -> str:
        """Publish a made-up release."""

        async def act(admin: Admin) -> str:
            return (await admin.release(name, devices={device: closure(name)})).digest

        return str(self.acting(by, act))

    def fingerprint(self, who: str) -> str:
        """Give somebody's fingerprint."""
        return parse_public_key(self.text(who)).fingerprint


@pytest.fixture
def people(served: Commands, tmp_path: Path) -> People:
    """Give a fleet whose production wants an approval, an operator, and two who may approve, one of them elsewhere."""
    served.enroll("web-01")
    found = People(served, tmp_path)
    bob = found.keys["bob"].with_suffix(".pub")
    served("access", "root", "update", "--add-principal", f"bob={bob}", "--threshold", "2", "--rule", RULE, "--yes")
    found("bob", "access", "root", "sign", "--yes")
    waiting = [
        found.grant("ops", ("release", "deploy", "grant"), id="1" * 32, depth=1),
        found.grant("checker", ("approve",), id="2" * 32, select={"env": ("prod",)}),
        found.grant("outsider", ("approve",), id="3" * 32, select={"env": ("test",)}),
    ]
    done = served("approve", *(digest[:12] for digest in waiting), "--yes", "--json").json
    assert ["", "", ""] == [one["waits"] for one in done["approved"]]
    return found


def test_a_deploy_waits_for_another_and_says_how(people: People) -> None:
    """The starter is told by which command others sign; the approver sees the payload, signs, and it is complete."""
    people.release("v1", "web-01")
    started = people("ops", "rollout", "start", "v1", "--yes", "--watch")
    rollout = started.out.strip()
    waits = "waits: 1 more approval is needed, by another principal with the right to approve"
    assert f"{waits}; they run: nixfleet approve {rollout[:12]}" in started.err
    (listed,) = people("checker", "approve", "--json").json["pending"]
    assert (rollout, "rollout", "ops", "") == (listed["digest"], listed["type"], listed["by_name"], listed["why_not"])
    shown = people("checker", "approve", rollout[:12], "--yes")
    (payload,) = [line for line in shown.out.splitlines() if line.startswith("{")]
    assert payload == people.nixfleet("audit", "show", str(listed["index"])).out.splitlines()[-1]
    assert f"rollout {rollout[:12]} is approved, and has all signatures" in shown.err
    assert "nothing waits for a signature" in people("checker", "approve").err
    entry = people.nixfleet("audit", "list", "--json").json["entries"][-1]
    assert ("approve", people.fingerprint("checker")) == (entry["type"], entry["by"])
    view = people.nixfleet("rollout", "show", rollout[:12], "--json").json["rollout"]
    assert "approval" not in view["waits"]


def test_who_may_not_approve_is_told_why_and_nothing_is_signed(people: People) -> None:
    """The submitter, an issuer in the chain, and an approver of other devices are refused with the reason."""
    people.grant("ops", ("approve",), id="4" * 32)
    people.nixfleet("approve", str(_size(people) - 1), "--yes")
    people.grant("ops-ci", ("deploy",), by="ops", id="5" * 32, parent="1" * 32, not_after=now() + 1_800)
    people.release("v1", "web-01")
    own = people("ops", "rollout", "start", "v1", "--yes").out.strip()
    before = _size(people)
    assert (
        "ops has submitted it, and nobody approves what is their own"
        in people("ops", "approve", own, "--yes", code=3).err
    )
    assert "lacks the right to approve acts on" in people("outsider", "approve", own, "--yes", code=3).err
    assert "covers env=test only" in people("outsider", "approve").out
    handed = people("ops-ci", "rollout", "start", "v1", "--yes").out.strip()
    refused = people("ops", "approve", handed, "--yes", code=3).err
    assert "ops issued grant 555555555555, by which it is signed: somebody else has to approve it" in refused
    assert before + 1 == _size(people)
    people("checker", "approve", handed, "--yes")


def test_what_waits_is_taken_back(people: People) -> None:
    """A rollout is cancelled by who may control it, and asks nobody any more; a grant that waits gives nothing."""
    people.nixfleet("approve", people.grant("ops", ("control",), id="4" * 32), "--yes")
    people.release("v1", "web-01")
    rollout = people("ops", "rollout", "start", "v1", "--yes").out.strip()
    assert [rollout] == [one["digest"] for one in people("checker", "approve", "--json").json["pending"]]
    people("ops", "rollout", "cancel", rollout[:12], "--yes")
    assert [] == people("checker", "approve", "--json").json["pending"]
    assert "nothing that waits is" in people("checker", "approve", rollout[:12], "--yes", code=2).err
    people.grant("outsider", ("deploy",), id="6" * 32)
    told = people.nixfleet("access", "revoke", "6" * 12, "--yes", code=2).complaint
    assert "grant 666666666666 to outsider gives nothing yet: it waits for signatures" in told
    assert "ask those of 'nixfleet approve' not to sign it" in told


def _size(people: People) -> int:
    return int(people.nixfleet("audit", "list", "--json").json["size"])


def test_what_is_not_there_is_said(people: People) -> None:
    """An unknown ID, one that is too short, and an entry that waits for nothing each say where to look."""
    assert (
        "nothing that waits is 'abc'; 'nixfleet approve' lists" in people("checker", "approve", "abc", code=2).complaint
    )
    assert "entry 0 waits for no signature" in people("checker", "approve", "0", code=2).complaint
    assert "nothing that waits is '999'" in people("checker", "approve", "999", code=2).complaint


def test_without_a_terminal_nothing_is_approved_unasked(people: People) -> None:
    """There is nobody to ask, so nothing is signed."""
    people.release("v1", "web-01")
    rollout = people("ops", "rollout", "start", "v1", "--yes").out.strip()
    before = _size(people)
    assert "add --yes" in people("checker", "approve", rollout, code=2).err
    assert before == _size(people)


def test_a_retag_out_of_production_waits_too(people: People) -> None:
    """An act that is judged at its completing leaf waits, and takes effect with the approval."""
    done = people.nixfleet("device", "tag", "web-01", "env=test", "--json").json
    assert "1 more root signature is needed" == done["waits"]
    pending = people("checker", "approve", "--json").json["pending"]
    assert ["device"] == [one["type"] for one in pending]
    said = people("bob", "device", "tag", "web-01", "site=oslo").err
    assert "web-01 now has env=prod site=oslo; not in force yet: 1 more root signature is needed; they run" in said
    people("bob", "approve", pending[0]["digest"], "--yes")
    people("checker", "approve", pending[0]["digest"], "--yes")
    (device,) = people.nixfleet("device", "list", "--json").json["devices"]
    assert {"env": "test"} == device["tags"]


def test_a_token_of_a_root_principal_waits_and_says_so(people: People) -> None:
    """Where two must sign, the token lets nobody join before the other has signed, and the command is told."""
    made = people("bob", "enroll", "token", "--yes")
    waits = "it lets nobody join yet: 1 more root signature is needed; they run: nixfleet approve "
    assert made.out.startswith("nixfleet-join-1.")
    (line,) = [line for line in made.err.splitlines() if waits in line]
    assert "has all signatures" in people.nixfleet("approve", line.rpartition(" ")[2], "--yes").err
    tokens = people("bob", "enroll", "list", "--json").json["tokens"]
    assert [1] == [one["left"] for one in tokens]


def test_a_rollout_of_a_part_waits_with_the_release_it_makes(people: People) -> None:
    """Where a root principal starts it, release and rollout are both named, and signed by one command of another."""
    people.release("v1", "web-01")
    started = people("bob", "rollout", "start", "v1", "--on", "web-01", "--yes").err
    ids = started.partition("they run: nixfleet approve ")[2].split()
    assert 2 == len(ids)
    done = people.nixfleet("approve", *ids, "--yes", "--json").json["approved"]
    assert ["", "1 more approval is needed, by another principal with the right to approve"] == sorted(
        one["waits"] for one in done
    )
    (left,) = people("checker", "approve", "--json").json["pending"]
    people("checker", "approve", left["digest"], "--yes")
    assert "nothing waits for a signature" in people("checker", "approve").err
