"""A key that a device or a token's holder names has to ask itself: nobody keeps another out by naming its key."""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.factories import device_id, key
from tests.server.harness import Rig, rig

from nixfleet.client.api import Client
from nixfleet.errors import Refused
from nixfleet.model.device import EnrollRequest
from nixfleet.model.statements import Device
from nixfleet.model.wire import Signed, Submission
from nixfleet.trust.reports import prove_key, sign_enroll
from nixfleet.trust.statements import encode, namespace_of


def _claim(one: Rig, name: str, by: str, of: str) -> Device:
    """Name the key of somebody else for a device: a new one, or the next version of one that is there."""
    record = one.fleet.state.devices.get(device_id(name))
    made = Device(
        **one.fleet.header(by),
        device=device_id(name),
        version=1,
        name=name,
        key=key(of).public.text,
        tags={"env": "prod"},
        state="active",
    )
    return made if record is None else replace(made, version=record.statement.version + 1)


def _signed(statement: Device, by: str, proof: Signed | None = None) -> Submission:
    payload = encode(statement)
    return Submission(payload=payload, signature=key(by).sign(namespace_of(statement), payload), proof=proof)


async def _wait_outside(one: Rig, anybody: Client) -> Signed:
    """Let another device ask to be enrolled, with a key of its own; gives what it sent."""
    asked = EnrollRequest(
        v=1, fleet=one.fleet.fleet, device=device_id("victim"), name="victim", key=key("victim").public.text, at=one.now
    )
    signed = sign_enroll(asked, key("victim"))
    await anybody.enroll_request(signed)
    return signed


PROOFS: list[tuple[str, Callable[[Device, Signed], Signed | None]]] = [
    ("nothing proves", lambda _claim, _asked: None),
    ("is the request of another device", lambda _claim, asked: asked),
    ("is not signed by the key it names", lambda claim, _: _forged(claim)),
    ("is the request of another device or key", lambda claim, _: prove_key(claim, key("web-01"))),
]


def _forged(claim: Device) -> Signed:
    """Put the other's key into a request of one's own."""
    true = prove_key(claim, key("victim"))
    return Signed(payload=true.payload, signature=key("web-01").sign("nixfleet-enroll-v1", true.payload))


@pytest.mark.parametrize("attack", range(len(PROOFS)))
@pytest.mark.parametrize(("name", "by"), [("web-01", "web-01"), ("new", "joiner")])
async def test_nobody_takes_a_waiting_devices_key(tmp_path: Path, name: str, by: str, attack: int) -> None:
    """Neither a member, as its own new key, nor a token's holder; the refusal is noted, and an admin lets it in."""
    words, proof = PROOFS[attack]
    async with (
        rig(tmp_path / "data", "web-01") as one,
        one.client("admin") as admin,
        one.client(None) as anybody,
    ):
        one.fleet.grant("joiner", "enroll", select={"env": ["prod"]}, max_uses=2)
        await one.send(admin)
        asked = await _wait_outside(one, anybody)
        claim = _claim(one, name, by, "victim")
        with pytest.raises(Refused, match=words):
            await anybody.append([_signed(claim, by, proof(claim, asked))])
        assert [key(by).public.fingerprint] == [refusal.by for refusal in await admin.refusals()]
        await _wait_outside(one, anybody)
        await admin.append([_signed(_claim(one, "victim", "admin", "victim"), "admin")])
        assert ["victim", "web-01"] == sorted(view.name for view in await admin.devices())


@pytest.mark.parametrize(("name", "by"), [("web-01", "web-01"), ("new", "joiner")])
async def test_who_holds_the_key_may_name_it(tmp_path: Path, name: str, by: str) -> None:
    """The new key's own request goes with the statement; a repeat needs it no more, for nothing is judged again."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        one.fleet.grant("joiner", "enroll", select={"env": ["prod"]}, max_uses=2)
        await one.send(admin)
        claim = _claim(one, name, by, "fresh")
        answer = await admin.append([_signed(claim, by, prove_key(claim, key("fresh")))])
        assert answer.indexes == (await admin.append([_signed(claim, by)])).indexes
        async with one.client("fresh") as fresh:
            await fresh.sync(0)


async def test_what_a_person_signs_needs_no_proof(tmp_path: Path) -> None:
    """An admin who knows the new key from elsewhere is answerable for it; so is who changes a device's tags alone."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        await admin.append([_signed(_claim(one, "web-01", "admin", "fresh"), "admin")])
        assert key("fresh").public.text == (await admin.device("web-01")).key
