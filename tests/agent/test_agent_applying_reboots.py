"""Updates out of a file that need a reboot: ended without a coordinator, and told."""

from pathlib import Path

import pytest
from tests.agent.bundles import applied, outcomes, told, write
from tests.agent.site import Site, until
from tests.agent.test_agent_whole_reboots import site_with

from nixfleet.model.device import Phase

pytestmark = pytest.mark.usefixtures("impatient")


async def _alone(site: Site) -> str:
    """Let the device join once, and reach nobody any more."""
    async with site.running():
        device = await site.member()
    site.server.reports.clear()
    site.server.down = "there is no network"
    return device


async def test_what_is_set_for_the_next_boot_confirms_there_and_the_next_receipt_says_so(tmp_path: Path) -> None:
    """The ordinary agent judges what was booted, by the device's own checks; nobody has to be reached."""
    site, boot = site_with(tmp_path, "systemd-boot")
    new = boot.system("new", "6.2", at="cache")
    device = await _alone(site)
    rollout = site.deploy(device, new)
    path = write(site, device, rollout)
    assert "is set for the next boot, and needs a reboot (kernel 6.1 → 6.2)" in await applied(site, path)
    last = told(site, device)[-1].attempt
    assert last is not None
    assert (Phase.REBOOT_PENDING, None) == (last.phase, last.outcome)
    assert (site.old, new) == (boot.default(), boot.reboot())
    async with site.running() as agent:
        await until(lambda: bool(agent.service.state.outbox))
    assert (new, site.server.reports) == (boot.default(), [])
    assert "wants no other system" in await applied(site, path)
    assert [(rollout, 1, "confirmed")] == outcomes(site, device)


async def test_what_does_not_boot_comes_back_and_is_told(tmp_path: Path) -> None:
    """The loader fell back: reverted, in the next receipt."""
    site, boot = site_with(tmp_path, "grub")
    new = boot.system("new", "6.2", at="cache")
    device = await _alone(site)
    rollout = site.deploy(device, new)
    path = write(site, device, rollout)
    await applied(site, path)
    boot.next()  # it hangs
    assert site.old == boot.reboot()
    async with site.running() as agent:
        await until(lambda: bool(agent.service.state.outbox))
    await applied(site, path)
    assert [(rollout, 1, "reverted")] == outcomes(site, device)
