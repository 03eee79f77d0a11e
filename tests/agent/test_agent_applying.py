"""Updates out of a file: verified as over the network, paced by root at the device, and told in a receipt."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.agent.bundles import applied, member, outcomes, receipt_of, told, write
from tests.agent.site import Site, until

from nixfleet.agent import pausing
from nixfleet.agent.agent import Agent
from nixfleet.agent.service import Clock
from nixfleet.client import receipt as receipts
from nixfleet.client.receipt import ReceiptHead
from nixfleet.errors import NixfleetError, Refused, Unreachable, Untrusted, UserError
from nixfleet.model.device import Phase
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Wave, Window
from nixfleet.model.wire import Sync
from nixfleet.nix import Fault, FaultKind

pytestmark = pytest.mark.usefixtures("impatient")


async def test_a_bundle_updates_a_device_that_reaches_nobody(tmp_path: Path) -> None:
    """The signed system runs, is confirmed by the device's own checks, and a report signed by the device says so."""
    site, device = await member(tmp_path)
    new = site.machine.system("new", at="cache")
    rollout = site.deploy(device, new)
    said = await applied(site, write(site, device, rollout))
    assert (site.machine.host.current_system(), site.machine.switches()) == (new, [f"switch {new}"])
    assert outcomes(site, device) == [(rollout, 1, "confirmed")]
    assert said.endswith("is confirmed")
    assert told(site, device)[-1].log == site.fleet.log
    assert not (site.machine.state_dir / "bundle").exists()


async def test_applying_twice_changes_nothing_and_tells_the_outcome_again(tmp_path: Path) -> None:
    """The second time there is nothing to apply; a receipt that was lost is written anew, with the same outcome."""
    site, device = await member(tmp_path)
    new = site.machine.system("new", at="cache")
    rollout = site.deploy(device, new)
    path = write(site, device, rollout)
    await applied(site, path)
    receipt_of(site).unlink()
    assert (await applied(site, path)).startswith("there is nothing to apply")
    assert outcomes(site, device) == [(rollout, 1, "confirmed")]
    assert site.machine.switches() == [f"switch {new}"]


async def test_the_coordinators_gate_alone_is_root_s_to_replace(tmp_path: Path) -> None:
    """A wave that waits for a signature waits for it here, too; with the signed `advance` the bundle is applied."""
    site, device = await member(tmp_path)
    new = site.machine.system("new", at="cache")
    rollout = site.deploy(device, new, waves=(Wave(members="100%", gate="signed"),))
    with pytest.raises(NixfleetError, match="wave 1 waits for a signature"):
        await applied(site, write(site, device, rollout))
    assert site.machine.switches() == []
    site.fleet.control(Digest(rollout), "advance", wave=1)
    await applied(site, write(site, device, rollout))
    assert outcomes(site, device) == [(rollout, 1, "confirmed")]


async def test_a_paused_rollout_begins_nowhere(tmp_path: Path) -> None:
    """A signed pause holds for root, too."""
    site, device = await member(tmp_path)
    rollout = site.deploy(device, site.machine.system("new", at="cache"))
    site.fleet.control(Digest(rollout), "pause")
    with pytest.raises(NixfleetError, match="nothing is applied: the rollout is paused"):
        await applied(site, write(site, device, rollout))
    assert site.machine.switches() == []


async def test_a_cancelled_rollout_is_nothing_to_apply(tmp_path: Path) -> None:
    """What is cancelled by a signature is wanted of nobody."""
    site, device = await member(tmp_path)
    rollout = site.deploy(device, site.machine.system("new", at="cache"))
    site.fleet.control(Digest(rollout), "cancel")
    assert "wants no other system" in await applied(site, write(site, device, rollout))
    assert site.machine.switches() == []


async def test_a_rollout_by_nobody_with_the_right_is_not_applied(tmp_path: Path) -> None:
    """Revoked since it signed, a key starts nothing, though the bundle was made by an admin."""
    site, device = await member(tmp_path)
    site.fleet.grant("bob", "deploy", "release")
    rollout = site.deploy(device, site.machine.system("new", at="cache"), by="bob")
    site.fleet.revoke(key_name="bob")
    with pytest.raises(NixfleetError, match="nothing is applied"):
        await applied(site, write(site, device, rollout))
    assert site.machine.switches() == []


async def test_windows_and_a_pause_on_the_device_hold(tmp_path: Path) -> None:
    """Outside of its window, and while root has paused the device, nothing begins, and the command says why."""
    site, device = await member(tmp_path)
    new = site.machine.system("new", at="cache")
    hour = (site.fleet.now // 3600 + 3) % 24
    closed = Window(
        days=("mon", "tue", "wed", "thu", "fri", "sat", "sun"),
        from_=f"{hour:02}:00",
        to=f"{(hour + 1) % 24:02}:00",
        tz="UTC",
    )
    rollout = site.deploy(device, new, window=closed)
    with pytest.raises(NixfleetError, match="nothing is applied: outside its window"):
        await applied(site, write(site, device, rollout))
    rollout = site.deploy(device, new)
    clock = Clock(wall=lambda: site.fleet.now, boot=lambda: site.boot_s)
    pausing.begin(site.machine.state_dir, site.machine.host, clock, for_s=600, reason="moving the rack")
    with pytest.raises(NixfleetError, match="moving the rack"):
        await applied(site, write(site, device, rollout))
    assert site.machine.switches() == []


async def test_a_system_that_does_not_switch_goes_back_and_the_receipt_says_why(tmp_path: Path) -> None:
    """The device runs what it ran; the command fails, and the outcome with its reason is in the receipt."""
    site, device = await member(tmp_path)
    rollout = site.deploy(device, site.machine.system("bad", at="cache", code=2))
    with pytest.raises(NixfleetError, match="reverted"):
        await applied(site, write(site, device, rollout))
    assert site.machine.host.current_system() == site.old
    assert outcomes(site, device) == [(rollout, 1, "reverted")]


async def test_other_content_than_the_signed_is_untrusted(tmp_path: Path) -> None:
    """The digest of what came out of the file decides, whatever the file says of it."""
    site, device = await member(tmp_path)
    rollout = site.deploy(device, site.machine.system("new", at="cache"))
    site.store.wrong_digests = 9
    with pytest.raises(Untrusted, match="digest differs"):
        await applied(site, write(site, device, rollout))
    assert (site.machine.switches(), outcomes(site, device)) == ([], [(rollout, 1, "failed")])


async def test_what_the_bundle_lacks_is_said_once_and_a_better_one_mends_it(tmp_path: Path) -> None:
    """A file does not get better by being asked again: the try ends at once, and the next bundle is a new one."""
    site, device = await member(tmp_path)
    new = site.machine.system("new", at="elsewhere")
    rollout = site.deploy(device, new)
    with pytest.raises(NixfleetError, match="no cache has it"):
        await applied(site, write(site, device, rollout))
    assert [one for one in site.store.calls if one.startswith("realise")] == [
        f"realise file://{site.machine.state_dir}/bundle/cache"
    ]
    (site.machine.root / "elsewhere").rename(site.machine.root / "cache")
    await applied(site, write(site, device, rollout))
    assert outcomes(site, device)[-1] == (rollout, 1, "confirmed")


async def _begun(site: Site, device: str) -> str:
    """Let a download begin over a network that is too slow for it; give the rollout."""
    rollout = site.deploy(device, site.machine.system("new", at="cache"))
    site.server.down = ""
    site.store.fetch_fault = Fault(FaultKind.unreachable, "the line is too slow")
    site.server.open_gate(rollout, device)
    async with site.running() as agent:
        await until(lambda: agent.service.state.update is not None and agent.service.state.update.tries > 0)
    site.server.down, site.store.fetch_fault = "there is no network", None
    return rollout


async def test_a_file_that_does_not_hold_takes_nothing_over(tmp_path: Path) -> None:
    """The update that began over the network waits for its coordinator, as was signed."""
    site, device = await member(tmp_path)
    rollout = await _begun(site, device)
    site.fleet.grant("bob", "deploy")
    leaf, payload = site.fleet.entries[-1]
    site.fleet.entries[-1] = (leaf[:-1] + bytes([leaf[-1] ^ 1]), payload)
    with pytest.raises(Untrusted):
        await applied(site, write(site, device, rollout))
    update = site.parts().journal.state.update
    assert update is not None
    assert (False, "coordinator") == (update.offer.by_hand, update.offer.contact)


async def test_a_download_that_began_over_a_network_is_ended_by_a_bundle(tmp_path: Path) -> None:
    """What has changed nothing yet goes on from the file, and does not wait for a coordinator afterwards."""
    site, device = await member(tmp_path)
    rollout = await _begun(site, device)
    await applied(site, write(site, device, rollout))
    assert outcomes(site, device) == [(rollout, 1, "confirmed")]


async def test_an_update_amid_its_switch_is_left_to_the_agent_that_began_it(tmp_path: Path) -> None:
    """It waits for a coordinator as its rollout says, and a file must not pass for one."""
    site, device = await member(tmp_path)
    new = site.machine.system("new", at="cache")
    rollout = site.deploy(device, new)
    site.server.down = ""
    site.server.open_gate(rollout, device)
    site.server.tamper = _no_more_after(site, new)
    async with site.running() as agent:
        await until(lambda: agent.service.state.update is not None)
        await until(lambda: _phase(agent) is Phase.CONFIRMING)
    with pytest.raises(UserError, match=r"under way \(confirming\)"):
        await applied(site, write(site, device, rollout))


def _phase(agent: Agent) -> Phase | None:
    update = agent.service.state.update
    return update.phase if update is not None else None


def _no_more_after(site: Site, path: str) -> Callable[[Sync], Sync]:
    """Let the coordinator fall silent once a system runs."""

    def answer(sync: Sync) -> Sync:
        if site.machine.host.current_system() == path:
            raise Unreachable("there is no network")
        return sync

    return answer


async def test_a_device_that_is_in_no_log_is_told_how_to_get_there(tmp_path: Path) -> None:
    """It cannot join through a file: an admin enrols it, and exports another."""
    site = Site(tmp_path, token=False)
    device = site.parts().identity.device
    rollout = site.fleet.rollout(site.fleet.release("r")[0])
    with pytest.raises(Refused, match="enroll it, and export another"):
        await applied(site, write(site, device, rollout, lines=[]))


async def test_the_outcome_still_reaches_the_coordinator_itself(tmp_path: Path) -> None:
    """A receipt may be lost on its way: once there is a network again, the device tells what the receipt told."""
    site, device = await member(tmp_path)
    rollout = site.deploy(device, site.machine.system("new", at="cache"))
    await applied(site, write(site, device, rollout))
    site.server.down = ""
    async with site.running():
        await until(lambda: (rollout, 1, "confirmed") in site.server.outcomes())


async def test_a_receipt_replaces_no_other_file(tmp_path: Path) -> None:
    """Root may write anywhere: a slip in the name must not cost a file, and no receipt of another device."""
    site, device = await member(tmp_path)
    rollout = site.deploy(device, site.machine.system("new", at="cache"))
    path = write(site, device, rollout)
    receipt_of(site).write_text("precious\n")
    with pytest.raises(UserError, match="is no receipt"):
        await applied(site, path)
    receipts.write(receipt_of(site), ReceiptHead(fleet=site.fleet.fleet, device="0" * 32), ())
    with pytest.raises(UserError, match="receipt of another device"):
        await applied(site, path)
    assert site.machine.switches() == []
