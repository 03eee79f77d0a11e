"""Setting an update for one boot, keeping it and taking it back, on a made-up machine with a made-up boot loader."""

from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace
from tests.agent.bootlab import BootLab, Loader
from tests.agent.made_up import Machine, MadeUpStore, Silent

from nixfleet.agent import bootmenu, facts
from nixfleet.agent.runner import Runner
from nixfleet.agent.settings import Settings
from nixfleet.agent.update import Activate, GoBack, MakeDefault, Offer, Ready, Reboot, Result, Stage, Switched, Trouble
from nixfleet.model.device import Cause

LOADERS: tuple[Loader, ...] = ("systemd-boot", "grub")


class Site:
    """A machine that booted a system of kernel 6.1, and is offered one of kernel 6.2."""

    def __init__(self, root: Path, loader: Loader) -> None:
        self.machine = Machine(root)
        self.boot = BootLab(self.machine, loader)
        self.old = self.boot.system("old", "6.1")
        self.boot.install(self.old)
        self.new = self.boot.system("new", "6.2")
        self.offer: Offer = replace(self.machine.offer(self.new), reboot="now")
        self.runner = Runner(
            host=self.machine.host,
            store=MadeUpStore(self.machine),
            settings=Settings(state_dir=str(self.machine.state_dir), volatile_state=True),
            watcher=Silent(),
            cache_base=lambda: "http://coordinator.example",
            names=lambda: {"web-01"},
            run=self.boot.run,
        )

    async def stage(self) -> Ready:
        """Stage the update."""
        return cast("Ready", await self.runner.perform(Stage(offer=self.offer, previous=self.old)))

    async def set_once(self) -> object:
        """Do what activating does where it needs a reboot."""
        kind = bootmenu.kind_of(self.machine.host)
        return await self.runner.perform(Activate(offer=self.offer, boots=True, once=self.old, fallback=kind))

    def reboot(self) -> str:
        """Boot what the loader says; give what runs then."""
        return self.boot.reboot()


@pytest.mark.parametrize("loader", LOADERS)
async def test_an_update_that_needs_a_reboot_is_booted_once_and_never_the_default(
    tmp_path: Path, loader: Loader
) -> None:
    """One boot leads to the new system, the one after it to the old, while nothing has confirmed."""
    site = Site(tmp_path, loader)
    ready = await site.stage()
    assert (("kernel 6.1 → 6.2",), loader) == (ready.reboot, ready.fallback)
    answer = await site.set_once()
    assert isinstance(answer, Switched)
    assert Result.REBOOT == answer.result
    assert [f"boot {site.old}"] == site.machine.switches(), "by the old system's installer"
    assert site.old == site.boot.default()
    assert (site.new, site.old) == (site.reboot(), site.reboot())


@pytest.mark.parametrize("loader", LOADERS)
async def test_what_has_confirmed_is_booted_from_then_on(tmp_path: Path, loader: Loader) -> None:
    """Its own installer makes it the default; nothing is pinned or booted once any more."""
    site = Site(tmp_path, loader)
    await site.set_once()
    site.reboot()
    answer = await site.runner.perform(MakeDefault(offer=site.offer, number=0, fallback=loader))
    assert isinstance(answer, Switched)
    assert (site.new, "", site.new) == (site.boot.default(), site.boot.told_once(), site.reboot())
    assert "" == bootmenu.variable(site.machine.host, "LoaderEntryDefault")


@pytest.mark.parametrize("loader", LOADERS)
async def test_going_back_after_the_boot_boots_the_old_system(tmp_path: Path, loader: Loader) -> None:
    """The way back has another kernel: it is made the default, and a reboot asked for; then nothing is left."""
    site = Site(tmp_path, loader)
    await site.set_once()
    site.reboot()
    back = GoBack(offer=site.offer, previous=site.old, number=0, fallback=loader)
    answer = await site.runner.perform(back)
    assert isinstance(answer, Switched)
    assert (Result.REBOOT, site.old, "") == (answer.result, site.boot.default(), site.boot.told_once())
    assert site.old == site.reboot()
    site.machine.write("/proc/sys/kernel/random/boot_id", "boot-3\n")
    answer = await site.runner.perform(replace(back, number=1))
    assert isinstance(answer, Switched)
    assert (Result.DONE, site.old) == (answer.result, site.machine.host.profile_system())


@pytest.mark.parametrize("loader", LOADERS)
async def test_going_back_before_the_boot_lets_the_loader_forget_it(tmp_path: Path, loader: Loader) -> None:
    """Cancelled while it waits: the next boot is the old system's, and no reboot is needed for that."""
    site = Site(tmp_path, loader)
    await site.set_once()
    assert site.boot.told_once()
    answer = await site.runner.perform(GoBack(offer=site.offer, previous=site.old, number=0, fallback=loader))
    assert isinstance(answer, Switched)
    assert (Result.DONE, "", site.old) == (answer.result, site.boot.told_once(), site.reboot())


async def test_a_power_cut_before_it_was_set_is_no_boot_of_it(tmp_path: Path) -> None:
    """The installer had ended, the loader was not told yet: the machine is on the old system, and goes back there."""
    site = Site(tmp_path, "systemd-boot")
    site.boot.broken = {"set-oneshot"}
    await site.set_once()
    site.boot.broken = set()
    assert site.old == site.reboot()
    answer = await site.set_once()
    assert isinstance(answer, Switched)
    assert (Result.INTERRUPTED, "the machine went down before the new system was set") == (answer.result, answer.reason)


@pytest.mark.parametrize(
    ("loader", "verb", "said"),
    [
        ("systemd-boot", "set-oneshot", "bootctl set-oneshot ended with 1: it is broken"),
        ("systemd-boot", "set-default", "bootctl set-default ended with 1: it is broken"),
        ("grub", "grub-reboot", "grub-reboot ended with 1: it is broken"),
    ],
)
async def test_a_loader_that_refuses_stops_the_update(tmp_path: Path, loader: Loader, verb: str, said: str) -> None:
    """Whatever the tool says is told, and the old system is the default all the while."""
    site = Site(tmp_path, loader)
    site.boot.broken = {verb}
    assert Trouble(cause=Cause.INTERNAL, reason=said) == await site.set_once()
    assert site.old == site.boot.default()


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        ("systemd-boot", "the firmware does not keep what bootctl set-default told it"),
        ("grub", "GRUB does not remember what to boot once"),
    ],
)
async def test_a_loader_that_says_yes_and_forgets_is_found_out(tmp_path: Path, loader: Loader, said: str) -> None:
    """What it was told is read back."""
    site = Site(tmp_path, loader)
    site.boot.forgets = True
    assert Trouble(cause=Cause.INTERNAL, reason=said) == await site.set_once()


async def test_a_running_system_without_an_entry_is_nothing_to_fall_back_to(tmp_path: Path) -> None:
    """As one that was only tried out, or that the menu's limit left out."""
    site = Site(tmp_path, "systemd-boot")
    site.machine.write("/boot/menu", f"9 {site.new}\n")
    assert "none" == (await site.stage()).fallback


async def test_an_update_that_needs_none_asks_no_loader(tmp_path: Path) -> None:
    """The same kernel: it is switched to, and no tool of a boot loader is run."""
    site = Site(tmp_path, "systemd-boot")
    site.offer = replace(site.offer, path=site.boot.system("same", "6.1"))
    assert Ready(baseline=()) == await site.stage()
    assert [] == site.boot.calls


async def test_mode_boot_waits_for_a_boot_without_any_need(tmp_path: Path) -> None:
    """The rollout says so; it has the same way back."""
    site = Site(tmp_path, "systemd-boot")
    site.offer = replace(site.offer, path=site.boot.system("same", "6.1"), verb="boot")
    ready = await site.stage()
    assert (("the rollout wants one",), "systemd-boot") == (ready.reboot, ready.fallback)


async def test_a_machine_that_cannot_be_rebooted_is_told_so_later_again(tmp_path: Path) -> None:
    """Whoever gets an answer is still up."""
    site = Site(tmp_path, "systemd-boot")
    answer = await site.runner.perform(Reboot(offer=site.offer))
    assert Trouble(cause=Cause.INTERNAL, reason="the machine could not be rebooted", later=True) == answer
    assert ["reboot"] == site.boot.calls


@pytest.mark.parametrize("loader", ["systemd-boot", "grub", "none"])
def test_the_fact_names_what_falls_back(tmp_path: Path, loader: Loader) -> None:
    """The same that previews show is what the agent goes by."""
    site = Site(tmp_path, loader)
    assert loader == facts.gather(site.machine.host, "2.8.0").boot_fallback
