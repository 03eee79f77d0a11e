"""The whole agent against a made-up coordinator: real log, real signatures, real switches; Nix and network made up."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.agent.made_up import CACHE, digest_of
from tests.agent.site import Site, until

from nixfleet.agent import desk as desks
from nixfleet.agent.agent import Agent
from nixfleet.agent.history import attempt
from nixfleet.agent.update import Delivered, Tick
from nixfleet.model.device import Cause, Outcome, Phase
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Activation, TargetLine, Window
from nixfleet.model.wire import Sync
from nixfleet.nix import Fault, FaultKind
from nixfleet.trust.lines import LineTree
from nixfleet.trust.note import Checkpoint, origin, sign_checkpoint

pytestmark = pytest.mark.usefixtures("impatient")


async def test_a_device_joins_by_token_updates_and_reports_each_phase(tmp_path: Path) -> None:
    """From a token to a confirmed system: own key, own statement, proven line, one switch, one outcome."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    async with site.running() as agent:
        device = await site.member()
        record = site.fleet.state.devices[device].statement
        assert ("web-01", {"env": "prod"}, "active") == (record.name, record.tags, record.state)
        rollout = site.deploy(device, new)
        site.server.open_gate(rollout, device)
        await until(lambda: bool(site.server.outcomes()))
        await until(lambda: not agent.service.state.outbox)
    assert [(rollout, 1, "confirmed")] == site.server.outcomes()
    assert (new, new) == (site.machine.host.current_system(), site.machine.host.profile_system())
    assert [f"switch {new}"] == site.machine.switches()
    last = site.server.reports[-1]
    assert (new, True, site.fleet.log) == (last.system, last.healthy, last.log)
    assert site.server.reports[0].facts is not None
    assert sorted(one.seq for one in site.server.reports) == [one.seq for one in site.server.reports]
    assert len({one.seq for one in site.server.reports}) == len(site.server.reports)
    assert {one.total_bytes for one in site.server.progress if one.phase is Phase.FETCHING} == {1_000}
    assert 0o600 == (site.machine.state_dir / "device_key").stat().st_mode & 0o777


async def test_a_bad_system_is_taken_back_and_says_why(tmp_path: Path) -> None:
    """A failed activation ends reverted, with its exit code and last lines, on the old system."""
    site = Site(tmp_path)
    bad = site.machine.system("bad", at="cache", code=2, before="echo snippet failed")
    async with site.running():
        device = await site.member()
        rollout = site.deploy(device, bad)
        site.server.open_gate(rollout, device)
        await until(lambda: bool(site.server.outcomes()))
    assert [(rollout, 1, "reverted")] == site.server.outcomes()
    told = next(one.attempt for one in site.server.reports if one.attempt and one.attempt.outcome)
    assert (Cause.ACTIVATION, "the activation script failed", 2) == (told.cause, told.reason, told.exit_code)
    assert "snippet failed" in told.lines
    assert (site.old, site.old) == (site.machine.host.current_system(), site.machine.host.profile_system())


async def test_where_streams_break_the_agent_polls(tmp_path: Path) -> None:
    """A proxy that eats streams slows an update down, and does not stop it."""
    site = Site(tmp_path)
    site.server.streams = False
    new = site.machine.system("new", at="cache")
    async with site.running():
        device = await site.member()
        site.server.open_gate(site.deploy(device, new), device)
        await until(lambda: bool(site.server.outcomes()))
    assert new == site.machine.host.current_system()


async def test_what_a_coordinator_says_of_the_clock_revives_nothing(tmp_path: Path) -> None:
    """An expired rollout stays expired, though the coordinator puts the device's clock back; only stamps follow it."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    async with site.running() as agent:
        device = await site.member()
        rollout = site.deploy(device, new, not_after=site.fleet.now + 86_400)
        site.server.wake()
        await until(lambda: agent.link.mirror.size == site.fleet.size)
    site.fleet.now += 40 * 86_400
    site.server.skew_s = -40 * 86_400
    site.server.open_gate(rollout, device)
    async with site.running() as agent:
        await until(lambda: agent.desk.waits == "the rollout has expired")
        await until(lambda: site.server.reports[-1].note == "the rollout has expired")
        assert (site.fleet.now, site.fleet.now - 40 * 86_400) == (agent.link.wall(), agent.link.signing_s())
    assert (site.machine.switches(), site.server.reports[-1].at) == ([], site.fleet.now - 40 * 86_400)


@pytest.mark.parametrize("skew_s", [10**15, -(10**15)])
async def test_an_absurd_clock_of_a_coordinator_stops_no_agent(tmp_path: Path, skew_s: int) -> None:
    """A time that no clock shows neither ends the agent nor gets into what it signs."""
    site = Site(tmp_path)
    site.server.skew_s = skew_s
    new = site.machine.system("new", at="cache")
    always = Window(days=("mon", "tue", "wed", "thu", "fri", "sat", "sun"), from_="00:00", to="00:00", tz="UTC")
    async with site.running():
        device = await site.member()
        rollout = site.deploy(device, new, window=always)
        site.server.open_gate(rollout, device)
        await until(lambda: bool(site.server.outcomes()))
    assert ([(rollout, 1, "confirmed")], site.fleet.now) == (site.server.outcomes(), site.server.reports[-1].at)


async def test_an_outcome_whose_delivery_cannot_be_noted_is_not_told_over_and_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A service that takes nothing more, as on a full disk, costs a pause each time, not a flood of reports."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    async with site.running() as agent:
        device = await site.member()
        site.server.refuse_reports = "the database is gone"
        site.server.open_gate(site.deploy(device, new), device)
        await until(lambda: bool(agent.service.state.outbox))
        agent.service.halt()
        site.server.refuse_reports = ""
        await until(lambda: caplog.text.count("delivered cannot be noted") > 1)
        told = [one for one in site.server.reports if one.attempt is not None and one.attempt.outcome is not None]
        assert len(told) - caplog.text.count("delivered cannot be noted") in {0, 1}


async def test_a_slip_in_the_signed_addresses_does_not_cut_a_device_off(tmp_path: Path) -> None:
    """What cannot be an address is passed over, so that the root that mends it can arrive."""
    site = Site(tmp_path)
    async with site.running() as agent:
        await site.member()
        site.fleet.root(urls=("http://[fleet", "http://fleet.example:99999", "http://fleet.example"))
        site.server.wake()
        await until(lambda: agent.link.mirror.size == site.fleet.size)
        expected = ("http://fleet.example", "http://one.example", "http://two.example")
        assert expected == agent.link.urls()


async def test_an_idle_device_tells_that_it_replayed_a_new_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who moves the coordinator waits for it: nothing else would make a device say so that has nothing to do."""
    monkeypatch.setattr(desks, "TELL_ROOT_S", 0.05)
    site = Site(tmp_path)
    async with site.running():
        await site.member()
        await until(lambda: bool(site.server.reports))
        site.fleet.root(urls=("http://two.example", "http://one.example"))
        site.server.wake()
        await until(lambda: site.server.reports[-1].log == site.fleet.log)


async def test_an_undelivered_outcome_is_told_after_a_restart_and_nothing_is_done_twice(tmp_path: Path) -> None:
    """A report that cannot be delivered never causes a revert or a second install."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    async with site.running() as agent:
        device = await site.member()
        await until(lambda: bool(site.server.reports))
        site.server.refuse_reports = "the database is gone"
        site.server.open_gate(site.deploy(device, new), device)
        await until(lambda: bool(agent.service.state.outbox))
    assert site.server.outcomes() == []
    site.server.refuse_reports = ""
    async with site.running() as agent:
        await until(lambda: bool(site.server.outcomes()))
        await until(lambda: not agent.service.state.outbox)
    assert ([f"switch {new}"], new) == (site.machine.switches(), site.machine.host.current_system())


async def test_a_system_that_loses_the_coordinator_goes_back_and_tells_why(tmp_path: Path) -> None:
    """No signed sync in time: back to the old system, where the coordinator answers again."""
    site = Site(tmp_path)
    wait = f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"
    new = site.machine.system("new", at="cache", before=wait)
    async with site.running() as agent:
        device = await site.member()
        site.server.open_gate(site.deploy(device, new, activation=Activation(confirm_s=60)), device)
        await until((tmp_path / "begun").exists)
        site.server.down = "cut off by the new firewall"
        (tmp_path / "go").touch()
        await until(lambda: phase(agent) is Phase.CONFIRMING)
        site.boot_s += 61
        agent.service.feed(Tick())
        await until(lambda: site.machine.host.current_system() == site.old)
        site.server.down = ""
        await until(lambda: bool(site.server.outcomes()))
    told = next(one.attempt for one in site.server.reports if one.attempt and one.attempt.outcome)
    assert (Outcome.REVERTED, Cause.CONTACT) == (told.outcome, told.cause)


async def supervised(site: Site, meanwhile: Callable[[Agent], Coroutine[None, None, None]]) -> Agent:
    """Run an agent as a service manager does until it gives way to another system's, doing something meanwhile."""
    agent = Agent(replace(site.parts(), supervised=True))
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(agent.run())
        group.create_task(meanwhile(agent))
    assert agent.replaced
    return agent


async def test_each_system_that_runs_is_judged_by_its_own_agent(tmp_path: Path) -> None:
    """An agent under a service manager gives way after the switch, and the refused system's after going back."""
    site = Site(tmp_path)
    toml = f'state_dir = "{site.machine.state_dir}"\npoll_s = 2\n'
    new = site.machine.system("new", at="cache", agent_toml=toml)

    async def deploy(_: Agent) -> None:
        device = await site.member()
        site.server.open_gate(site.deploy(device, new, activation=Activation(confirm_s=60)), device)

    async def lose(agent: Agent) -> None:
        await until(lambda: phase(agent) is Phase.CONFIRMING)
        site.boot_s += 61
        agent.service.feed(Tick())

    assert Phase.CHECKING is phase(await supervised(site, deploy))
    site.server.down = "cut off by the new firewall"
    back = (await supervised(site, lose)).service.state.update
    assert back is not None
    assert (Phase.REVERTING, True, site.old) == (back.phase, back.settling, site.machine.host.current_system())
    site.server.down = ""
    async with site.running():
        await until(lambda: bool(site.server.outcomes()))
    assert ["reverted"] == [outcome for _, _, outcome in site.server.outcomes()]
    assert [f"switch {new}", f"switch {site.old}"] == site.machine.switches()


async def test_the_agent_that_checks_stays_when_an_older_outcome_is_delivered(tmp_path: Path) -> None:
    """Only a switch brings another agent: what else the journal notes meanwhile must not cut a check short."""
    site = Site(tmp_path)
    toml = f'state_dir = "{site.machine.state_dir}"\npoll_s = 2\n'
    new = site.machine.system("new", at="cache", agent_toml=toml)

    async def deploy(_: Agent) -> None:
        device = await site.member()
        site.server.open_gate(site.deploy(device, new), device)

    assert Phase.CHECKING is phase(await supervised(site, deploy))
    parts = site.parts()
    state = parts.journal.state
    assert state.update is not None
    untold = replace(attempt(state.update), rollout="0" * 64)
    parts.journal.write(replace(state, outbox=(untold,)))
    agent = Agent(replace(parts, supervised=True))
    agent.service.feed(Delivered(rollout=untold.rollout, run=untold.run))
    assert (False, Phase.CHECKING, ()) == (agent.replaced, phase(agent), agent.service.state.outbox)


async def test_the_agent_of_the_system_that_was_gone_back_to_stays(tmp_path: Path) -> None:
    """What went back at once runs under the agent that was there before: nobody else is waited for to report it."""
    site = Site(tmp_path)
    toml = f'state_dir = "{site.machine.state_dir}"\npoll_s = 2\n'
    bad = site.machine.system("bad", at="cache", code=2, agent_toml=toml)
    async with site.running(supervised=True) as agent:
        device = await site.member()
        site.server.open_gate(site.deploy(device, bad), device)
        await until(lambda: bool(site.server.outcomes()))
    assert (False, site.old) == (agent.replaced, site.machine.host.current_system())
    assert ["reverted"] == [outcome for _, _, outcome in site.server.outcomes()]


async def test_a_revoked_signature_stops_an_update_before_the_switch(tmp_path: Path) -> None:
    """The log is asked once more right before the switch."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    site.store.fetch_fault = Fault(FaultKind.unreachable, "the cache is gone for a while")
    site.fleet.grant("ops", "deploy", "release")
    async with site.running() as agent:
        device = await site.member()
        line = TargetLine(device=device, path=new, system="x86_64-linux", digest=digest_of(new), nar_size=1_000)
        site.server.lines = LineTree([line])
        release, _ = site.fleet.release("r", by="ops", caches=(CACHE,), lines=None, targets=site.server.lines.targets)
        rollout = site.fleet.rollout(release, by="ops")
        site.server.open_gate(rollout, device)
        await until(lambda: phase(agent) is Phase.FETCHING)
        site.fleet.revoke(key_name="ops")
        site.store.fetch_fault = None
        site.boot_s += 400
        agent.service.feed(Tick())
        await until(lambda: bool(site.server.outcomes()))
    assert ([(rollout, 1, "refused")], []) == (site.server.outcomes(), site.machine.switches())


@pytest.mark.parametrize(("forked", "outcomes"), [(False, ["confirmed"]), (True, [])])
async def test_contact_none_does_without_a_silent_coordinator_and_never_with_another_log(
    tmp_path: Path, outcomes: list[str], *, forked: bool
) -> None:
    """An update that asks for nobody's contact goes on offline; a fork seen right before the switch stops it."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    site.store.fetch_fault = Fault(FaultKind.unreachable, "the cache is gone for a while")
    async with site.running() as agent:
        device = await site.member()
        rollout = site.deploy(device, new, activation=Activation(contact="none"))
        site.server.open_gate(rollout, device)
        await until(lambda: retrying(agent))
        size = site.fleet.size
        rewritten = sign_checkpoint(Checkpoint(origin(site.fleet.fleet, 0), size, b"\1" * 32), site.fleet.log_key)
        if forked:
            site.server.tamper = lambda sync: replace(sync, checkpoint=rewritten, start=size, entries=())
        else:
            site.server.down = "the network is gone"
        site.store.fetch_fault = None
        site.boot_s += 400
        agent.service.feed(Tick())
        await until(lambda: phase(agent) is Phase.CONFIRMED or (phase(agent) is Phase.STAGED and retrying(agent)))
        site.server.down = ""
        site.server.wake()
        await until(lambda: len(site.server.outcomes()) == len(outcomes))
    assert [(rollout, 1, outcome) for outcome in outcomes] == site.server.outcomes()
    assert ([] if forked else [f"switch {new}"]) == site.machine.switches()


async def test_once_brings_one_update_to_its_end_and_returns(tmp_path: Path) -> None:
    """`run --once` needs no service: sync, update, report, exit."""
    site = Site(tmp_path)
    assert await Agent(site.parts()).run_once()
    device = await site.member()
    new = site.machine.system("new", at="cache")
    rollout = site.deploy(device, new)
    site.server.open_gates.append((rollout, device, 1))
    assert await Agent(site.parts()).run_once()
    assert ([(rollout, 1, "confirmed")], new) == (site.server.outcomes(), site.machine.host.current_system())


async def test_once_tells_by_its_end_that_the_update_failed(tmp_path: Path) -> None:
    """An update that was taken back is a failure of the run; the next run, with nothing to do, is none."""
    site = Site(tmp_path)
    await Agent(site.parts()).run_once()
    device = await site.member()
    bad = site.machine.system("bad", at="cache", code=2)
    site.server.open_gates.append((site.deploy(device, bad), device, 1))
    assert not await Agent(site.parts()).run_once()
    assert await Agent(site.parts()).run_once()


async def test_once_leaves_an_update_that_is_held_for_the_next_run(tmp_path: Path) -> None:
    """A pause can last for weeks: the run ends with what it has staged, and the next one after the resume switches."""
    site = Site(tmp_path)
    await Agent(site.parts()).run_once()
    device = await site.member()
    new = site.machine.system("new", at="cache")
    rollout = site.deploy(device, new)
    site.server.open_gates.append((rollout, device, 1))
    site.store.fetch_fault = Fault(FaultKind.unreachable, "the cache is gone for a while")
    agent = Agent(site.parts())
    running = asyncio.create_task(agent.run_once())
    await until(lambda: phase(agent) is Phase.FETCHING)
    site.fleet.control(Digest(rollout), "pause")
    site.store.fetch_fault = None
    site.boot_s += 400
    agent.service.feed(Tick())
    assert await running
    assert (Phase.STAGED, []) == (phase(agent), site.machine.switches())
    site.fleet.control(Digest(rollout), "resume")
    assert await Agent(site.parts()).run_once()
    assert ([(rollout, 1, "confirmed")], [f"switch {new}"]) == (site.server.outcomes(), site.machine.switches())


async def test_an_overtaken_answer_is_not_an_old_backup(tmp_path: Path) -> None:
    """An event older than what is known already is asked for again before anybody cries wolf."""
    site = Site(tmp_path)
    async with site.running() as agent:
        await site.member()
        await until(lambda: agent.link.mirror.size == site.fleet.size)
        size, old = site.fleet.size, site.fleet.checkpoint_at(site.fleet.size - 1)
        late = [Sync(checkpoint=old, start=size, entries=())]
        site.server.tamper = lambda sync: late.pop() if late else sync
        site.fleet.device("web-02")
        site.server.wake()
        await until(lambda: agent.link.mirror.size == site.fleet.size)
        assert agent.link.trouble == ""


def retrying(agent: Agent) -> bool:
    """Tell whether the update under way waits to be tried again."""
    return agent.service.state.update is not None and agent.service.state.update.retry_s is not None


def phase(agent: Agent) -> Phase:
    """Give the phase of the update under way."""
    update = agent.service.state.update
    return update.phase if update is not None else Phase.IDLE
