"""Whole made-up fleets: real agents and a real coordinator come to the end that scenario and seed tell."""

import socket
from collections.abc import Iterator

import msgspec
import pytest

from nixfleet.model.device import Outcome, Phase
from nixfleet.sim import fleet as sim_fleet
from nixfleet.sim.fleet import Fleet
from nixfleet.sim.scenario import Scenario, checked

SPEED = 60
LIMIT_S = 120.0
GROUP = {"name": "web-{n}", "count": 3, "tags": {"env": ["prod"]}, "mbyte_s": [10, 20]}
RELEASE = {"name": "r1", "version": "25.11.1", "mib": 20}
AT_ONCE = {"release": "r1", "all_at_once": True}


def scenario(**changes: object) -> Scenario:
    """Make a small scenario."""
    tree = {"name": "acme", "group": [GROUP], "release": [RELEASE], "rollout": [AT_ONCE], **changes}
    return checked(msgspec.convert(tree, Scenario), "test")


def outcomes(fleet: Fleet) -> dict[str, Outcome | None]:
    """Give what the scenario's first rollout came to on each device; nothing before it is started."""
    if not fleet.rollouts:
        return {}
    return {member.name: member.outcome for member in fleet.rollout(fleet.rollouts[0]).members}


def ended(fleet: Fleet, count: int) -> bool:
    """Tell whether so many devices have an outcome."""
    return sum(outcome is not None for outcome in outcomes(fleet).values()) >= count


FAULTY = {
    "group": [
        {**GROUP, "count": 12, "fails": 0.4},
        {**GROUP, "name": "kiosk-{n}", "count": 6, "tags": {"env": ["prod"], "screen": ["a", "b"]}},
        {**GROUP, "name": "field-{n}", "count": 3, "away": 1, "away_s": [40, 60], "leaves_every_s": [60, 90]},
    ],
    "release": [{**RELEASE, "bad": [{"on": {"screen": ["b"]}, "unit": "session.service", "lines": ["no screen"]}]}],
    "rollout": [{**AT_ONCE, "stop_at": 21}],
}


def run_faulty(seed: int) -> dict[str, tuple[Outcome | None, str]]:
    """Run the faulty fleet to its end; give each device's outcome, and the system that it runs."""
    with Fleet(scenario(**FAULTY), seed, speed=SPEED) as fleet:
        fleet.until(lambda: ended(fleet, 21), LIMIT_S)
        assert fleet.faults == []
        found = outcomes(fleet)
        systems = {name: fleet.system(name) for name in found}
        for name, outcome in found.items():
            new = fleet.path(name, "r1")
            assert (systems[name] == new) == (outcome is Outcome.CONFIRMED), f"{name}: {outcome} on {systems[name]}"
    return {name: (outcome, systems[name]) for name, outcome in sorted(found.items())}


def test_a_seed_leads_to_the_same_end_twice() -> None:
    """Twenty-one devices with failing switches, a bad release and lines that break end alike, each on its system."""
    first, second = run_faulty(3), run_faulty(3)
    assert first == second
    kiosks = {name: outcome for name, (outcome, _) in first.items() if name.startswith("kiosk")}
    bad = {name for name, outcome in kiosks.items() if outcome is Outcome.REVERTED}
    assert bad == {"kiosk-02", "kiosk-04", "kiosk-06"}, "exactly those whose screen the release breaks go back"
    webs = [outcome for name, (outcome, _) in first.items() if name.startswith("web")]
    assert 0 < webs.count(Outcome.REVERTED) < 12, "some switches fail, and those go back"


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Give three devices that wait for a person."""
    with Fleet(scenario(rollout=[]), 5, speed=SPEED) as made:
        made.until(lambda: made.all_on, LIMIT_S)
        yield made


def deploy(fleet: Fleet) -> str:
    """Start a rollout as the person would; give its digest."""
    from nixfleet.rollout.asking import RolloutWishes

    acted = fleet.act(lambda admin: admin.rollout("r1", RolloutWishes(all_at_once=True)))
    fleet.rollouts.append(acted.digest)
    return acted.digest


def test_what_devices_run_already_is_confirmed_and_not_installed_again(fleet: Fleet) -> None:
    """The same release once more: each agent finds nothing to do, signs that, and no switch runs twice."""
    deploy(fleet)
    fleet.until(lambda: ended(fleet, 3), LIMIT_S)
    fleet.rollouts.clear()
    again = deploy(fleet)
    fleet.until(lambda: fleet.rollout(again).rollout.state == "finished", LIMIT_S)
    assert dict.fromkeys(fleet.devices, Outcome.CONFIRMED) == outcomes(fleet)
    once = {name: [fleet.path(name, "r1")] for name in fleet.devices}
    assert once == {name: device.machine.switched for name, device in fleet.devices.items()}
    assert fleet.faults == []


def test_a_device_that_loses_its_line_amid_a_download_ends_all_the_same(fleet: Fleet) -> None:
    """Cut off while it fetches, a device shows as offline, and confirms once its line is back."""
    deploy(fleet)
    fleet.until(lambda: fleet.devices["web-01"].phase is not Phase.IDLE, LIMIT_S)
    fleet.disconnect("web-01")
    fleet.until(lambda: not fleet.views()["web-01"].online, LIMIT_S)
    fleet.connect("web-01")
    fleet.until(lambda: ended(fleet, 3), LIMIT_S)
    assert set(outcomes(fleet).values()) == {Outcome.CONFIRMED}
    assert fleet.faults == []


def test_an_agent_killed_amid_an_update_goes_on_with_it(fleet: Fleet) -> None:
    """Killed and started anew, an agent takes the update up from its journal; no device switches twice."""
    deploy(fleet)
    fleet.until(lambda: fleet.devices["web-02"].phase is not Phase.IDLE, LIMIT_S)
    fleet.crash("web-02")
    fleet.restart("web-02")
    fleet.until(lambda: ended(fleet, 3), LIMIT_S)
    assert fleet.system("web-02") == fleet.path("web-02", "r1")
    assert set(outcomes(fleet).values()) == {Outcome.CONFIRMED}


def test_a_coordinator_that_is_away_loses_nothing(fleet: Fleet) -> None:
    """Stopped while an update runs and started anew, the coordinator has every outcome in the end."""
    deploy(fleet)
    fleet.until(lambda: any(one.phase is not Phase.IDLE for one in fleet.devices.values()), LIMIT_S)
    fleet.stop_coordinator()
    fleet.start_coordinator()
    fleet.until(lambda: ended(fleet, 3), LIMIT_S)
    assert set(outcomes(fleet).values()) == {Outcome.CONFIRMED}


def test_a_system_that_needs_a_reboot_is_confirmed_after_it() -> None:
    """The device shows the reboot that is pending, runs its old system until then, and confirms after it."""
    found = scenario(group=[{**GROUP, "count": 1}], release=[{**RELEASE, "reboot": True}])
    with Fleet(found, speed=SPEED) as fleet:
        fleet.until(lambda: fleet.devices["web-01"].phase is Phase.REBOOT_PENDING, LIMIT_S)
        assert fleet.system("web-01") != fleet.path("web-01", "r1")
        fleet.reboot("web-01")
        fleet.until(lambda: ended(fleet, 1), LIMIT_S)
        assert fleet.system("web-01") == fleet.path("web-01", "r1")
        assert outcomes(fleet) == {"web-01": Outcome.CONFIRMED}


def test_a_device_that_asks_is_let_in() -> None:
    """A device of the scenario that is not enrolled asks with its facts and tags, and is a member once signed in."""
    with Fleet(scenario(group=[{**GROUP, "asks": 1}], rollout=[]), speed=SPEED) as fleet:
        fleet.until(lambda: len(fleet.ask(lambda client: client.enroll_requests())) == 1, LIMIT_S)
        (request,) = fleet.ask(lambda client: client.enroll_requests())
        assert ("web-03", {"env": "prod"}) == (request.name, request.tags)
        fleet.act(lambda admin: admin.enroll(request))
        fleet.until(lambda: "web-03" in fleet.views() and fleet.views()["web-03"].reported_at > 0, LIMIT_S)


def test_nothing_is_left_of_a_fleet_that_was_stopped() -> None:
    """Its folder is gone, and its port answers no more."""
    with Fleet(scenario(rollout=[]), speed=SPEED) as fleet:
        folder = fleet.folder
        assert folder.is_dir()
    assert not folder.exists()


def test_a_port_that_another_program_took_meanwhile_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fleet is founded anew at the next free port: its root names the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as found:
        ports = [taken.getsockname()[1], found.getsockname()[1]]
        found.close()
        monkeypatch.setattr(sim_fleet, "_free_port", iter(ports).__next__)
        with Fleet(scenario(rollout=[]), 1, speed=SPEED) as fleet:
            assert f"http://127.0.0.1:{ports[1]}" == fleet.address
            assert (fleet.address,) == fleet.ask(lambda client: client.fleet()).urls
