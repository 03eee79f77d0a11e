"""Rollouts through the coordinator: starts, gates, waves, halts, restarts; decided by the planner, told by HTTP."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.factories import device_id, store_path
from tests.server.harness import DEADLINE_S, Rig, rig, until

from nixfleet.client.api import Client
from nixfleet.model.device import Attempt, Cause, LocalPause, Outcome, Phase
from nixfleet.model.ids import Digest
from nixfleet.model.statements import StopAt, Wave
from nixfleet.model.views import RolloutDetail, RolloutView
from nixfleet.model.wire import Sync
from nixfleet.query import status_of
from nixfleet.server.store import AttemptRow, RolloutRow
from nixfleet.server.store.plans import PlanTables
from nixfleet.trust.gate import Gate, open_gate

CANARY = (Wave(members=1), Wave(members="100%"))


async def _released(one: Rig, admin: Client, *names: str) -> Digest:
    digest, lines = one.fleet.release("a", {name: f"{name}-new" for name in names})
    assert lines is not None
    await one.send(admin, lines.texts)
    return digest


async def _begin(one: Rig, admin: Client, *names: str, **fields: Any) -> Digest:
    """Release a system for each device, and roll it out."""
    rollout = one.fleet.rollout(await _released(one, admin, *names), **fields)
    await one.send(admin)
    return rollout


async def _online(one: Rig, *names: str) -> dict[str, Sync]:
    """Poll as these devices, which makes them online."""
    answers = {}
    for name in names:
        async with one.client(name) as device:
            await device.report(one.report(name))
            answers[name] = await device.sync(0)
    return answers


def _gates(one: Rig, sync: Sync) -> list[Gate]:
    return [open_gate(note, one.fleet.log_key.public, one.fleet.fleet) for note in sync.gates]


async def _gated(one: Rig, name: str) -> list[Gate]:
    async with one.client(name) as device:
        return _gates(one, await until(lambda: device.sync(0), lambda sync: bool(sync.gates)))


async def _rollout(admin: Client, rollout: str, state: str) -> RolloutView:
    detail = await until(lambda: admin.rollout(rollout), lambda detail: detail.rollout.state == state)
    return detail.rollout


async def _report(one: Rig, name: str, rollout: str, outcome: Outcome, **fields: Any) -> None:
    async with one.client(name) as device:
        await device.report(one.outcome(name, rollout, outcome, **fields))


async def test_rollout_starts_gates_and_finishes(tmp_path: Path) -> None:
    """Both devices get a gate for their own try, and the rollout stands when both have confirmed."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("admin") as admin:
        syncs = await _online(one, "web-01", "web-02")
        assert [sync.gates for sync in syncs.values()] == [(), ()]
        rollout = await _begin(one, admin, "web-01", "web-02")
        for name in ("web-01", "web-02"):
            (gate,) = await _gated(one, name)
            size = one.fleet.size
            assert gate == Gate(one.fleet.fleet, rollout, device_id(name), 1, size, int(one.now), 1)
            async with one.client(name) as device:
                line = (await device.line(rollout)).line
            assert line is not None
            assert f"{name}-new" in line.line
            await _report(one, name, rollout, Outcome.CONFIRMED, path=store_path(f"{name}-new"))
        view = await _rollout(admin, rollout, "finished")
        assert (view.standing, view.total, view.confirmed, view.in_flight) == (True, 2, 2, 0)
        async with one.client("web-01") as device:
            assert (await device.sync(0)).gates == ()


async def test_only_started_devices_get_a_gate(tmp_path: Path) -> None:
    """While the canary runs, the device of the next wave has no gate, and the reason is told in words."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("admin") as admin:
        await _online(one, "web-01", "web-02")
        rollout = await _begin(one, admin, "web-01", "web-02", waves=CANARY)
        detail = await until(lambda: admin.rollout(rollout), lambda detail: detail.rollout.in_flight == 1)
        (canary, later) = sorted(detail.members, key=lambda member: member.wave)
        assert [gate.wave for gate in await _gated(one, canary.name)] == [1]
        async with one.client(later.name) as device:
            assert (await device.sync(0)).gates == ()
        assert later.waits.startswith("wave 2 of 2 waits: wave 1 is not")
        await _report(one, canary.name, rollout, Outcome.CONFIRMED)
        assert [gate.wave for gate in await _gated(one, later.name)] == [2]


async def test_an_outcome_is_judged_once_its_plan_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the decision on a failure is still being written, the rollout says that more is to come."""
    decide, held, go = PlanTables.decide, threading.Event(), threading.Event()

    async def slowly(self: PlanTables, row: RolloutRow, tries: Sequence[AttemptRow]) -> None:
        if held.is_set():
            await asyncio.to_thread(go.wait, DEADLINE_S)
        await decide(self, row, tries)

    monkeypatch.setattr(PlanTables, "decide", slowly)
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        await _online(one, "web-01")
        rollout = await _begin(one, admin, "web-01")
        await _gated(one, "web-01")
        held.set()
        await _report(one, "web-01", rollout, Outcome.REVERTED, cause=Cause.HEALTH)
        detail = await until(lambda: admin.rollout(rollout), lambda said: said.members[0].outcome is not None)
        assert ("running", False) == (detail.rollout.state, detail.rollout.judged)
        go.set()
        assert (await _rollout(admin, rollout, "halted")).judged


async def test_a_device_that_is_to_be_updated_never_seems_to_have_drifted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its plan is stored it waits, then it is updating, unless it says why it begins nothing; or paused."""
    decide, go = PlanTables.decide, threading.Event()

    async def slowly(self: PlanTables, row: RolloutRow, tries: Sequence[AttemptRow]) -> None:
        await asyncio.to_thread(go.wait, DEADLINE_S)
        await decide(self, row, tries)

    monkeypatch.setattr(PlanTables, "decide", slowly)
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        await _online(one, "web-01")
        rollout = await _begin(one, admin, "web-01")
        view = await admin.device("web-01")
        assert ("waiting", store_path("web-01-new")) == (status_of(view), view.intended)
        go.set()
        view = await until(lambda: admin.device("web-01"), lambda view: not view.waits)
        assert ("updating", Phase.OFFERED) == (status_of(view), view.phase)
        async with one.client("web-01") as device:
            await device.report(one.report("web-01", note="untrusted: entry 5"))
            view = await admin.device("web-01")
            assert ("waiting", *["untrusted: entry 5"] * 2) == (status_of(view), view.reason, view.waits)
            await device.report(one.report("web-01"))
        one.fleet.control(rollout, "pause")
        await one.send(admin)
        view = await until(lambda: admin.device("web-01"), lambda view: "paused" in view.waits)
        assert ("waiting", "the rollout waits: paused by a signed act") == (status_of(view), view.waits)
        done = Attempt(rollout=rollout, run=1, phase=Phase.CONFIRMED, outcome=Outcome.CONFIRMED)
        async with one.client("web-01") as device:
            await device.report(one.report("web-01", attempt=done, system=view.intended))
            view = await until(lambda: admin.device("web-01"), lambda view: view.outcome is not None)
            assert ("ok", "") == (status_of(view), view.waits)
            await device.report(one.report("web-01", attempt=done, system="/run/by-hand"))
        view = await until(lambda: admin.device("web-01"), lambda view: view.system == "/run/by-hand")
        assert status_of(view) == "drifted"


async def test_failure_halts_and_says_why(tmp_path: Path) -> None:
    """A failed canary halts the rollout; nothing starts before a signed resume, and a retry brings a second try."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("admin") as admin:
        await _online(one, "web-01", "web-02")
        rollout = await _begin(one, admin, "web-01", "web-02", waves=CANARY)
        detail = await until(lambda: admin.rollout(rollout), lambda detail: detail.rollout.in_flight == 1)
        canary = min(detail.members, key=lambda member: member.wave).name
        failed: dict[str, Any] = {"cause": Cause.HEALTH, "reason": "nginx.service failed\x1b[31m"}
        await _report(one, canary, rollout, Outcome.REVERTED, **failed)
        view = await _rollout(admin, rollout, "halted")
        assert (view.halted, view.failed) == ("1 of 2 failed, it stops at 1", 1)
        device = await admin.device(canary)
        assert (device.outcome, device.cause, device.reason) == (Outcome.REVERTED, "health", "nginx.service failed")
        one.fleet.control(rollout, "resume")
        one.fleet.control(rollout, "retry", devices="failed")
        await one.send(admin)
        assert [gate.run for gate in await _gated(one, canary)] == [2]
        device = await admin.device(canary)
        assert (device.phase, device.outcome, device.reason) == (Phase.OFFERED, None, "")
        await _report(one, canary, rollout, Outcome.CONFIRMED, run=2)
        (history, first) = await admin.device_history(canary)
        assert (history.run, history.outcome, first.run, first.outcome) == (2, "confirmed", 1, "reverted")


async def test_pause_and_cancel_take_gates_back(tmp_path: Path) -> None:
    """No gate is handed out for a paused or cancelled rollout."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        await _online(one, "web-01")
        rollout = await _begin(one, admin, "web-01")
        await _gated(one, "web-01")
        for verb, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
            one.fleet.control(rollout, verb)
            await one.send(admin)
            await _rollout(admin, rollout, state)
            async with one.client("web-01") as device:
                assert bool((await device.sync(0)).gates) == (state == "running")


async def test_rollout_goes_on_after_restart(tmp_path: Path) -> None:
    """A restarted coordinator knows what it started and what came of it, and goes on with the next wave."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one:
        async with one.client("admin") as admin:
            await _online(one, "web-01", "web-02")
            rollout = await _begin(one, admin, "web-01", "web-02", waves=CANARY)
            detail = await until(lambda: admin.rollout(rollout), lambda detail: detail.rollout.in_flight == 1)
        await asyncio.to_thread(one.restart)
        async with one.client("admin") as admin:
            again = await admin.rollout(rollout)
            assert again.rollout.started_at == detail.rollout.started_at
            assert [(m.name, m.wave) for m in again.members] == [(m.name, m.wave) for m in detail.members]
            canary, later = (member.name for member in again.members)
            await _online(one, "web-01", "web-02")
            assert [gate.run for gate in await _gated(one, canary)] == [1]
            await _report(one, canary, rollout, Outcome.CONFIRMED)
            await _gated(one, later)
            await _report(one, later, rollout, Outcome.CONFIRMED)
            await _rollout(admin, rollout, "finished")


async def test_newer_rollout_supersedes(tmp_path: Path) -> None:
    """A newer rollout takes the devices over; the older one offers nothing any more."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        first = await _begin(one, admin, "web-01")
        await _rollout(admin, first, "running")
        release, _ = one.fleet.release("b")
        second = one.fleet.rollout(release)
        await one.send(admin)
        await _rollout(admin, first, "superseded")
        await _online(one, "web-01")
        assert [gate.rollout for gate in await _gated(one, "web-01")] == [second]
        device = await admin.device("web-01")
        assert (device.rollout, device.release, device.intended) == (second, "b", store_path("b"))


async def test_joiner_gets_what_stands(tmp_path: Path) -> None:
    """A device enrolled after a rollout finished is started on it."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        await _online(one, "web-01")
        release, _ = one.fleet.release("a")
        rollout = one.fleet.rollout(release)
        await one.send(admin)
        await _gated(one, "web-01")
        await _report(one, "web-01", rollout, Outcome.CONFIRMED)
        await _rollout(admin, rollout, "finished")
        one.fleet.device("web-02", tags={"env": "prod"})
        await one.send(admin)
        await _online(one, "web-02")
        assert [gate.rollout for gate in await _gated(one, "web-02")] == [rollout]


async def test_unauthorised_rollout_starts_nobody(tmp_path: Path) -> None:
    """A rollout by a key whose grant does not reach a device is never offered to it."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        one.fleet.grant("ci", "release", "deploy", select={"env": ["test"]})
        release, _ = one.fleet.release("a")
        rollout = one.fleet.rollout(release, by="ci")
        await one.send(admin)
        await _online(one, "web-01")
        detail: RolloutDetail = await until(lambda: admin.rollout(rollout), lambda _: True)
        assert detail.rollout.total == 0
        async with one.client("web-01") as device:
            assert (await device.sync(0)).gates == ()


async def test_progress_is_shown_and_bounded(tmp_path: Path) -> None:
    """Progress shows in the device's view with its lines cleaned; only the newest 2,000 lines are kept."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        await _online(one, "web-01")
        rollout = await _begin(one, admin, "web-01")
        await _gated(one, "web-01")
        async with one.client("web-01") as device:
            from nixfleet.model.device import Progress

            told = Progress(
                rollout=rollout, phase=Phase.FETCHING, done_bytes=5, total_bytes=10, lines=("\x1b[1mhi\x07",)
            )
            await device.progress(told)
            for start in range(0, 2_200, 200):
                lines = tuple(f"line {number}" for number in range(start, start + 200))
                await device.progress(Progress(rollout=rollout, phase=Phase.ACTIVATING, lines=lines))
        view = await admin.device("web-01")
        assert view.phase is Phase.ACTIVATING
        first = await admin.device_lines("web-01", 0)
        assert (len(first.lines), first.next, first.lines[-1]) == (2_000, 2_201, "line 2199")
        assert (await admin.device_lines("web-01", 2_199)).lines == ("line 2198", "line 2199")


async def test_stop_at_counts_only_this_rollout(tmp_path: Path) -> None:
    """With room for one failure the rollout goes on to the end."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("admin") as admin:
        await _online(one, "web-01", "web-02")
        rollout = await _begin(one, admin, "web-01", "web-02", stop_at=StopAt(count=2))
        await _gated(one, "web-01")
        await _report(one, "web-01", rollout, Outcome.FAILED, cause=Cause.ACTIVATION)
        await _report(one, "web-02", rollout, Outcome.CONFIRMED)
        view = await _rollout(admin, rollout, "finished")
        assert (view.confirmed, view.failed) == (1, 1)


async def test_failure_that_mends_itself_keeps_its_gate(tmp_path: Path) -> None:
    """A device whose network failed is in flight still, with a gate; one whose activation failed has none."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("web-01") as device:
        await _online(one, "web-01")
        rollout = await _begin(one, admin, "web-01", stop_at=StopAt(count=2))
        await _gated(one, "web-01")
        await _report(one, "web-01", rollout, Outcome.FAILED, cause=Cause.NETWORK)
        view = await until(lambda: admin.device("web-01"), lambda view: view.outcome is Outcome.FAILED)
        assert view.cause == "network"
        assert len((await device.sync(0)).gates) == 1
        await _report(one, "web-01", rollout, Outcome.FAILED, cause=Cause.ACTIVATION)
        await until(lambda: device.sync(0), lambda sync: not sync.gates)


async def test_rollback_takes_back_what_was_confirmed(tmp_path: Path) -> None:
    """A rollback is for the devices that confirmed, and shows the system that each said it came from."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("admin") as admin:
        await _online(one, "web-01", "web-02")
        first = await _begin(one, admin, "web-01")
        await _gated(one, "web-01")
        await _report(one, "web-01", first, Outcome.CONFIRMED, path=store_path("new"), previous=store_path("old"))
        await _rollout(admin, first, "finished")
        back = one.fleet.rollout(None, kind="rollback", of=first)
        await one.send(admin)
        assert [gate.rollout for gate in await _gated(one, "web-01")] == [back]
        detail = await admin.rollout(back)
        assert [member.name for member in detail.members] == ["web-01"]
        assert (await admin.device("web-01")).intended == store_path("old")


async def test_held_device_waits_in_words(tmp_path: Path) -> None:
    """A device held by a signed act is not started, and its view says until when."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        await _online(one, "web-01")
        one.fleet.device("web-01", state="held", until=int(one.now) + 86_400)
        await one.send(admin)
        await _begin(one, admin, "web-01")
        view = await until(lambda: admin.device("web-01"), lambda view: "held until" in view.waits)
        assert (view.state, view.release) == ("held", "a")


async def test_a_device_that_root_has_paused_says_so_wherever_it_is_looked_for(tmp_path: Path) -> None:
    """Its signed word shows in its view, its status and its rollout; it is started once it says that it is over."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        await _online(one, "web-01")
        until_s = int(one.now) + 3_600
        async with one.client("web-01") as device:
            await device.report(one.report("web-01", paused=LocalPause(until=until_s, reason="moving \x1b[1mthe rack")))
        rollout = await _begin(one, admin, "web-01")
        view = await until(lambda: admin.device("web-01"), lambda view: "paused on the device" in view.waits)
        assert (until_s, "moving the rack", "paused") == (view.paused_until, view.pause_reason, status_of(view))
        (member,) = (await admin.rollout(rollout)).members
        assert "paused-there" == (member.why or {})["reason"]
        async with one.client("web-01") as device:
            assert () == (await device.sync(0)).gates
            await device.report(one.report("web-01"))
        assert [rollout] == [gate.rollout for gate in await _gated(one, "web-01")]
        assert (await admin.device("web-01")).paused_until is None


async def test_a_device_that_runs_another_system_than_it_confirmed_has_drifted(tmp_path: Path) -> None:
    """A local switch shows as drift, and no longer once the system that it confirmed runs again."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        await _online(one, "web-01")
        first = await _begin(one, admin, "web-01")
        await _gated(one, "web-01")
        done = Attempt(
            rollout=first,
            run=1,
            phase=Phase.CONFIRMED,
            outcome=Outcome.CONFIRMED,
            path=store_path("web-01-new"),
        )
        for system, word, drifted in (
            ("web-01-new", "ok", False),
            ("own", "drifted", True),
            ("web-01-new", "ok", False),
        ):
            async with one.client("web-01") as device:
                await device.report(one.report("web-01", attempt=done, system=store_path(system)))
            view = await admin.device("web-01")
            assert (drifted, word) == (view.drifted, status_of(view))


async def test_unauthorised_or_cancelled_rollout_supersedes_nothing(tmp_path: Path) -> None:
    """What nobody with the right has signed, and what is cancelled, leaves the older rollout as it stands."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        one.fleet.grant("ci", "release", "deploy", select={"env": ["test"]})
        await one.send(admin)
        first = await _begin(one, admin, "web-01")
        release, _ = one.fleet.release("b")
        one.fleet.rollout(release, by="ci")
        cancelled = one.fleet.rollout(release)
        await one.send(admin)
        await _rollout(admin, first, "superseded")
        one.fleet.control(cancelled, "cancel")
        await one.send(admin)
        await _rollout(admin, first, "running")
        await _online(one, "web-01")
        assert [gate.rollout for gate in await _gated(one, "web-01")] == [first]


async def test_late_report_takes_no_outcome_back(tmp_path: Path) -> None:
    """Of reports that arrive at once the newest tells how each try ended, now and after a restart."""
    names = [f"d{number}" for number in range(8)]
    async with rig(tmp_path / "data", *names) as one, one.client("admin") as admin, one.client(None) as device:
        await _online(one, *names)
        rollout = await _begin(one, admin, *names)
        for name in names:
            await _gated(one, name)
        fetching = Attempt(rollout=rollout, run=1, phase=Phase.FETCHING)
        older = [one.report(name, attempt=fetching) for name in names]
        newer = [one.outcome(name, rollout, Outcome.CONFIRMED) for name in names]
        pairs = zip(newer, older, strict=True)
        await asyncio.gather(*(device.report(signed) for pair in pairs for signed in pair))
        await _rollout(admin, rollout, "finished")
        await asyncio.to_thread(one.restart)
        async with one.client("admin") as again:
            detail = await again.rollout(rollout)
        assert {member.outcome for member in detail.members} == {Outcome.CONFIRMED}
