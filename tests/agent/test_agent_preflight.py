"""What a device refuses before anything changes, on made-up system trees."""

import fcntl
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.agent.made_up import Machine

from nixfleet.agent import preflight
from nixfleet.agent.settings import Settings
from nixfleet.agent.update import Trouble
from nixfleet.model.device import Cause

FLEET = "ab" * 32


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Give a machine that runs a system called old."""
    machine = Machine(tmp_path)
    machine.boot(machine.system("old"))
    return machine


def settings_of(machine: Machine) -> Settings:
    """Give the settings in force on a machine."""
    return Settings(state_dir=str(machine.state_dir), fleet=FLEET, key_file="/etc/ssh/ssh_host_ed25519_key")


def judge(machine: Machine, path: str, *, rename: bool = False, leave: bool = False) -> Trouble | None:
    """Judge a new system as the runner does."""
    offer = replace(machine.offer(path), rename=rename, leave=leave)
    previous = machine.host.current_system()
    return preflight.system_trouble(machine.host, settings_of(machine), offer, previous, {"web-01"})


def refusal(reason: str) -> Trouble:
    """Expect a refusal."""
    return Trouble(cause=Cause.PREFLIGHT, reason=reason, refused=True)


def test_a_system_with_an_enabled_agent_passes(machine: Machine) -> None:
    """Nothing to refuse."""
    assert judge(machine, machine.system("new")) is None


def test_a_path_without_a_switch_is_no_system(machine: Machine) -> None:
    """A closure that is not a NixOS toplevel is refused."""
    new = machine.system("new")
    machine.host.at(f"{new}/bin/switch-to-configuration").unlink()
    assert refusal("not a NixOS system: it has no bin/switch-to-configuration") == judge(machine, new)


def test_another_platform_is_another_machine(machine: Machine) -> None:
    """A system for other hardware is refused even if signed for this device."""
    new = machine.system("new")
    machine.write(f"{new}/system", "aarch64-linux")
    expected = refusal("looks like another machine: the system is for aarch64-linux, this is x86_64-linux")
    assert expected == judge(machine, new)


def test_a_system_without_an_enabled_agent_would_leave_the_fleet(machine: Machine) -> None:
    """The agent must still start after the switch, unless the rollout says `leave`."""
    new = machine.system("new")
    machine.host.at(f"{new}/{preflight.AGENT_UNIT}").unlink()
    assert refusal("would leave the fleet: it has no enabled nixfleet-agent.service") == judge(machine, new)
    assert judge(machine, new, leave=True) is None


def test_another_unit_or_other_settings_are_another_agent(machine: Machine) -> None:
    """A new program and a changed agent.toml make the running agent give way; the same of both does not."""
    old, new = machine.host.current_system(), machine.system("new")
    assert not preflight.agent_changes(machine.host, old, new)
    for file in ("etc/systemd/system/nixfleet-agent.service", preflight.AGENT_FILE):
        kept = machine.host.read(f"{new}/{file}")
        machine.write(f"{new}/{file}", f"{kept}\n# changed\n")
        assert preflight.agent_changes(machine.host, old, new)
        machine.write(f"{new}/{file}", kept)
        assert not preflight.agent_changes(machine.host, old, new)


def test_an_agent_unit_that_leads_nowhere_is_not_enabled(machine: Machine) -> None:
    """A masked or dangling unit does not count."""
    new = machine.system("new")
    machine.host.at(f"{new}/etc/systemd/system/nixfleet-agent.service").unlink()
    assert refusal("would leave the fleet: it has no enabled nixfleet-agent.service") == judge(machine, new)


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        ("nmae = 'x'", "its agent would not start: unknown key nmae"),
        ("name = ", "its agent would not start: not TOML"),
        (f"fleet = '{'cd' * 32}'", "its agent.toml names another fleet (cdcdcdcdcdcd…)"),
        ("state_dir = '/srv/other'", "its agent.toml names another state folder (/srv/other)"),
        ("key_file = '/root/key'", "its agent.toml names another key (/root/key)"),
    ],
)
def test_an_agent_that_would_be_somebody_else_is_refused(machine: Machine, toml: str, reason: str) -> None:
    """Another fleet, state folder or key, or a file that does not parse, would lose the device."""
    ours = "" if "state_dir" in toml else f"state_dir = '{machine.state_dir}'\n"
    verdict = judge(machine, machine.system("new", agent_toml=f"{ours}{toml}"))
    assert verdict is not None
    assert verdict.refused
    assert verdict.reason.startswith(f"would leave the fleet: {reason}")


def test_the_same_fleet_and_key_may_be_named(machine: Machine) -> None:
    """Saying what is in force already changes nothing."""
    toml = f"fleet = '{FLEET}'\nstate_dir = '{machine.state_dir}'\nkey_file = '/etc/ssh/ssh_host_ed25519_key'\n"
    assert judge(machine, machine.system("new", agent_toml=toml)) is None


def test_another_host_name_is_another_machine_unless_renamed(machine: Machine) -> None:
    """A non-empty host name that is none of ours is refused; `rename` allows it, and our own passes."""
    new = machine.system("new")
    machine.write(f"{new}/etc/hostname", "db-07\n")
    assert refusal("looks like another machine: its host name is db-07") == judge(machine, new)
    assert judge(machine, new, rename=True) is None
    machine.write(f"{new}/etc/hostname", "web-01\n")
    assert judge(machine, new) is None


def test_a_root_file_system_that_is_not_here_is_another_machine(machine: Machine) -> None:
    """The disk that the new fstab names must exist; a tmpfs root needs none."""
    new = machine.system("new")
    machine.write(f"{new}/etc/fstab", "# x\n/dev/disk/by-uuid/1234 / ext4 defaults 0 1\ntmpfs /tmp tmpfs\n")
    expected = "looks like another machine: its root file system /dev/disk/by-uuid/1234 does not exist here"
    assert refusal(expected) == judge(machine, new)
    machine.write("/dev/disk/by-uuid/1234", "")
    assert judge(machine, new) is None
    machine.write(f"{new}/etc/fstab", "UUID=77 / ext4\n")
    assert refusal(expected.replace("/dev/disk/by-uuid/1234", "UUID=77")) == judge(machine, new)
    machine.write(f"{new}/etc/fstab", "none / tmpfs defaults\n")
    assert judge(machine, new) is None


def test_an_agent_of_an_older_protocol_would_leave_the_fleet(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not read the log from the root on that raised the protocol."""
    monkeypatch.setattr(preflight, "PROTOCOL", 2)
    toml = f'state_dir = "{machine.state_dir}"\nprotocol = '
    older, same = (machine.system(f"new-{number}", agent_toml=f"{toml}{number}\n") for number in (1, 2))
    assert refusal("would leave the fleet: its agent follows protocol 1, this one 2") == judge(machine, older)
    assert judge(machine, same) is None


def test_a_boot_partition_that_is_too_small_is_waited_for(machine: Machine) -> None:
    """A new kernel needs room beside the old one; the same kernel, or a /boot on the root disk, needs none."""
    new = machine.system("new")
    machine.write(f"{new}/kernel", "k" * (1 << 20))
    assert judge(machine, new) is None
    machine.host.at("/boot").symlink_to("/proc")  # another file system, and a full one
    expected = Trouble(cause=Cause.SPACE, reason="/boot is short of 5 MiB for the new kernel and initrd", later=True)
    assert expected == judge(machine, new)
    machine.host.at(f"{new}/kernel").unlink()
    assert judge(machine, new) is None


def test_links_of_a_system_never_lead_out_of_the_machine(machine: Machine, tmp_path: Path) -> None:
    """An absolute link is followed inside the machine's tree, `..` stops at its root, a loop leads nowhere."""
    new = machine.system("new")
    etc = machine.host.at(f"{new}/etc")
    etc.rename(machine.root / "nix/store/etc")
    etc.symlink_to("/nix/store/etc")
    assert judge(machine, new) is None
    machine.host.at("/up").symlink_to("../../../../etc")
    assert machine.host.resolve("/up/machine-id") == tmp_path / "etc/machine-id"
    machine.host.at("/loop").symlink_to("/loop")
    assert machine.host.resolve("/loop") is None


def device(machine: Machine, system: str = "x86_64-linux", settings: Settings | None = None) -> Trouble | None:
    """Judge the device itself."""
    offer = replace(machine.offer("/nix/store/x"), system=system)
    previous = machine.host.current_system()
    return preflight.device_trouble(machine.host, settings or settings_of(machine), offer, previous)


def test_a_device_without_a_way_back_has_no_way_forward(machine: Machine) -> None:
    """No running system with a switch, no update."""
    (machine.root / "run/current-system").unlink()
    verdict = device(machine)
    assert verdict is not None
    assert verdict.reason.startswith("no way back")


def test_a_line_for_another_platform_is_refused_before_anything_is_fetched(machine: Machine) -> None:
    """The signed line names the platform."""
    expected = refusal("looks like another machine: the system is for aarch64-linux, this is x86_64-linux")
    assert expected == device(machine, system="aarch64-linux")


@pytest.mark.parametrize(("place", "what"), [("var", "the state folder "), ("nix/var", "Nix's memory ")])
def test_state_on_tmpfs_is_no_state_unless_settings_say_so(machine: Machine, place: str, what: str) -> None:
    """A reboot must not lose the way back, as on an installer's image; containers and tests can say that they know."""
    mount = f"2 1 0:2 / {machine.root}/{place} rw - tmpfs x rw\n"
    machine.write("/proc/self/mountinfo", f"1 0 0:1 / / rw - ext4 x rw\n{mount}")
    verdict = device(machine)
    assert verdict is not None
    assert verdict.reason.startswith(what)
    assert verdict.reason.endswith("is on tmpfs: a reboot would lose the way back")
    assert device(machine, settings=replace(settings_of(machine), volatile_state=True)) is None


def test_a_switch_that_runs_already_is_waited_for(machine: Machine) -> None:
    """The lock of switch-to-configuration is respected, and the update tried again later."""
    lock = machine.root / preflight.LOCK.lstrip("/")
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        expected = Trouble(cause=Cause.PREFLIGHT, reason="another switch of this system is running", later=True)
        assert expected == device(machine)
    assert device(machine) is None
