"""Two coordinators on one database: who was told of something by one can ask the other for it at once.

Here neither looks by itself for what the other did: only the question makes it look.
"""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.factories import device_id, key
from tests.server.harness import Rig, rig, twin, until

from nixfleet.client.api import Client
from nixfleet.errors import Refused, Untrusted, UserError
from nixfleet.model.device import EnrollRequest
from nixfleet.model.statements import Wave
from nixfleet.model.wire import Signed
from nixfleet.server.coordinator import core
from nixfleet.server.serve import Server
from nixfleet.trust.reports import sign_enroll


@pytest.fixture
async def pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> AsyncGenerator[tuple[Rig, Server], None]:
    """Give a fleet of one device and its second coordinator, which follows the first in an hour."""
    monkeypatch.setattr(core, "FOLLOW_S", 3_600)
    monkeypatch.setattr(core, "FOLLOW_REQUESTS_S", 3_600)
    async with (
        rig(tmp_path / "data", "web-01", database_url=postgres_url) as one,
        twin(one, tmp_path / "twin") as other,
    ):
        yield one, other


async def _deployed(one: Rig, admin: Client) -> tuple[str, str]:
    """Deploy by the first coordinator: a release's and a rollout's digest."""
    release, lines = one.fleet.release("a", {"web-01": "web-01-new"})
    assert lines is not None
    await one.send(admin, lines.texts)
    rollout = one.fleet.rollout(release, waves=(Wave(members=1),))
    await one.send(admin)
    return release, rollout


async def test_a_rollout_is_found_where_it_was_not_appended(pair: tuple[Rig, Server]) -> None:
    """By its digest and by the start of it, with its member."""
    one, other = pair
    async with one.client("admin") as admin, one.client("admin", other.address) as elsewhere:
        _, rollout = await _deployed(one, admin)
        detail = await elsewhere.rollout(rollout[:12])
        assert (rollout, ["web-01"]) == (detail.rollout.id, [member.name for member in detail.members])


async def test_a_release_is_found_where_it_was_not_appended(pair: tuple[Rig, Server]) -> None:
    """By its name, with its lines, which the other coordinator reads from the store."""
    one, other = pair
    async with one.client("admin") as admin, one.client("admin", other.address) as elsewhere:
        release, _ = await _deployed(one, admin)
        found = await elsewhere.release("a")
        assert (release, ["web-01"]) == (found.id, [line.name for line in found.lines])


async def test_a_device_is_found_and_heard_where_it_was_not_enrolled(pair: tuple[Rig, Server]) -> None:
    """A new device may report to, and ask, a coordinator that did not see it enrolled."""
    one, other = pair
    one.fleet.device("web-02")
    one.fleet.device("web-03")
    async with one.client("admin") as admin, one.client("admin", other.address) as elsewhere:
        await one.send(admin)
        async with one.client("web-02", other.address) as device:
            await device.report(one.report("web-02"))
        assert "web-02" == (await elsewhere.device("web-02")).name
        one.fleet.device("web-04")
        await one.send(admin)
        async with one.client("web-04", other.address) as device:
            assert one.fleet.size == len((await device.sync(0)).entries)
        one.fleet.device("web-05")
        await one.send(admin)
        assert device_id("web-05") == (await elsewhere.device("web-05")).id


async def test_a_device_gets_its_line_where_the_rollout_was_not_appended(pair: tuple[Rig, Server]) -> None:
    """A device that one coordinator told of a rollout may ask the other one for its line."""
    one, other = pair
    async with one.client("admin") as admin, one.client("web-01", other.address) as device:
        _, rollout = await _deployed(one, admin)
        answer = await device.line(rollout)
        assert answer.line is not None


async def test_entries_and_proofs_are_given_where_they_were_not_appended(pair: tuple[Rig, Server]) -> None:
    """Who knows one coordinator's log gets the other's entries from its end on, and proofs up to it."""
    one, other = pair
    async with one.client("admin") as admin, one.client("admin", other.address) as elsewhere:
        old = one.fleet.size
        await _deployed(one, admin)
        assert 2 == len((await elsewhere.entries(old)).entries)
        one.fleet.device("web-02")
        await one.send(admin)
        assert (await admin.inclusion(old, one.fleet.size)) == await elsewhere.inclusion(old, one.fleet.size)
        one.fleet.device("web-03")
        await one.send(admin)
        assert (await admin.consistency(old, one.fleet.size)) == await elsewhere.consistency(old, one.fleet.size)


async def test_a_person_is_known_where_the_grant_was_not_appended(pair: tuple[Rig, Server]) -> None:
    """A key that was just granted something asks any coordinator."""
    one, other = pair
    one.fleet.grant("ann", "deploy", select={})
    async with one.client("admin") as admin, one.client("ann", other.address) as ann:
        await one.send(admin)
        assert ["web-01"] == [view.name for view in await ann.devices()]


async def test_what_nobody_appended_is_unknown_to_both(pair: tuple[Rig, Server]) -> None:
    """Having looked, a coordinator says plainly that there is no such thing, and refuses strangers."""
    one, other = pair
    async with one.client("admin", other.address) as elsewhere:
        with pytest.raises(UserError, match="there is no rollout 'abcdef'"):
            await elsewhere.rollout("abcdef")
        with pytest.raises(UserError, match="there is no device 'web-09'"):
            await elsewhere.device("web-09")
        with pytest.raises(UserError, match="this log has 2"):
            await elsewhere.inclusion(0, 99)
    async with one.client("web-09", other.address) as stranger:
        with pytest.raises(Untrusted, match="not enrolled here"):
            await stranger.report(one.report("web-09"))
        with pytest.raises((Refused, Untrusted)):
            await stranger.devices()


def _asks(one: Rig, name: str, by: str = "", reason: str = "") -> Signed:
    """Sign the request of a named device to be enrolled, by its own key or another one."""
    own = key(by or name)
    request = EnrollRequest(
        v=1,
        fleet=one.fleet.fleet,
        device=device_id(name),
        name=name,
        key=own.public.text,
        at=int(one.now),
        reason=reason,
    )
    return sign_enroll(request, own)


async def test_who_asked_first_stays_whichever_is_asked(pair: tuple[Rig, Server]) -> None:
    """Who asked one coordinator is replaced by no other key at the other one, until an admin drops it there."""
    one, other = pair
    async with (
        one.client(None) as anybody,
        one.client(None, other.address) as stranger,
        one.client("admin", other.address) as elsewhere,
    ):
        await anybody.enroll_request(_asks(one, "web-09"))
        with pytest.raises(Refused, match="another key asks to be enrolled under this device id"):
            await stranger.enroll_request(_asks(one, "web-09", by="mallory"))
        await elsewhere.forget_request(device_id("web-09"))
        await stranger.enroll_request(_asks(one, "web-09", by="mallory"))
        assert [key("mallory").public.text] == [asked.key for asked in await elsewhere.enroll_requests()]


async def test_who_asks_one_coordinator_is_seen_at_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    """What a device asks, what it asks instead and that it was dropped; whatever the coordinators' clocks show."""
    monkeypatch.setattr(core, "FOLLOW_REQUESTS_S", 0.05)
    async with (
        rig(tmp_path / "data", database_url=postgres_url) as one,
        twin(one, tmp_path / "twin", wall=lambda: one.now - 250) as other,
        one.client(None) as anybody,
        one.client(None, other.address) as there,
        one.client("admin") as admin,
        one.client("admin", other.address) as elsewhere,
    ):
        await anybody.enroll_request(_asks(one, "web-09", reason="new"))
        await until(elsewhere.enroll_requests, lambda asked: ["new"] == [each.reason for each in asked])
        one.now += 60
        await there.enroll_request(_asks(one, "web-09", reason="moved"))
        await until(admin.enroll_requests, lambda asked: ["moved"] == [each.reason for each in asked])
        await elsewhere.forget_request(device_id("web-09"))
        await until(admin.enroll_requests, lambda asked: not asked)


@pytest.mark.parametrize("apart_s", [-250, 250])
async def test_reports_are_followed_whatever_the_clocks_show(tmp_path: Path, postgres_url: str, apart_s: int) -> None:
    """What a device told a coordinator whose clock is minutes off is seen by the other one, and the other way round."""
    async with (
        rig(tmp_path / "data", "web-01", "web-02", database_url=postgres_url) as one,
        twin(one, tmp_path / "twin", wall=lambda: one.now + apart_s) as other,
        one.client("admin") as admin,
        one.client("admin", other.address) as elsewhere,
        one.client("web-01", other.address) as there,
        one.client("web-02") as here,
    ):
        await there.report(one.report("web-01", system="/run/there"))
        await here.report(one.report("web-02", system="/run/here"))
        await until(lambda: admin.device("web-01"), lambda view: view.system == "/run/there")
        await until(lambda: elsewhere.device("web-02"), lambda view: view.system == "/run/here")
