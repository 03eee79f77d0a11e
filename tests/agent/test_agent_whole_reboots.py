"""The whole agent where an update needs a reboot: real log, signatures, installers; boot loader made up."""

from pathlib import Path

import pytest
from tests.agent.bootlab import BootLab, Loader
from tests.agent.site import Site, until

from nixfleet.agent.agent import Agent
from nixfleet.agent.update import Tick
from nixfleet.model.device import Phase
from nixfleet.model.statements import Activation, Window

pytestmark = pytest.mark.usefixtures("impatient")


def site_with(root: Path, loader: Loader) -> tuple[Site, BootLab]:
    """Make a site whose machine has a boot loader and booted a system of kernel 6.1."""
    site = Site(root)
    boot = BootLab(site.machine, loader)
    boot.goes_down = True
    site.old = boot.system("first", "6.1")
    boot.install(site.old)
    site.run_tool = boot.run
    return site, boot


def later(site: Site, agent: Agent) -> str:
    """Let a minute pass; give why the update waits."""
    site.boot_s += 60
    agent.service.feed(Tick())
    update = agent.service.state.update
    return update.reason if update is not None else ""


async def test_a_reboot_is_told_before_and_confirms_after_it(tmp_path: Path) -> None:
    """The coordinator has heard why, before the machine goes down; what booted confirms and is the default then."""
    site, boot = site_with(tmp_path, "systemd-boot")
    new = boot.system("new", "6.2", at="cache")
    async with site.running():
        device = await site.member()
        rollout = site.deploy(device, new, reboot="now")
        site.server.open_gate(rollout, device)
        await until(lambda: "reboot" in boot.calls)
        told = site.server.reports[-1].attempt
        assert told is not None
        assert (Phase.REBOOT_PENDING, "needs a reboot (kernel 6.1 → 6.2)") == (told.phase, told.reason)
    assert (site.old, new) == (boot.default(), boot.reboot())
    async with site.running():
        await until(lambda: bool(site.server.outcomes()))
    assert [(rollout, 1, "confirmed")] == site.server.outcomes()
    assert (new, "", new) == (boot.default(), boot.told_once(), site.machine.host.profile_system())


async def test_a_system_that_does_not_boot_comes_back_as_reverted(tmp_path: Path) -> None:
    """The loader fell back; nothing is left of the new system in what will be booted."""
    site, boot = site_with(tmp_path, "grub")
    new = boot.system("new", "6.2", at="cache")
    async with site.running():
        device = await site.member()
        rollout = site.deploy(device, new, reboot="now")
        site.server.open_gate(rollout, device)
        await until(lambda: "reboot" in boot.calls)
    boot.next()  # it hangs
    assert site.old == boot.reboot()
    async with site.running():
        await until(lambda: bool(site.server.outcomes()))
    assert [(rollout, 1, "reverted")] == site.server.outcomes()
    assert (site.old, site.old) == (boot.default(), site.machine.host.profile_system())


async def test_a_reboot_waits_for_the_window_and_says_so(tmp_path: Path) -> None:
    """It was set within the window, which is over; nobody reboots the device until it opens again."""
    site, boot = site_with(tmp_path, "systemd-boot")
    new = boot.system("new", "6.2", at="cache")
    boot.goes_down = False
    async with site.running() as agent:
        device = await site.member()
        now_h = site.fleet.now // 3_600 % 24
        hours = (f"{now_h:02}:00", f"{(now_h + 1) % 24:02}:00")
        window = Window(days=("mon", "tue", "wed", "thu", "fri", "sat", "sun"), from_=hours[0], to=hours[1], tz="UTC")
        site.server.open_gate(site.deploy(device, new, reboot="in_window", window=window), device)
        await until(lambda: "reboot" in boot.calls)
    site.fleet.now += 3_600
    boot.goes_down = True
    calls = boot.calls.count("reboot")
    async with site.running() as agent:
        await until(lambda: "outside its window" in later(site, agent))
    assert calls == boot.calls.count("reboot")


async def test_an_update_that_nobody_booted_makes_way_for_a_newer_one(tmp_path: Path) -> None:
    """It is taken back first, so that no boot brings it, and the newer one, which needs none, is switched to."""
    site, boot = site_with(tmp_path, "systemd-boot")
    new, fix = boot.system("new", "6.2", at="cache"), boot.system("fix", "6.1", at="cache")
    async with site.running() as agent:
        device = await site.member()
        first = site.deploy(device, new)
        site.server.open_gate(first, device)
        await until(lambda: bool(boot.told_once()))
        await until(lambda: (update := agent.service.state.update) is not None and bool(update.reason))
        second = site.deploy(device, fix)
        site.server.open_gate(second, device)
        await until(lambda: len(site.server.outcomes()) == 2)
    assert [(first, 1, "reverted"), (second, 1, "confirmed")] == site.server.outcomes()
    assert ("", fix, fix) == (boot.told_once(), boot.default(), boot.next())


@pytest.mark.parametrize("accepted", [False, True])
async def test_a_device_itself_refuses_a_reboot_that_it_could_not_fall_back_from(
    tmp_path: Path, *, accepted: bool
) -> None:
    """Whatever the coordinator or the console let through; with the signed word it reboots."""
    site, boot = site_with(tmp_path, "none")
    new = boot.system("new", "6.2", at="cache")
    async with site.running():
        device = await site.member()
        activation = Activation(no_fallback=accepted)
        rollout = site.deploy(device, new, reboot="now", activation=activation)
        site.server.open_gate(rollout, device)
        await until(lambda: "reboot" in boot.calls or bool(site.server.outcomes()))
    assert ([] if accepted else [(rollout, 1, "refused")]) == site.server.outcomes()
    assert (new if accepted else site.old) == boot.default()
