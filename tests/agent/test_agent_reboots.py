"""Which systems take a reboot, on made-up system trees."""

import json
from pathlib import Path

import pytest
from tests.agent.made_up import Machine

from nixfleet.agent.reboots import reasons

PARTS = {
    "kernel": "linux-{}/bzImage",
    "initrd": "initrd-linux-{}/initrd",
    "kernel-modules": "linux-{}-modules/lib",
    "systemd": "systemd-{}/lib",
}


def give(machine: Machine, system: str, link: str, version: str, digit: str = "1") -> None:
    """Give a system a part of a version."""
    target = f"/nix/store/{digit * 32}-{PARTS[link].format(version)}"
    machine.write(target, "content")
    place = machine.host.at(f"{system}/{link}")
    place.unlink(missing_ok=True)
    place.symlink_to(target)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Give a machine that booted and runs a system of version 6.1 in all its parts."""
    machine = Machine(tmp_path)
    old = machine.system("old")
    for link in PARTS:
        give(machine, old, link, "6.1")
    machine.boot(old)
    return machine


def like_old(machine: Machine) -> str:
    """Make a system of the same parts."""
    new = machine.system("new")
    for link in PARTS:
        give(machine, new, link, "6.1")
    return new


def test_the_same_parts_take_no_reboot(machine: Machine) -> None:
    """Nothing that only a reboot brings is different; a system without a kernel, as a container's, has none either."""
    assert reasons(machine.host, like_old(machine)) == ()
    assert reasons(machine.host, machine.system("container")) == ()


@pytest.mark.parametrize(
    ("link", "said"),
    [("kernel", "kernel"), ("initrd", "initrd"), ("kernel-modules", "modules"), ("systemd", "systemd")],
)
def test_each_part_of_booting_takes_one_and_says_the_versions(machine: Machine, link: str, said: str) -> None:
    """Another version is told; the same version from another build is rebuilt, and what was not there is new."""
    new = like_old(machine)
    give(machine, new, link, "6.2")
    assert (f"{said} 6.1 → 6.2",) == reasons(machine.host, new)
    give(machine, new, link, "6.1", "2")
    assert (f"{said} rebuilt",) == reasons(machine.host, new)
    machine.host.at(f"{machine.host.current_system()}/{link}").unlink()
    assert (f"{said} new",) == reasons(machine.host, new)


def test_it_is_the_booted_system_that_counts_not_the_running_one(machine: Machine) -> None:
    """A kernel that was switched to and never booted still takes a reboot; back to the booted one takes none."""
    old, new = machine.host.booted_system(), like_old(machine)
    give(machine, new, "kernel", "6.2")
    (machine.root / "run/current-system").unlink()
    (machine.root / "run/current-system").symlink_to(new)
    assert reasons(machine.host, new) == ("kernel 6.1 → 6.2",)
    assert reasons(machine.host, old) == ()


def test_where_nothing_says_what_was_booted_no_part_takes_a_reboot(machine: Machine) -> None:
    """As in a container that was never booted."""
    new = like_old(machine)
    give(machine, new, "systemd", "6.2")
    (machine.root / "run/booted-system").unlink()
    assert reasons(machine.host, new) == ()


def test_another_way_to_speak_to_init_takes_a_reboot(machine: Machine) -> None:
    """NixOS would end such a switch with exit code 100."""
    new = like_old(machine)
    machine.write(f"{machine.host.current_system()}/init-interface-version", "systemd 2\n")
    assert reasons(machine.host, new) == ()
    machine.write(f"{new}/init-interface-version", "systemd 3\n")
    assert reasons(machine.host, new) == ("init systemd 2 → systemd 3",)


def test_what_the_system_itself_says_inhibits_a_switch_takes_a_reboot(machine: Machine) -> None:
    """Named texts as JSON: those that both systems have and that differ, as NixOS's own check reads them."""
    new = like_old(machine)
    lists = {
        machine.host.current_system(): {"dbus": "dbus", "same": "1", "gone": "x"},
        new: {"dbus": "broker", "same": "1", "came": "y"},
    }
    for system, names in lists.items():
        machine.write(f"{system}/switch-inhibitors", json.dumps(names))
    assert reasons(machine.host, new) == ("dbus dbus → broker",)


def test_inhibitors_may_be_store_paths(machine: Machine) -> None:
    """The older form of the list, a path on each line."""
    new = like_old(machine)
    for system, version in ((machine.host.current_system(), "1.14"), (new, "1.15")):
        machine.write(
            f"{system}/switch-inhibitors", f"/nix/store/{'3' * 32}-dbus-{version}\n/nix/store/{'4' * 32}-a-1\n"
        )
    assert reasons(machine.host, new) == ("dbus changed",)


@pytest.mark.parametrize("text", ["{", "[1]", "{" * 100_000, '{"a": 1}', "\x00"])
def test_a_list_that_cannot_be_read_inhibits_nothing(machine: Machine, text: str) -> None:
    """NixOS takes such a list for an empty one."""
    new = like_old(machine)
    machine.write(f"{machine.host.current_system()}/switch-inhibitors", '{"a": "1"}')
    machine.write(f"{new}/switch-inhibitors", text)
    assert reasons(machine.host, new) == ()


def test_what_is_said_is_bounded_and_on_one_line(machine: Machine) -> None:
    """The new system writes the list: it is data."""
    new = like_old(machine)
    for system, value in ((machine.host.current_system(), "a"), (new, "b\n\x1b[2J" * 500)):
        machine.write(f"{system}/switch-inhibitors", json.dumps({f"name{number:02}": value for number in range(50)}))
    found = reasons(machine.host, new)
    assert len(found) == 8
    assert all(len(reason) <= 80 and reason.isprintable() for reason in found)
