"""The agent as the module's unit under a real systemd: it updates, replaces itself, goes back, and outlives reboots."""

import asyncio

import pytest
from tests.vm.site import Site, until

from nixfleet.agent.guard import NOT_BACK
from nixfleet.agent.rescue import UNDONE

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]


async def test_a_machine_joins_and_a_switch_of_the_app_alone_confirms(site: Site) -> None:
    """The agent joins as a unit; the new app runs; the agent's process is the same one throughout."""
    machine = site.machine
    await site.boot()
    agent, app = machine.main_pid("nixfleet-agent.service"), machine.main_pid("app.service")
    new = site.workshop.build(version=2)
    attempt = await site.outcome(await site.deploy(new))
    site.tell("update")
    assert ("confirmed", (new, new, new)) == (attempt.outcome, machine.systems)
    assert [("switch", new)] == machine.switches()
    assert agent == machine.main_pid("nixfleet-agent.service")
    assert app != machine.main_pid("app.service") != 0


async def test_an_agent_replaces_itself(site: Site) -> None:
    """Another agent with other settings: the old one switches and ends, the new one, and no other, confirms."""
    machine = site.machine
    await site.boot()
    old = machine.main_pid("nixfleet-agent.service")
    new = site.workshop.build("pollSeconds = 7;", version=2, agentVersion=2)
    attempt = await site.outcome(await site.deploy(new))
    site.tell("self-update")
    assert ("confirmed", (new, new, new)) == (attempt.outcome, machine.systems)
    assert [("switch", new)] == machine.switches()
    assert old != machine.main_pid("nixfleet-agent.service") != 0
    assert "nixfleet-agent-0.2/bin/nixfleet" in machine.show("nixfleet-agent.service", "ExecStart")
    assert "poll_s = 7" in machine.run(["cat", "/etc/nixfleet/agent.toml"]).stdout
    assert "the agent of the system that runs now takes over" in machine.journal("--unit=nixfleet-agent.service")


async def test_a_system_whose_unit_fails_is_taken_back_with_the_units_last_words(site: Site) -> None:
    """The new app does not start: the old system and its app run again, and the outcome says what the app said."""
    machine = site.machine
    await site.boot()
    [old, _, _] = machine.systems
    bad = site.workshop.build(version=2, ailing=True)
    attempt = await site.outcome(await site.deploy(bad))
    site.tell("a failing unit")
    assert ("reverted", "health", "app.service failed") == (attempt.outcome, attempt.cause, attempt.reason)
    assert "app.service: cannot open the till: no such device" in attempt.lines
    assert ((old, old, old), [("switch", bad), ("switch", old)]) == (machine.systems, machine.switches())
    assert "active" == machine.show("app.service", "ActiveState")


async def test_a_switch_that_ends_the_agent_is_taken_back_by_the_guard(site: Site) -> None:
    """Nobody starts the agent again: a minute later the guard has, on the old system."""
    machine = site.machine
    await site.boot()
    [old, _, _] = machine.systems
    bad = site.workshop.build(version=2, endsTheAgent=True)
    attempt = await site.outcome(await site.deploy(bad, confirm_s=5))
    site.tell("the guard")
    assert ("reverted", "health", NOT_BACK) == (attempt.outcome, attempt.cause, attempt.reason)
    assert ((old, old, old), [("switch", bad), ("switch", old)]) == (machine.systems, machine.switches())
    assert "active" == machine.show("nixfleet-agent.service", "ActiveState")
    await until(lambda: "nixfleet-guard" not in machine.run(["systemctl", "list-units"]).stdout, site, "no guard")


async def test_a_new_agent_that_crashes_makes_way_for_the_last_that_synced(site: Site) -> None:
    """Five crashes start the rescue unit: the old agent takes the update back, ends, and the old unit is back."""
    machine = site.machine
    await site.boot()
    [old, _, _] = machine.systems
    bad = site.workshop.build(version=2, crashes=True)
    attempt = await site.outcome(await site.deploy(bad))
    assert ("reverted", "health", UNDONE) == (attempt.outcome, attempt.cause, attempt.reason)
    await until(lambda: machine.show("nixfleet-agent.service", "ActiveState") == "active", site, "the agent is back")
    await until(lambda: machine.show("nixfleet-rescue.service", "ActiveState") == "inactive", site, "rescue is over")
    site.tell("the rescue unit")
    assert ((old, old, old), [("switch", bad), ("switch", old)]) == (machine.systems, machine.switches())
    await site.until(lambda view: view is not None and view.system == old and "stands in" not in view.waits)


async def test_a_machine_that_loses_power_in_a_system_without_an_agent_that_works_comes_back(site: Site) -> None:
    """The guard is gone with the power; the booted system's agent crashes, and the rescue unit's goes back."""
    machine = site.machine
    await site.boot()
    [old, _, _] = machine.systems
    bad = site.workshop.build(version=2, crashes=True)
    rollout = await site.deploy(bad)
    await until(lambda: "Main process exited" in machine.journal("--unit=nixfleet-agent.service"), site, "a crash")
    await asyncio.to_thread(machine.pull_the_plug)
    await asyncio.to_thread(machine.start)
    assert bad == machine.booted_system
    attempt = await site.outcome(rollout)
    await until(lambda: machine.show("nixfleet-agent.service", "ActiveState") == "active", site, "the agent is back")
    site.tell("power lost in the bad system")
    assert ("reverted", "health", UNDONE) == (attempt.outcome, attempt.cause, attempt.reason)
    assert ((old, old, old), [("switch", bad), ("switch", old)]) == (machine.systems, machine.switches())


async def test_a_system_that_takes_a_reboot_is_confirmed_once_it_was_booted(site: Site) -> None:
    """Another init: the update waits for the reboot; the agent of the new boot, in the booted system, confirms."""
    machine = site.machine
    await site.boot()
    first = machine.boot_id
    new = site.workshop.build(version=2, agentVersion=2, kernelRev=2, initVersion="3")
    rollout = await site.deploy(new)
    await site.until(lambda view: view is not None and view.phase == "reboot-pending")
    await asyncio.to_thread(machine.reboot)
    attempt = await site.outcome(rollout)
    site.tell("a reboot")
    assert ("confirmed", (new, new, new), new) == (attempt.outcome, machine.systems, machine.booted_system)
    assert first != machine.boot_id
    assert [("boot", new)] == machine.switches()


async def test_a_reboot_into_a_bad_system_is_taken_back(site: Site) -> None:
    """The new system's app fails at boot: the old system runs again, and is what the boot loader starts."""
    machine = site.machine
    await site.boot()
    [old, _, _] = machine.systems
    bad = site.workshop.build(version=2, ailing=True, kernelRev=2, initVersion="3")
    rollout = await site.deploy(bad)
    await site.until(lambda view: view is not None and view.phase == "reboot-pending")
    await asyncio.to_thread(machine.reboot)
    attempt = await site.outcome(rollout)
    site.tell("a reboot into a bad system")
    assert ("reverted", "health", "app.service failed") == (attempt.outcome, attempt.cause, attempt.reason)
    assert (old, old, old) == machine.systems
