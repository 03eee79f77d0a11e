"""What confirms an update, and what is done when nobody, or only a cache, answers after the switch: a whole agent."""

from pathlib import Path
from typing import Literal

import pytest
from msgspec.structs import replace
from tests.agent.site import Site, until

from nixfleet.agent.agent import Agent
from nixfleet.agent.update import Tick
from nixfleet.model.device import Cause, Outcome, Phase
from nixfleet.model.statements import Activation

Contact = Literal["coordinator", "any", "none"]
CONFIRM_S = 60
ORPHAN_S = 1_800

pytestmark = pytest.mark.usefixtures("impatient")


def phase(agent: Agent) -> Phase:
    """Give the phase of the update under way."""
    update = agent.service.state.update
    return update.phase if update is not None else Phase.IDLE


def caches_known(agent: Agent) -> bool:
    """Tell whether the update knows by now that a cache answers."""
    update = agent.service.state.update
    return update is not None and update.cache_answers


def settles(agent: Agent) -> bool:
    """Tell whether the old system runs and it is looked whether the coordinator is silent there, too."""
    update = agent.service.state.update
    return update is not None and update.settling


class Switching:
    """An update whose switch waits until a test has cut what it wants to cut."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.begun, self.go = site, folder / "begun", folder / "go"
        wait = f"touch {self.begun}; while [ ! -e {self.go} ]; do sleep 0.02; done"
        self.new = site.machine.system("new", at="cache", before=wait)
        self.rollout = ""

    async def cut(self, contact: Contact) -> None:
        """Deploy it, and let the coordinator vanish while it switches."""
        device = await self.site.member()
        activation = Activation(confirm_s=CONFIRM_S, contact=contact)
        self.rollout = self.site.deploy(device, self.new, activation=activation)
        self.site.server.open_gate(self.rollout, device)
        await until(self.begun.exists)
        self.site.server.down = "the coordinator is gone"
        self.go.touch()

    def pass_time(self, agent: Agent, span_s: int) -> None:
        """Let time go by on the device."""
        self.site.boot_s += span_s
        agent.service.feed(Tick())

    def told(self) -> list[tuple[Outcome, Cause, str]]:
        """List the outcomes that the coordinator was told, repeats left out."""
        attempts = [one.attempt for one in self.site.server.reports if one.attempt is not None]
        found = [(one.outcome, one.cause, one.reason) for one in attempts if one.outcome is not None]
        return list(dict.fromkeys(found))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Give a site."""
    made = Site(tmp_path / "machine")
    made.settings = replace(made.settings, orphan_s=ORPHAN_S)
    return made


async def test_an_outage_of_the_coordinator_condemns_no_release(site: Site, tmp_path: Path) -> None:
    """Caches answer, so it waits; silent on the old system, too: an outage, and the same release installs after it."""
    site.cache_is_there = True
    switching = Switching(site, tmp_path)
    async with site.running() as agent:
        await switching.cut("coordinator")
        await until(lambda: caches_known(agent))
        switching.pass_time(agent, CONFIRM_S + 1)
        assert (Phase.CONFIRMING, switching.new) == (phase(agent), site.machine.host.current_system())
        switching.pass_time(agent, ORPHAN_S)
        await until(lambda: settles(agent))
        assert site.old == site.machine.host.current_system()
        switching.pass_time(agent, CONFIRM_S + 1)
        await until(lambda: phase(agent) is Phase.REVERTED)
        site.server.down = ""
        site.server.wake()
        await until(lambda: phase(agent) is Phase.CONFIRMED)
        await until(lambda: len(switching.told()) == 2)
    expected = [(Outcome.REVERTED, Cause.NETWORK, "coordinator outage"), (Outcome.CONFIRMED, Cause.NONE, "")]
    assert (expected, switching.new) == (switching.told(), site.machine.host.current_system())


async def test_a_device_that_lost_its_route_alone_is_told_apart_from_an_outage(site: Site, tmp_path: Path) -> None:
    """On the old system the coordinator answers again: the release is to blame, and is not tried again."""
    switching = Switching(site, tmp_path)
    async with site.running() as agent:
        await switching.cut("coordinator")
        await until(lambda: phase(agent) is Phase.CONFIRMING)
        switching.pass_time(agent, CONFIRM_S + 1)
        await until(lambda: site.machine.host.current_system() == site.old)
        site.server.down = ""
        site.server.wake()
        await until(lambda: bool(switching.told()))
        await until(lambda: not agent.service.state.outbox)
        await agent.service.idle()
    [(outcome, cause, reason)] = switching.told()
    expected = (
        Outcome.REVERTED,
        Cause.CONTACT,
        f"no signed sync with the coordinator within {CONFIRM_S} s of the switch",
    )
    assert expected == (outcome, cause, reason)
    assert [f"switch {switching.new}", f"switch {site.old}"] == site.machine.switches()


@pytest.mark.parametrize(("contact", "there"), [("any", True), ("none", False)])
async def test_who_asks_for_less_contact_confirms_with_less(
    site: Site, tmp_path: Path, contact: Contact, *, there: bool
) -> None:
    """`any` takes a cache for an answer, `none` asks for nobody; both confirm while the coordinator is away."""
    site.cache_is_there = there
    switching = Switching(site, tmp_path)
    async with site.running() as agent:
        await switching.cut(contact)
        await until(lambda: phase(agent) is Phase.CONFIRMED)
        site.server.down = ""
        site.server.wake()
        await until(lambda: bool(switching.told()))
    assert [(Outcome.CONFIRMED, Cause.NONE, "")] == switching.told()


async def test_any_contact_is_not_nobody(site: Site, tmp_path: Path) -> None:
    """With neither coordinator nor cache, an update under `any` goes back in time; it does not wait as an orphan."""
    switching = Switching(site, tmp_path)
    async with site.running() as agent:
        await switching.cut("any")
        await until(lambda: phase(agent) is Phase.CONFIRMING)
        switching.pass_time(agent, CONFIRM_S + 1)
        await until(lambda: site.machine.host.current_system() == site.old)


async def test_a_log_that_does_not_hold_confirms_nothing_and_is_no_outage(site: Site, tmp_path: Path) -> None:
    """After the switch somebody answers in the coordinator's place: that is no contact, and the reason is kept."""
    site.cache_is_there = True
    switching = Switching(site, tmp_path)
    async with site.running() as agent:
        await switching.cut("coordinator")
        await until(lambda: phase(agent) is Phase.CONFIRMING)
        site.server.tamper = lambda sync: replace(sync, checkpoint=b"forged")
        site.server.down = ""
        await until(lambda: bool(agent.link.trouble))
        assert (Phase.CONFIRMING, switching.new) == (phase(agent), site.machine.host.current_system())
        site.server.tamper = lambda sync: sync
        await until(lambda: phase(agent) is Phase.CONFIRMED)
