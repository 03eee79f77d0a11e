"""Rollouts that lack a signature or a right: who is held back, what is shown, and what goes on once it is there."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.factories import principal
from tests.server.harness import Rig, rig, until

from nixfleet.client.api import Client
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Rule
from nixfleet.model.views import RolloutDetail, RolloutView
from nixfleet.trust.gate import open_gate
from nixfleet.trust.statements import digest

WAITS = "the rollout waits: 1 more approval is needed, by another principal with the right to approve"


@asynccontextmanager
async def ruled(folder: Path, *rules: Rule) -> AsyncGenerator[tuple[Rig, Client]]:
    """Serve a fleet of a production and a development device, with an operator and an approver, under rules."""
    async with rig(folder, "web-01") as one, one.client("admin") as admin:
        fleet = one.fleet
        fleet.device("dev-01", tags={"env": "dev"})
        fleet.grant("ops", "release", "deploy")
        fleet.grant("oncall", "approve")
        fleet.approve(fleet.root(principals=(principal("admin"), principal("boss")), threshold=2, rules=rules), "boss")
        await one.send(admin)
        yield one, admin


async def awake(one: Rig) -> None:
    """Let both devices report and poll, which makes them online."""
    for name in ("web-01", "dev-01"):
        async with one.client(name) as device:
            await device.report(one.report(name))
            await device.sync(0)


async def begin(one: Rig, admin: Client, name: str) -> tuple[Digest, Digest]:
    """Release a system of this name for both devices and roll it out, both by the operator."""
    release, lines = one.fleet.release(name, {"web-01": name, "dev-01": name}, by="ops")
    assert lines is not None
    await one.send(admin, lines.texts)
    rollout = one.fleet.rollout(release, by="ops")
    await one.send(admin)
    return release, rollout


async def shown(admin: Client, rollout: Digest, state: str, waits: str = "") -> RolloutView:
    """Wait until a rollout is shown in a state, and what it waits for."""

    def holds(detail: RolloutDetail) -> bool:
        return detail.rollout.state == state and waits in detail.rollout.waits

    return (await until(lambda: admin.rollout(rollout), holds)).rollout


async def gated(one: Rig, name: str) -> set[str]:
    """Name the rollouts whose gate is open for a device."""
    async with one.client(name) as device:
        notes = (await device.sync(0)).gates
    return {open_gate(note, one.fleet.log_key.public, one.fleet.fleet).rollout for note in notes}


async def gated_by(one: Rig, name: str, rollout: Digest) -> None:
    """Wait until a rollout's gate is open for a device."""
    await until(lambda: gated(one, name), lambda gates: gates == {rollout})


async def test_nobody_starts_before_the_approvals_are_there(tmp_path: Path) -> None:
    """A rule on production holds the whole rollout back, and says so; with the approval it begins, in its waves."""
    rule = Rule(select={"env": ("prod",)}, actions=("deploy",), approvals=1)
    async with ruled(tmp_path / "data", rule) as (one, admin):
        await awake(one)
        _, rollout = await begin(one, admin, "a")
        view = await shown(admin, rollout, "waiting", "approval")
        assert (WAITS, 2, False) == (view.waits, view.total, view.standing)
        for name in ("web-01", "dev-01"):
            assert set() == await gated(one, name)
            assert (await admin.device(name)).waits in {"", WAITS}
        assert WAITS == (await until(lambda: admin.device("web-01"), lambda device: bool(device.waits))).waits
        assert "" == (await admin.device("web-01")).intended
        one.fleet.approve(rollout, "oncall")
        await one.send(admin)
        for name in ("web-01", "dev-01"):
            await gated_by(one, name, rollout)
        assert "running" == (await admin.rollout(rollout)).rollout.state


async def test_what_waits_for_approval_replaces_nothing(tmp_path: Path) -> None:
    """The older rollout goes on until the newer one may; then it is superseded."""
    rule = Rule(select={"env": ("prod",)}, actions=("deploy",), approvals=1)
    async with ruled(tmp_path / "data", rule) as (one, admin):
        await awake(one)
        _, old = await begin(one, admin, "old")
        one.fleet.approve(old, "oncall")
        await one.send(admin)
        await gated_by(one, "web-01", old)
        _, new = await begin(one, admin, "new")
        await shown(admin, new, "waiting")
        assert "running" == (await admin.rollout(old)).rollout.state
        assert {old} == await gated(one, "web-01")
        one.fleet.approve(new, "oncall")
        await one.send(admin)
        await shown(admin, old, "superseded")
        await gated_by(one, "web-01", new)


async def test_a_release_with_device_lines_is_approved(tmp_path: Path) -> None:
    """The approval brings no lines; without it the release is brought to nobody."""
    rule = Rule(select={"env": ("prod",)}, actions=("release",), approvals=1)
    async with ruled(tmp_path / "data", rule) as (one, admin):
        release, rollout = await begin(one, admin, "a")
        await awake(one)
        await shown(admin, rollout, "waiting", "its release: 1 more approval is needed")
        one.fleet.approve(release, "oncall")
        await one.send(admin)
        await gated_by(one, "web-01", rollout)


async def test_a_rollout_whose_signer_lost_the_right_is_not_called_finished(tmp_path: Path) -> None:
    """Revoked before anybody began: it waits, says for what, stands for nobody; the one before it is back."""
    async with ruled(tmp_path / "data") as (one, admin):
        grant = next(id_ for id_, record in one.fleet.state.grants.items() if record.principal == "ops")
        release, lines = one.fleet.release("old", {"web-01": "old"})
        assert lines is not None
        await one.send(admin, lines.texts)
        one.fleet.approve(release, "boss")
        old = one.fleet.rollout(release)
        one.fleet.approve(old, "boss")
        await one.send(admin)
        _, new = await begin(one, admin, "new")
        await shown(admin, old, "superseded")
        one.fleet.revoke(grant=grant)
        one.fleet.approve(digest(one.fleet.entries[-1][1]), "boss")
        await one.send(admin)
        view = await shown(admin, new, "waiting", f"its grant {grant[:12]} is revoked")
        assert (0, False) == (view.total, view.standing)
        assert 1 == (await shown(admin, old, "running")).total
        await awake(one)
        await gated_by(one, "web-01", old)


async def test_who_has_begun_gets_no_gate_any_more_by_a_signer_without_the_right(tmp_path: Path) -> None:
    """The devices themselves stop before they switch; the coordinator opens nothing for them meanwhile."""
    async with ruled(tmp_path / "data") as (one, admin):
        await awake(one)
        _, rollout = await begin(one, admin, "a")
        await gated_by(one, "web-01", rollout)
        one.fleet.revoke(key_name="ops")
        one.fleet.approve(digest(one.fleet.entries[-1][1]), "boss")
        await one.send(admin)
        await shown(admin, rollout, "waiting", "is revoked")
        assert set() == await gated(one, "web-01")


async def test_a_signer_without_a_right_to_some_devices_updates_the_others(tmp_path: Path) -> None:
    """Rights are judged per device: nobody could sign for the rest, so nobody waits for them."""
    async with ruled(tmp_path / "data") as (one, admin):
        await awake(one)
        one.fleet.grant("dev", "release", "deploy", select={"env": ["dev"]})
        one.fleet.approve(digest(one.fleet.entries[-1][1]), "boss")
        release, _ = one.fleet.release("a", by="dev")
        rollout = one.fleet.rollout(release, by="dev")
        await one.send(admin)
        await gated_by(one, "dev-01", rollout)
        view = await shown(admin, rollout, "running")
        assert (1, "") == (view.total, view.waits)
        assert set() == await gated(one, "web-01")
