"""Proof that a rollout ends right, once: whatever is killed, cut or gone in the middle of it."""

import pytest
from tests.acceptance.bench import QUICK, Bench, join, kill_agent, spawn, state_of, until, update_of
from tests.acceptance.front import Front
from tests.nix.harness import Device

pytestmark = pytest.mark.nix

STALL_BYTES = 20_000


@pytest.fixture
def ready(bench: Bench, front: Front, web: Device) -> Device:
    """Give a member of a fleet whose devices reach the coordinator through the front."""
    bench.open_fleet(front.url)
    join(web, bench.token(), QUICK)
    until("web-01 listens", lambda: front.asked.count("/v1/reports") and any("/events" in one for one in front.asked))
    return web


def ends_confirmed(bench: Bench, device: Device, rollout: str, system: str) -> None:
    """Wait for the end; then the system runs, was switched to once, and nothing but that it confirmed came of it."""
    bench.watch(rollout)
    assert (system, system, system) == state_of(device)
    assert 1 == device.switches().count(("switch", system))
    assert ["confirmed"] == [outcome for outcome, path in bench.outcomes(device.name) if path == system]
    # The device went on by itself: no try was given up, to be started again by the coordinator.
    assert 1 == update_of(device)["offer"]["run"]


def begun(device: Device, system: str) -> bool:
    """Tell whether the switch to a system has begun."""
    return ("switch", system) in device.switches()


def phase_of(device: Device) -> str:
    """Give the phase of the update in the agent's journal."""
    return str(update_of(device).get("phase", ""))


def test_a_coordinator_killed_in_mid_download_and_in_mid_confirm_is_waited_for(
    bench: Bench, front: Front, ready: Device
) -> None:
    """Kill -9 while NARs come from its cache, then while the device asks it to confirm: both rollouts end, once."""
    first, second = bench.systems.a, bench.systems.b
    bench.release("first", first, "web-01")
    bench.release("second", second, "web-01")
    front.stall(STALL_BYTES)
    rollout = bench.rollout("first")
    until("the download stalls", front.stalled.is_set)
    bench.kill()
    front.release()
    front.drop()
    bench.start()
    ends_confirmed(bench, ready, rollout, first)

    ready.steer("hold")
    rollout = bench.rollout("second")
    until("the switch has begun", lambda: begun(ready, second))
    bench.kill()
    front.drop()
    ready.unsteer("hold")
    until("it tries to confirm", lambda: phase_of(ready) == "confirming")
    bench.start()
    ends_confirmed(bench, ready, rollout, second)


def test_an_agent_killed_in_mid_download_and_in_mid_switch_goes_on(bench: Bench, front: Front, ready: Device) -> None:
    """Kill -9 while Nix downloads, then while the switch runs: the next agent ends what the journal holds, once."""
    first, second = bench.systems.a, bench.systems.b
    bench.release("first", first, "web-01")
    bench.release("second", second, "web-01")
    front.stall(STALL_BYTES)
    rollout = bench.rollout("first")
    until("the download stalls", front.stalled.is_set)
    before = state_of(ready)
    kill_agent(ready)
    front.release()
    assert before == state_of(ready)
    assert not begun(ready, first)
    spawn(ready, "nixfleet", "agent")
    ends_confirmed(bench, ready, rollout, first)

    ready.steer("hold")
    rollout = bench.rollout("second")
    until("the switch has begun", lambda: begun(ready, second))
    kill_agent(ready)
    told = front.asked.count("/v1/reports")
    spawn(ready, "nixfleet", "agent")
    # The next agent finds the switch still running: it must neither start another nor give it up.
    until("the next agent reports", lambda: front.asked.count("/v1/reports") > told)
    assert "activating" == phase_of(ready)
    ready.unsteer("hold")
    ends_confirmed(bench, ready, rollout, second)


def test_a_cache_that_is_gone_and_a_network_that_is_cut_are_waited_for(
    bench: Bench, front: Front, ready: Device
) -> None:
    """The cache is gone for a while in mid-download, then every packet vanishes in mid-confirm: both end, once."""
    first, second = bench.systems.a, bench.systems.b
    bench.release("first", first, "web-01")
    bench.release("second", second, "web-01")
    front.stall(STALL_BYTES)
    rollout = bench.rollout("first")
    until("the download stalls", front.stalled.is_set)
    front.refused = ("/cache/",)
    front.release()
    front.drop()
    until("the agent has noted why", lambda: update_of(ready).get("cause") == "network")
    front.refused = ()
    ends_confirmed(bench, ready, rollout, first)

    ready.steer("hold")
    rollout = bench.rollout("second")
    until("the switch has begun", lambda: begun(ready, second))
    bench.lab.cut()
    ready.unsteer("hold")
    until("it tries to confirm", lambda: phase_of(ready) == "confirming")
    bench.lab.mend()
    ends_confirmed(bench, ready, rollout, second)
