"""What the coordinator turns away though replay would take it: taken names and keys, and releases nobody published."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.agent.made_up import Machine, MadeUpStore
from tests.factories import Fleet, device_id, fingerprint, key
from tests.server.harness import Rig, rig, twin, until

from nixfleet.agent import identity as identities
from nixfleet.agent.agent import Agent
from nixfleet.agent.journal import Journal
from nixfleet.agent.member import Parts
from nixfleet.agent.service import Clock
from nixfleet.agent.settings import Settings
from nixfleet.client import acts
from nixfleet.client.acts import Head
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Refused
from nixfleet.model.device import JoinToken
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Device, Rollout, Rule
from nixfleet.model.wire import AppendResponse, Submission
from nixfleet.server.coordinator.admission import fault
from nixfleet.server.coordinator.judging import judge
from nixfleet.trust import token as tokens
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.replay import State, Valid
from nixfleet.trust.statements import NAMESPACE_APPROVE, digest, encode, namespace_of

NOWHERE = Digest("0" * 64)


def _statement(one: Rig, name: str, /, *, by: str = "admin", **fields: Any) -> Device:
    made: dict[str, Any] = {
        "device": device_id(name),
        "version": 1,
        "name": name,
        "key": key(name).public.text,
        "tags": {"env": "prod"},
        "state": "active",
    }
    return Device(**{**one.fleet.header(by), **made, **fields})


def _signed(statement: Device | Rollout, by: str = "admin") -> Submission:
    payload = encode(statement)
    return Submission(payload=payload, signature=key(by).sign(namespace_of(statement), payload))


async def _append(one: Rig, *statements: Device | Rollout) -> AppendResponse:
    async with one.client("admin") as admin:
        return await admin.append([_signed(statement) for statement in statements])


def _journal(one: Rig) -> list[str]:
    with contextlib.closing(sqlite3.connect(one.data_dir / "fleet.db")) as database:
        return [reason for (reason,) in database.execute("SELECT reason FROM refusals ORDER BY id")]


async def test_taken_name_is_refused_and_noted(tmp_path: Path) -> None:
    """Another device that claims a name gets a sentence with the remedy; the log stays, the journal tells."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        with pytest.raises(Refused) as refused:
            await _append(one, _statement(one, "new", name="web-01"))
        assert str(refused.value) == (
            f"the name web-01 is taken by device {device_id('web-01')[:12]}; "
            "an admin decides: nixfleet enroll web-01 --replace, or --as another name"
        )
        assert _journal(one) == [str(refused.value)]
        (noted,) = await admin.refusals()
        by = key("admin").public.fingerprint
        assert (noted.at, noted.by, noted.reason) == (int(one.now), by, str(refused.value))
        assert (await admin.fleet()).log_size == 2


@pytest.mark.parametrize("forge", [False, True])
async def test_stranger_costs_neither_a_copy_nor_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forge: bool
) -> None:
    """A key that nobody named, or another's name under a signature of one's own, is turned away by its signature."""
    async with rig(tmp_path / "data", "web-01") as one, one.client(None) as anybody:
        good = _signed(_statement(one, "new"), "stranger")
        if forge:
            good = _signed(_statement(one, "new"))
            good = replace(good, payload=good.payload + b" ")

        def too_much(*_: object) -> None:
            raise AssertionError("a stranger's statement was judged in full")

        with monkeypatch.context() as patch:
            patch.setattr(State, "copy", too_much)
            patch.setattr("nixfleet.server.coordinator.log.parse", too_much)
            with pytest.raises(Refused, match="does not verify" if forge else "neither root nor grant names its key"):
                await anybody.append([good])
        assert _journal(one) == []


async def test_nobody_is_noted_for_what_another_sends(tmp_path: Path) -> None:
    """A forged statement behind a true one is refused, and the journal does not lay it at its alleged signer's door."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        forged = _signed(_statement(one, "new", by="admin"))
        with pytest.raises(Refused):
            await admin.append([_signed(_statement(one, "other")), replace(forged, payload=forged.payload + b" ")])
        with pytest.raises(Refused):
            await admin.append([_signed(_statement(one, "other")), _signed(_statement(one, "x", by="who"), "who")])
        assert _journal(one) == []
        assert (await admin.fleet()).log_size == 2


async def test_former_key_is_turned_away_by_its_signature_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was revoked and tries again is in the journal, under their own true signature, at no more cost."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        one.fleet.grant("ops", "enroll")
        grant = one.fleet.grant("ci", "enroll")
        one.fleet.revoke(key_name="ops")
        one.fleet.revoke(grant=grant)
        await one.send(admin)
        monkeypatch.setattr(State, "copy", None)
        for name, reason in (("ops", "its key is revoked"), ("ci", "no grant of its key is live")):
            with pytest.raises(Refused, match=reason):
                await admin.append([_signed(_statement(one, "new", by=name), name)])
        assert _journal(one) == [
            f"its key is revoked ({fingerprint('ops')})",
            f"no grant of its key is live ({fingerprint('ci')}): its grant {grant[:12]} is revoked",
        ]


async def test_who_is_named_in_a_batch_may_speak_in_it(tmp_path: Path) -> None:
    """A grant and what its new key signs enter together."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        joins = _signed(_statement(one, "web-01", by="ci"), "ci")
        one.fleet.grant("ci", "enroll", select={"env": ["prod"]})
        await admin.append([one.submission(1), joins])
        assert (await admin.fleet()).log_size == 3


async def test_renaming_onto_a_taken_name_is_refused(tmp_path: Path) -> None:
    """A device is not renamed to what another one is called; it is to a free name, and what it had is free then."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one:
        rename = _statement(one, "web-02", version=2, name="web-01")
        with pytest.raises(Refused, match=r"web-01 is taken by device .*; rename or retire that one first"):
            await _append(one, rename)
        await _append(one, replace(rename, name="web-03"))
        await _append(one, _statement(one, "new", name="web-02"))


async def test_retired_device_gives_its_name_and_key_back(tmp_path: Path) -> None:
    """After retirement another device may have the name, and another id the key."""
    async with rig(tmp_path / "data", "web-01") as one:
        await _append(one, _statement(one, "web-01", version=2, state="retired"))
        await _append(one, _statement(one, "new", name="web-01", key=key("web-01").public.text))


async def test_one_key_is_one_devices(tmp_path: Path) -> None:
    """Neither a new device nor a changed one may name the key that another unretired device has."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one:
        text = key("web-01").public.text
        for statement in (_statement(one, "new", key=text), _statement(one, "web-02", version=2, key=text)):
            with pytest.raises(Refused, match=f"the key {fingerprint('web-01')} is that of web-01"):
                await _append(one, statement)
        await _append(one, _statement(one, "web-02", version=2, tags={}), _statement(one, "new"))


async def test_batch_that_retires_the_holder_first_passes(tmp_path: Path) -> None:
    """A name moves to new hardware in one append, in this order; in the other one nothing of it is appended."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        head = Head(one.fleet.fleet, fingerprint("admin"), one.fleet.now, one.fleet.log)
        text = key("new").public.text
        retire, enrol = acts.enroll(
            head, one.fleet.state, device=device_id("new"), key=text, name="web-01", tags={}, replace=True
        )
        with pytest.raises(Refused, match="taken"):
            await _append(one, enrol, retire)
        assert (await admin.fleet()).log_size == 2
        assert (await _append(one, retire, enrol)).indexes == (2, 3)
        assert [view.id for view in await admin.devices()] == [device_id("new")]


def test_name_is_judged_again_when_an_approval_completes_the_claim() -> None:
    """Of two claims that wait for approval the first approved one has the name; the other's approval may not enter."""
    rule = Rule(select={}, actions=("enroll",), approvals=1)
    fleet = Fleet("admin", "second", threshold=2, rules=(rule,))
    fleet.approve(digest(fleet.entries[0][1]), "second")
    for number, name in enumerate(("admin", "approver")):
        fleet.grant(name, ("enroll", "approve")[number])
        fleet.approve(digest(fleet.entries[-1][1]), "second")
    left, right = (fleet.device(side, name="web-01") for side in ("left", "right"))
    assert isinstance(fleet.approve(left, "approver"), Valid)
    judged = []
    for claim in (left, right):
        payload = next(payload for _, payload in fleet.entries if digest(payload) == claim)
        leaf = Leaf.unpack(fleet.leaf(payload, NAMESPACE_APPROVE, "admin" if claim == left else "approver"))
        state = fleet.state.copy()
        entry = judge(state, state.size, leaf, payload)
        judged.append(fault(state, entry.statement, entry.before))
    assert judged[0] == ""
    assert "the name web-01 is taken" in judged[1]


async def test_rollout_needs_what_it_names(tmp_path: Path) -> None:
    """A release that is not in the log, and a rollout or control of an unknown rollout, are refused with the reason."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        made = one.fleet.rollout_statement
        with pytest.raises(Refused, match="the release 000000000000 is not in the log"):
            await _append(one, made(NOWHERE))
        with pytest.raises(Refused, match="takes back is not of this log"):
            await _append(one, replace(made(None), kind="rollback", of=NOWHERE))
        one.fleet.control(NOWHERE, "pause")
        with pytest.raises(Refused, match="controls is not of this log"):
            await admin.append([one.submission(2)])
        assert len(_journal(one)) == 3


async def test_two_coordinators_give_a_name_once(tmp_path: Path, postgres_url: str) -> None:
    """Claims that race over two coordinators are judged again by who lost the race; one device has the name."""
    async with (
        rig(tmp_path / "data", database_url=postgres_url) as one,
        twin(one, tmp_path / "twin") as other,
        one.client("admin") as left,
        one.client("admin", other.address) as right,
    ):
        for turn in range(6):
            name = f"web-{turn}"
            claims = [_signed(_statement(one, f"{name}-{side}", name=name)) for side in ("left", "right")]
            answers = await asyncio.gather(left.append(claims[:1]), right.append(claims[1:]), return_exceptions=True)
            kinds = sorted(type(answer).__name__ for answer in answers)
            assert kinds == ["AppendResponse", "Refused"], answers
        assert sorted(view.name for view in await left.devices()) == [f"web-{turn}" for turn in range(6)]


async def test_late_coordinator_reads_on_before_it_refuses(tmp_path: Path, postgres_url: str) -> None:
    """A name that another coordinator has just set free is free here too."""
    async with (
        rig(tmp_path / "data", "web-0", database_url=postgres_url) as one,
        twin(one, tmp_path / "twin") as other,
        one.client("admin", other.address) as right,
    ):
        for turn in range(4):
            await _append(one, _statement(one, f"web-{turn}", name="web-0", version=2, state="retired"))
            await right.append([_signed(_statement(one, f"web-{turn + 1}", name="web-0"))])


async def test_agent_whose_name_is_taken_asks_and_is_let_in_by_an_admin(tmp_path: Path) -> None:
    """A join by token under a taken name becomes a request that says why; `--replace` lets the device in."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        one.fleet.grant("joiner", "enroll", select={"env": ["prod"]}, max_uses=2)
        await one.send(admin)
        task = asyncio.create_task(_agent(one, tmp_path / "machine").run())
        try:
            (asked,) = await until(admin.enroll_requests, bool)
            assert asked.name == "web-01"
            assert "the name web-01 is taken by device" in asked.reason
            assert (await admin.fleet()).log_size == 3
            one.now += 1
            head = Head(one.fleet.fleet, fingerprint("admin"), int(one.now), one.fleet.log)
            made = acts.enroll(
                head, one.fleet.state, device=asked.device, key=asked.key, name=asked.name, tags={}, replace=True
            )
            await _append(one, *made)
            (view,) = await until(admin.devices, lambda views: bool(views) and views[0].online)
            assert (view.id, view.name) == (asked.device, "web-01")
            assert await admin.enroll_requests() == ()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _agent(one: Rig, root: Path) -> Agent:
    """Put a real agent together on a made-up machine with a join token."""
    machine = Machine(root)
    machine.boot(machine.system("old"))
    token = JoinToken(
        v=1, urls=(one.server.address,), fleet=one.fleet.fleet, log=one.fleet.log, seed=key("joiner").seed.hex()
    )
    machine.write("/etc/nixfleet/token", tokens.make(token))
    settings = Settings(
        name="web-01",
        state_dir=str(machine.state_dir),
        volatile_state=True,
        poll_s=1,
        urls=(one.server.address,),
        token_file="/etc/nixfleet/token",
    )
    found, own, read = identities.establish(machine.host, settings)
    return Agent(
        Parts(
            settings=identities.effective(settings, found),
            host=machine.host,
            store=MadeUpStore(machine),
            clock=Clock(wall=lambda: int(one.now), boot=lambda: 100),
            identity=found,
            key=own,
            token=read,
            mirror=Mirror.open(machine.state_dir / "log", found.fleet, pin=found.pin, device=found.device),
            journal=Journal(machine.state_dir),
        )
    )
