"""What is read of boot loaders: captured output, GRUB's menu as NixOS writes it, and what is no way to fall back."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.agent.bootlab import BootLab, Loader
from tests.agent.made_up import Machine

from nixfleet.agent import bootmenu
from nixfleet.agent.bootmenu import Entry, find, grub_menu, kind_of, systemd_menu

SAMPLES = Path(__file__).parents[1] / "nix/samples"
ONE, TWO = (f"/nix/store/{'0' * 31}{digit}-nixos-system-web-25.05" for digit in "12")


def read(name: str) -> str:
    """Read a captured sample."""
    return (SAMPLES / name).read_text()


@pytest.mark.parametrize("version", ["252", "257"])
def test_the_menu_of_systemd_boot_is_read_in_both_of_its_forms(version: str) -> None:
    """An object on each line before 254, a list since; the counter of boot counting is no part of a name."""
    menu = systemd_menu(read(f"bootctl-list-{version}.txt"))
    assert (Entry("nixos-generation-8.conf", TWO), Entry("nixos-generation-7.conf", ONE)) == menu[:2]
    assert ("nixos-generation-8.conf", "") == (find(menu, TWO), find(menu, "/nix/store/other"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, {}]",
        '{"id": 3}',
        '{"id": "a"}',
        "[" * 100_000,
        '{"id":"a","options":{}}',
        '{"id":"a","options":7}',
    ],
)
def test_output_that_is_no_menu_has_no_entries(text: str) -> None:
    """Nothing is guessed; so there is nothing to fall back to."""
    assert () == systemd_menu(text)


def test_the_menu_of_grub_is_read_as_nixos_writes_it() -> None:
    """Entries of submenus by both titles, each > of a title doubled; functions and other systems are passed over."""
    menu = grub_menu(read("grub.cfg"))
    older = "NixOS - All configurations>NixOS - Configuration 7 (2026-01-02 - 25.05)"
    assert (Entry("NixOS", TWO), Entry("a>>b>NixOS - Configuration 9 (x)", ONE)) == (menu[0], menu[-1])
    assert (older, "NixOS") == (find(menu, ONE), find(menu, TWO))
    assert 4 == len(menu), "nor the one whose name would steer a terminal"


Spoil = Callable[[Machine], None]


def _without(path: str) -> Spoil:
    return lambda machine: machine.host.at(path).unlink()


def _replace(path: str, old: str, new: str) -> Spoil:
    return lambda machine: machine.write(path, machine.host.read(path).replace(old, new))


def _features(machine: Machine) -> None:
    place = machine.host.at(f"{bootmenu.EFI_VARIABLES}/LoaderFeatures-{bootmenu.LOADER}")
    place.write_bytes(b"\7\0\0\0" + (1 << 4).to_bytes(8, "little"))


@pytest.mark.parametrize(
    ("loader", "spoil"),
    [
        ("systemd-boot", _features),
        ("systemd-boot", _without(f"{bootmenu.EFI_VARIABLES}/LoaderInfo-{bootmenu.LOADER}")),
        ("systemd-boot", _replace("/proc/self/mountinfo", "efivarfs rw", "efivarfs ro")),
        ("systemd-boot", _without("/proc/self/mountinfo")),
        ("grub", _replace(bootmenu.GRUB_MENU, "next_entry", "other")),
        ("grub", _replace(bootmenu.GRUB_MENU, "set default=0", 'set default="${saved_entry}"')),
        ("grub", _replace(bootmenu.GRUB_MENU, "init=", "init=/nix/store/other")),
        ("grub", _replace("/proc/self/mountinfo", "- ext4", "- btrfs")),
        ("grub", _replace("/proc/self/mountinfo", "- ext4", "- zfs")),
        ("grub", _replace("/proc/self/mountinfo", "/dev/sda1", "/dev/mapper/root")),
        ("grub", _replace("/proc/self/mountinfo", "/dev/sda1", "/dev/md0")),
        ("grub", lambda machine: machine.host.at(f"{machine.host.current_system()}/sw/bin/grub-reboot").unlink()),
    ],
)
def test_a_loader_that_cannot_boot_once_and_forget_is_no_way_to_fall_back(
    tmp_path: Path, loader: Loader, spoil: Spoil
) -> None:
    """Without the bits, without a memory that can be written, on disks that GRUB only reads, with another's menu."""
    machine = Machine(tmp_path)
    lab = BootLab(machine, loader)
    lab.install(lab.system("old", "6.1"))
    assert loader == kind_of(machine.host)
    spoil(machine)
    assert "none" == kind_of(machine.host)
