"""Reports: whose they are, in which order, durable before they are answered, many in one transaction."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.factories import device_id, key
from tests.server.harness import DEADLINE_S, Rig, rig

from nixfleet.client.api import Client
from nixfleet.errors import Unreachable, Untrusted
from nixfleet.model.device import Facts, Outcome, Report
from nixfleet.model.statements import LogState
from nixfleet.model.wire import Signed
from nixfleet.server.coordinator.groups import GroupWriter
from nixfleet.server.faults import Busy
from nixfleet.server.store import Forget, Told
from nixfleet.server.store.status import StatusTables
from nixfleet.trust.reports import open_report, sign_report


class _Slow:
    """A transaction that ends when it is told to."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def write(self, items: Sequence[int]) -> None:
        """Take a group, and end when told."""
        self.groups.append(list(items))
        await self.go.wait()
        if self.error is not None:
            raise self.error


async def test_what_arrives_during_a_commit_shares_the_next() -> None:
    """One transaction is under way at a time; all that came meanwhile go into the next one."""
    slow = _Slow()
    writer = GroupWriter(slow.write)
    puts = [asyncio.create_task(writer.put(0))]
    await asyncio.sleep(0)
    puts += [asyncio.create_task(writer.put(number)) for number in range(1, 100)]
    await asyncio.sleep(0)
    assert not any(put.done() for put in puts)
    slow.go.set()
    await asyncio.gather(*puts)
    assert slow.groups in ([[0], list(range(1, 100))], [list(range(100))])
    await writer.close()


async def test_failed_commit_fails_everybody_in_it_and_nobody_after() -> None:
    """Each caller of a failed transaction hears of it; the next transaction is tried anew."""
    slow = _Slow()
    slow.go.set()
    slow.error = Unreachable("no disk")
    writer = GroupWriter(slow.write)
    results = await asyncio.gather(writer.put(1), writer.put(2), return_exceptions=True)
    assert [str(result) for result in results] == ["no disk", "no disk"]
    slow.error = None
    await writer.put(3)


async def test_too_many_waiting_are_turned_away() -> None:
    """The queue is bounded; whoever finds it full is told to come back."""
    slow = _Slow()
    writer = GroupWriter(slow.write, most=1)
    first = asyncio.create_task(writer.put(1))
    await asyncio.sleep(0)
    rest = [asyncio.create_task(writer.put(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    slow.go.set()
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert any(isinstance(result, Busy) for result in results)


async def test_report_shows_and_can_be_checked_by_anyone(tmp_path: Path) -> None:
    """The view has what the device signed, and the signed report itself is there to verify."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("web-01") as device:
        await device.report(one.report("web-01", system="/run/new", booted="/run/old", healthy=False))
        view = await admin.device("web-01")
        assert (view.system, view.booted, view.healthy, view.log_state) == ("/run/new", "/run/old", False, "ok")
        assert (view.reported_at, view.log_size) == (int(one.now), 2)
        signed = await admin.device_report("web-01")
        opened = open_report(signed, key("web-01").public, fleet=one.fleet.fleet, device=device_id("web-01"))
        assert opened.system == "/run/new"


async def test_lower_seq_is_dropped_over_a_restart_too(tmp_path: Path) -> None:
    """An old report, replayed, changes nothing and is answered the same."""
    async with rig(tmp_path / "data", "web-01") as one:
        old, new = one.report("web-01", system="/run/1"), one.report("web-01", system="/run/2", facts=None)
        async with one.client("web-01") as device:
            for signed in (new, old):
                await device.report(signed)
        await asyncio.to_thread(one.restart)
        async with one.client("web-01") as device, one.client("admin") as admin:
            await device.report(old)
            view = await admin.device("web-01")
            assert (view.system, view.facts) == ("/run/2", None)
            await device.report(one.report("web-01", system="/run/3", facts=Facts(hostname="x")))
            await device.report(one.report("web-01", system="/run/4", facts=None))
            view = await admin.device("web-01")
            assert view.facts is not None
            assert (view.system, view.facts.hostname) == ("/run/4", "x")


async def test_forged_reports_are_refused(tmp_path: Path) -> None:
    """A report by another device's key, of another fleet, of a stranger or damaged is not taken."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("admin") as admin:
        report = Report(
            v=1,
            fleet=one.fleet.fleet,
            device=device_id("web-01"),
            seq=1,
            at=int(one.now),
            log=LogState(size=0, root="0" * 64),
            protocol=1,
            boot_id="b",
            system="/s",
            booted="/s",
            healthy=True,
        )
        good = sign_report(report, key("web-01"))
        forged = [
            sign_report(report, key("web-02")),
            one.report("web-01", fleet="0" * 64),
            one.report("web-01", device=device_id("web-02")),
            one.report("web-03"),
            Signed(payload=good.payload.replace(b'"/s"', b'"/t"'), signature=good.signature),
            Signed(payload=b"{}", signature=good.signature),
        ]
        async with one.client(None) as anybody:
            for signed in forged:
                with pytest.raises(Untrusted):
                    await anybody.report(signed)
        assert (await admin.device("web-01")).reported_at == 0


async def test_fork_shows(tmp_path: Path) -> None:
    """A device that signed for another root at a size we know shows a fork; one ahead of us shows that."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("web-01") as device:
        for log, word in (
            (LogState(size=1, root="0" * 64), "fork"),
            (LogState(size=9, root="0" * 64), "ahead"),
            (LogState(size=1, root=one.fleet.tree.root(1).hex()), "ok"),
        ):
            await device.report(one.report("web-01", log=log))
            assert (await admin.device("web-01")).log_state == word
        one.fleet.grant("ci", "release")
        await one.send(admin)
        assert (await admin.device("web-01")).log_state == "behind"
        await device.sync(2)
        assert (await admin.device("web-01")).log_state == "ok"


async def test_attempts_at_what_is_not_in_the_log_leave_no_trace(tmp_path: Path) -> None:
    """A device cannot fill the history with rollouts that nobody signed, nor with tries that nobody wanted."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("web-01") as device:
        release, _ = one.fleet.release("a")
        rollout = one.fleet.rollout(release)
        await one.send(admin)
        await device.report(one.outcome("web-01", "0" * 64, Outcome.CONFIRMED))
        await device.report(one.outcome("web-01", rollout, Outcome.CONFIRMED, run=7))
        assert [past.outcome for past in await admin.device_history("web-01")] in ([], [None])


async def test_many_reports_at_once_are_all_durable(tmp_path: Path) -> None:
    """Reports of many devices at once are all there after a restart."""
    names = [f"d{number:02}" for number in range(20)]
    async with rig(tmp_path / "data", *names) as one:
        async with one.client(None) as anybody:
            await asyncio.gather(*(anybody.report(one.report(name, system=f"/run/{name}")) for name in names))
        await asyncio.to_thread(one.restart)
        async with one.client("admin") as admin:
            assert {view.name: view.system for view in await admin.devices()} == {n: f"/run/{n}" for n in names}


async def test_changed_key_starts_the_order_anew(tmp_path: Path) -> None:
    """After a signed key change the device's reports count from its new key's first one."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("web-01") as device:
        for _ in range(3):
            await device.report(one.report("web-01"))
        one.fleet.device("web-01", key=key("new").public.text)
        await one.send(admin)
        with pytest.raises(Untrusted):
            await device.report(one.report("web-01"))
        await device.report(_first_of_new_key(one))
        assert (await admin.device("web-01")).system == "/run/fresh"
        await asyncio.to_thread(one.restart)
        async with one.client("admin") as again:
            assert (await again.device("web-01")).system == "/run/fresh"


async def test_a_report_that_waits_while_its_key_changes_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the former key signed and was not written yet holds nothing against the new key's first report."""
    save, held, go = StatusTables.save, threading.Event(), threading.Event()
    add, queued = GroupWriter.add, threading.Event()

    async def slowly(self: StatusTables, items: Sequence[Told | Forget]) -> None:
        held.set()
        await asyncio.to_thread(go.wait, DEADLINE_S)
        await save(self, items)

    def noting(self: GroupWriter[Told | Forget], item: Told | Forget) -> asyncio.Future[None]:
        done = add(self, item)
        if isinstance(item, Told) and item.device.seq == 9:
            queued.set()
        return done

    monkeypatch.setattr(StatusTables, "save", slowly)
    monkeypatch.setattr(GroupWriter, "add", noting)
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("admin") as admin:
        async with one.client("web-02") as other, one.client("web-01") as device, asyncio.TaskGroup() as tasks:
            tasks.create_task(other.report(one.report("web-02")))
            assert await asyncio.to_thread(held.wait, DEADLINE_S)
            late = tasks.create_task(_refused(device, one.report("web-01", seq=9)))
            assert await asyncio.to_thread(queued.wait, DEADLINE_S)
            one.fleet.device("web-01", key=key("new").public.text)
            await one.send(admin)
            go.set()
        assert "no more" in late.result()
        async with one.client("web-01") as device:
            await device.report(_first_of_new_key(one))
        await asyncio.to_thread(one.restart)
        async with one.client("admin") as again:
            assert (await again.device("web-01")).system == "/run/fresh"


async def _refused(device: Client, signed: Signed) -> str:
    """Report, and give the sentence of the refusal."""
    with pytest.raises(Untrusted) as refused:
        await device.report(signed)
    return str(refused.value)


def _first_of_new_key(one: Rig) -> Signed:
    """Sign the first report of web-01's new key."""
    first = Report(
        v=1,
        fleet=one.fleet.fleet,
        device=device_id("web-01"),
        seq=1,
        at=int(one.now),
        log=LogState(size=0, root=one.fleet.tree.root(0).hex()),
        protocol=1,
        boot_id="b",
        system="/run/fresh",
        booted="/run/fresh",
        healthy=True,
    )
    return sign_report(first, key("new"))
