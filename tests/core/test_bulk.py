"""One touch for many: narrow one-hour grants to keys in memory, and where the log does not let them be."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests import factories
from tests.factories import T0, YEAR_S, Fleet, device_id, key
from tests.fakelog import FakeLog
from tests.httpd import httpd
from tests.touch import Touched

from nixfleet.client.admin import Admin
from nixfleet.client.api import Client
from nixfleet.client.bulk import BULK_FROM
from nixfleet.client.enrolling import Kind, Wish, enroll_many, judged, plan_of, sort_out
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Refused, UserError
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Grant, Rule
from nixfleet.model.views import EnrollView
from nixfleet.trust.replay import Valid, Waiting
from nixfleet.trust.signers import MemorySigner, Signer
from nixfleet.trust.statements import digest, parse

MANY = BULK_FROM + 1


@asynccontextmanager
async def at_work(folder: Path, fleet: Fleet, signer: Signer) -> AsyncIterator[tuple[FakeLog, Admin]]:
    """Serve a fleet's log and give an admin with this signer, who knows it."""
    log = FakeLog(fleet)
    async with httpd(log) as server, Client([server.url], fleet=fleet.fleet, key=None, clock=lambda: fleet.now) as api:
        mirror = Mirror.open(folder / "mirror", fleet.fleet)
        await mirror.catch_up(api)
        yield log, Admin(api, mirror, signer, lambda: fleet.now)


def asking(fleet: Fleet, name: str, **tags: str) -> EnrollView:
    """Make the request of a device that asks to be enrolled."""
    return factories.asking(fleet.fleet, name, tags=tags)


def wishes(fleet: Fleet, count: int, **tags: str) -> list[Wish]:
    """Wish for so many devices with these tags."""
    return [Wish(asking(fleet, f"web-{number:03}", **tags)) for number in range(count)]


def grants(fleet: Fleet) -> list[Grant]:
    """List the grants of a log."""
    read = [parse(payload) for _, payload in fleet.entries]
    return [one for one in read if isinstance(one, Grant)]


def team(fleet: Fleet, *actions: Any, **limits: Any) -> None:
    """Let the key `team` do these things to production."""
    fleet.grant("team", *actions, **{"select": {"env": ["prod"]}, **limits})


async def test_five_hundred_devices_cost_one_touch(tmp_path: Path) -> None:
    """The person signs one grant: enroll alone, these tags, so many devices, an hour; a key in memory does the rest."""
    fleet, signer = Fleet(), Touched(key("admin"))
    async with at_work(tmp_path, fleet, signer) as (log, admin):
        wanted = wishes(fleet, 500, env="prod", site="rome")
        assert 1 == plan_of(admin, wanted).touches
        counted: list[int] = []
        acted = await enroll_many(admin, wanted, note="T-7", told=counted.append)
        assert 500 == len(admin.state.devices)
    assert (1, 500, 500) == (signer.touches, len(acted), counted[-1])
    assert [""] * 500 == [one.waits for one in acted]
    (grant,) = grants(fleet)
    assert (("enroll",), {"env": ("prod",), "site": ("rome",)}, 500, 0) == (
        grant.actions,
        grant.select,
        grant.max_uses,
        grant.depth,
    )
    assert (3_600, "T-7", None) == (grant.not_after - grant.not_before, grant.note, grant.parent)
    assert {grant.to.keys[0]} == {admin_key(fleet, one.index) for one in acted}
    assert "admin-bulk-" + grant.id[:8] == grant.to.name
    first, *rest = (request.statements for request in log.appended)
    assert (1, 500) == (len(first), sum(map(len, rest)))
    assert [wish.request.signature for wish in wanted] == [
        one.proof.signature for several in rest for one in several if one.proof is not None
    ]


def admin_key(fleet: Fleet, index: int) -> str:
    """Give the key that signed an entry, as the grant that names it has it."""
    by = parse(fleet.entries[index][1]).by
    (found,) = fleet.state.grants_of[by]  # type: ignore[index]  # a fingerprint as the wire has it
    return found.statement.to.keys[0]


async def test_the_key_in_memory_can_enrol_nobody_else(tmp_path: Path) -> None:
    """One more device, other tags, or anything but enrolling is void by its grant."""
    fleet, secrets = Fleet(), []
    async with at_work(tmp_path, fleet, Touched(key("admin"))) as (_, admin):
        honest = MemorySigner.sign

        def overheard(self: MemorySigner, namespace: str, payload: bytes) -> bytes:
            secrets.append(self.secret)
            return honest(self, namespace, payload)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemorySigner, "sign", overheard)
            await enroll_many(admin, wishes(fleet, MANY, env="prod"))
    (stolen,) = {secret.seed: secret for secret in secrets if secret.public != key("admin").public}.values()
    for tags in ({"env": "prod"}, {"env": "dev"}, {}):
        verdict = acts_by(fleet, stolen, "evil", tags=tags)
        assert not isinstance(verdict, Valid | Waiting)
    assert not isinstance(acts_by(fleet, stolen, "web-000", version=2, state="retired"), Valid | Waiting)


def acts_by(fleet: Fleet, secret: Any, name: str, **fields: Any) -> object:
    """Append a device statement by a key that has no name here; give its verdict."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.factories.key", lambda asked: secret if asked == "stolen" else key(asked))
        fleet.device(name, by="stolen", **fields)
    return fleet.verdicts[-1]


async def test_one_grant_serves_one_set_of_tag_keys(tmp_path: Path) -> None:
    """Values are joined, other tag keys take another grant, and one device alone takes none."""
    fleet, signer = Fleet(), Touched(key("admin"))
    wanted = [
        *(Wish(asking(fleet, f"a-{site}", site=site)) for site in ("rome", "oslo", "bern")),
        *(Wish(asking(fleet, f"b-{number}")) for number in range(2)),
        Wish(asking(fleet, "c", rack="7")),
    ]
    async with at_work(tmp_path, fleet, signer) as (_, admin):
        await enroll_many(admin, wanted)
        assert 6 == len(admin.state.devices)
    assert 3 == signer.touches
    assert [({"site": ("rome", "oslo", "bern")}, 3), ({}, 2)] == [(one.select, one.max_uses) for one in grants(fleet)]


async def test_more_values_than_a_selector_may_list_take_a_second_grant(tmp_path: Path) -> None:
    """A tag that each device has for itself does not make the grant malformed."""
    fleet, signer = Fleet(), Touched(key("admin"))
    async with at_work(tmp_path, fleet, signer) as (_, admin):
        await enroll_many(admin, [Wish(asking(fleet, f"d-{number}", serial=str(number))) for number in range(70)])
        assert 70 == len(admin.state.devices)
    assert [64, 6] == [one.max_uses for one in grants(fleet)]


async def test_nothing_to_do_asks_for_nothing(tmp_path: Path) -> None:
    """An empty list sends no append, which a coordinator would refuse, and takes no signature."""
    fleet, signer = Fleet(), Touched(key("admin"))
    async with at_work(tmp_path, fleet, signer) as (_, admin):
        assert () == await admin.perform([])
    assert 0 == signer.touches


@pytest.mark.parametrize("count", [1, BULK_FROM - 1])
async def test_few_are_signed_one_by_one(tmp_path: Path, count: int) -> None:
    """A grant would be an entry more, and no touch less."""
    fleet, signer = Fleet(), Touched(key("admin"))
    async with at_work(tmp_path, fleet, signer) as (_, admin):
        await enroll_many(admin, wishes(fleet, count))
    assert (count, []) == (signer.touches, grants(fleet))


async def test_a_key_in_memory_needs_no_other(tmp_path: Path) -> None:
    """A sealed key that is open asks for no touch: it signs itself, and the log keeps one name."""
    fleet = Fleet()
    async with at_work(tmp_path, fleet, MemorySigner(key("admin"))) as (_, admin):
        await enroll_many(admin, wishes(fleet, MANY))
        assert MANY == len(admin.state.devices)
    assert [] == grants(fleet)


async def test_who_may_hand_on_does_it_under_their_own_grant(tmp_path: Path) -> None:
    """The child is within the parent: its tags, its end, its bound on devices."""
    fleet, signer = Fleet(), Touched(key("team"))
    team(fleet, "enroll", "grant", depth=1, not_after=T0 + 600, max_devices=7)
    async with at_work(tmp_path, fleet, signer) as (_, admin):
        await enroll_many(admin, wishes(fleet, MANY, env="prod"))
        assert MANY == len(admin.state.devices)
    parent, child = grants(fleet)
    assert (1, parent.id, T0 + 600, 7) == (signer.touches, child.parent, child.not_after, child.max_devices)
    assert [f"team/{child.to.name}"] == [fleet.state.grants[child.id].principal]


@pytest.mark.parametrize(
    "limits",
    [{"actions": ("enroll",)}, {"actions": ("enroll", "grant")}, {"actions": ("enroll", "grant"), "depth": 1, "to": 1}],
)
async def test_who_may_not_hand_on_signs_each(tmp_path: Path, limits: dict[str, Any]) -> None:
    """No `grant`, or no depth left: it is said why, and each device costs a touch."""
    fleet, signer = Fleet(), Touched(key("team"))
    elsewhere = limits.pop("to", 0)
    team(fleet, *limits.pop("actions"), **limits)
    if elsewhere:
        fleet.grant("team", "enroll", select={"env": ["dev"]})
    tags = {"env": "dev" if elsewhere else "prod"}
    async with at_work(tmp_path, fleet, signer) as (_, admin):
        assert "lets it hand on 'enroll' here" in plan_of(admin, wishes(fleet, MANY, **tags)).why_alone
        await enroll_many(admin, wishes(fleet, MANY, **tags))
        assert MANY == len(admin.state.devices)
    assert MANY == signer.touches


def two_keys(**root: Any) -> Fleet:
    """Make a fleet whose root takes two signatures, in which `team` may enrol and hand on."""
    fleet = Fleet("a", "b", threshold=2, **root)
    fleet.approve(Digest(fleet.fleet), "b")
    granted(fleet, "team", "enroll", "grant", depth=1)
    return fleet


def granted(fleet: Fleet, name: str, *actions: Any, **fields: Any) -> None:
    """Grant by both root keys."""
    fleet.grant(name, *actions, by="a", **fields)
    fleet.approve(digest(fleet.entries[-1][1]), "b")


async def test_where_grants_need_approvals_each_act_is_signed(tmp_path: Path) -> None:
    """A grant that waits would be of no use to a key that is gone; the acts have their own rules."""
    fleet, signer = two_keys(), Touched(key("team"))
    rule = Rule(select={}, actions=("grant",), approvals=1)
    fleet.root(by="a", rules=(rule,))
    fleet.approve(digest(fleet.entries[-1][1]), "b")
    async with at_work(tmp_path, fleet, signer) as (_, admin):
        assert "asks for approvals of every grant" in plan_of(admin, wishes(fleet, MANY)).why_alone
        await enroll_many(admin, wishes(fleet, MANY))
        assert (MANY, MANY) == (signer.touches, len(admin.state.devices))


async def test_a_rule_on_enrolments_holds_for_the_key_in_memory_too(tmp_path: Path) -> None:
    """Each enrolment waits for its approval, and says until when; who handed the key on may not approve."""
    rule = Rule(select={}, actions=("enroll",), approvals=1)
    fleet, signer = two_keys(rules=(rule,)), Touched(key("team"))
    granted(fleet, "team", "approve")
    granted(fleet, "boss", "approve")
    async with at_work(tmp_path, fleet, signer) as (_, admin):
        acted = await enroll_many(admin, wishes(fleet, MANY))
        assert {} == admin.state.devices
        assert Kind.WAITS is judged(wishes(fleet, 1)[0].request, admin.state).kind
        with pytest.raises(UserError, match="is signed, and waits for approvals"):
            await enroll_many(admin, wishes(fleet, 1))
    needed = "1 more approval is needed, by another principal with the right to approve, within the hour"
    assert {needed} == {one.waits for one in acted}
    assert 1 == signer.touches
    fleet.approve(acted[0].digest, "team")
    assert {} == fleet.state.devices
    fleet.approve(acted[0].digest, "boss")
    assert [device_id("web-000")] == list(fleet.state.devices)


async def test_without_the_roots_threshold_many_are_refused_as_one_is(tmp_path: Path) -> None:
    """One of two root keys cannot hand on: nothing is a grant, and each enrolment waits for the other key."""
    fleet, signer = Fleet("admin", "other", threshold=2), Touched(key("admin"))
    fleet.now += 1
    fleet.approve(Digest(fleet.fleet), "other")
    async with at_work(tmp_path, fleet, signer) as (_, admin):
        acted = await enroll_many(admin, wishes(fleet, MANY))
    assert ({"1 more root signature is needed"}, MANY) == ({one.waits for one in acted}, signer.touches)


async def test_many_changes_cost_one_touch_and_reach_no_further(tmp_path: Path) -> None:
    """Holding and retiring: `device` alone, over the tags that all of them have."""
    fleet, signer = Fleet(), Touched(key("admin"))
    names = [f"web-{number}" for number in range(MANY)]
    for number, name in enumerate(names):
        fleet.device(name, tags={"env": "prod", "rack": str(number), **({"odd": "1"} if number % 2 else {})})
    async with at_work(tmp_path, fleet, signer) as (_, admin):
        await admin.hold(names, fleet.now + 60)
        assert 1 == signer.touches
        await admin.retire(names)
        assert 2 == signer.touches
        assert {"retired"} == {one.statement.state for one in admin.state.devices.values()}
    first = grants(fleet)[0]
    racks = tuple(str(number) for number in range(MANY))
    assert (("device",), {"env": ("prod",), "rack": racks}, None) == (first.actions, first.select, first.max_uses)


async def test_many_tags_that_bring_a_rollout_take_deploy_too(tmp_path: Path) -> None:
    """The tags before and after are in reach of the grant; without a standing rollout `deploy` is not handed on."""
    fleet, signer = Fleet(), Touched(key("admin"))
    names = [f"web-{number}" for number in range(MANY)]
    for name in names:
        fleet.device(name, tags={"env": "dev"})
    release, _ = fleet.release("r")
    fleet.rollout(release, select={"env": ("prod",)}, not_after=T0 + YEAR_S)
    async with at_work(tmp_path, fleet, signer) as (_, admin):
        await admin.tag(names, {"site": "rome"})
        await admin.tag(names, {"env": "prod"})
        assert {"env": "prod", "site": "rome"} == admin.state.devices[device_id("web-0")].statement.tags
    assert 2 == signer.touches
    assert [(("device",), {"env": ("dev",)}), (("deploy", "device"), {"env": ("dev", "prod"), "site": ("rome",)})] == [
        (one.actions, one.select) for one in grants(fleet)
    ]


async def test_names_that_move_are_freed_in_the_same_append(tmp_path: Path) -> None:
    """With `replace`, two grants: one to retire the holders, one to enrol; who comes last fails nobody."""
    fleet, signer = Fleet(), Touched(key("admin"))
    for number in range(MANY):
        fleet.device(f"old-{number}", name=f"web-{number}")
    moved = [Wish(asking(fleet, f"new-{number}"), name=f"web-{number}", replace=True) for number in range(MANY)]
    async with at_work(tmp_path, fleet, signer) as (log, admin):
        acted = await enroll_many(admin, moved)
        assert [(device_id(f"new-{number}"),) for number in range(MANY)] == [
            admin.state.named(f"web-{number}") for number in range(MANY)
        ]
    assert (2, [2, 2 * MANY], MANY) == (signer.touches, [len(one.statements) for one in log.appended], len(acted))


async def test_somebody_faster_costs_no_second_touch(tmp_path: Path) -> None:
    """What others append in between does not bring the question for a signature back."""
    fleet, signer = Fleet(), Touched(key("admin"))
    async with at_work(tmp_path, fleet, signer) as (log, admin):
        others = iter(range(9))
        log.before_append = lambda: fleet.device(f"other-{next(others)}")
        await enroll_many(admin, wishes(fleet, MANY))
    assert 1 == signer.touches


async def test_a_grant_that_is_refused_ends_it_before_anything_is_enrolled(tmp_path: Path) -> None:
    """The right was taken away meanwhile: the refusal is told, and no device is half in."""
    fleet, signer = Fleet(), Touched(key("team"))
    team(fleet, "enroll", "grant", depth=1)
    async with at_work(tmp_path, fleet, signer) as (log, admin):
        (held,) = fleet.state.grants
        log.before_append = lambda: fleet.revoke(grant=held) if held not in fleet.state.revoked_grants else None
        with pytest.raises(Refused, match=r"its parent is not live|no grant of its key is live"):
            await enroll_many(admin, wishes(fleet, MANY, env="prod"))
    assert {} == fleet.state.devices


async def test_what_cannot_be_is_sorted_out_before_a_touch(tmp_path: Path) -> None:
    """Enrolled, taken, retired, twice in the list: each has its sentence, and nothing is signed."""
    fleet, signer = Fleet(), Touched(key("admin"))
    fleet.device("web-01")
    fleet.device("gone")
    fleet.device("gone", state="retired")
    other = asking(fleet, "web-01")
    rekeyed = factories.asking(fleet.fleet, "web-01", by="x")
    cases = [
        (Wish(other), "it is enrolled already, as web-01"),
        (Wish(rekeyed), "shows another key than"),
        (Wish(asking(fleet, "gone")), "which is retired: on the device: nixfleet agent join --replace"),
        (Wish(asking(fleet, "y"), name="web-01"), "the name web-01 is taken; to move it"),
        (Wish(asking(fleet, "z")), ""),
        (Wish(asking(fleet, "z")), "another device of this list"),
    ]
    async with at_work(tmp_path, fleet, signer) as (log, admin):
        found = sort_out(admin.state, [wish for wish, _ in cases])
        assert [cases[4][0]] == list(found.good)
        for (_, fault), (_, expected) in zip(found.bad, [case for case in cases if case[1]], strict=True):
            assert expected in fault
        with pytest.raises(UserError, match="enrolled already"):
            await enroll_many(admin, [Wish(other)])
        assert ([], 0) == (log.appended, signer.touches)
