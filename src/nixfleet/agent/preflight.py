"""May this system run here? Rules over the file trees of the new and the running system; nothing is changed.

Must never start a process nor ask the network. A verdict is None, or the reason as a sentence.
"""

import fcntl
import os
import platform
from pathlib import Path

from nixfleet.agent.host import Host
from nixfleet.agent.mounts import VOLATILE, filesystem_of
from nixfleet.agent.settings import Settings
from nixfleet.agent.update import Offer, Trouble
from nixfleet.config import read_toml
from nixfleet.errors import UserError
from nixfleet.model.device import Cause
from nixfleet.model.ids import PROTOCOL

SWITCH = "bin/switch-to-configuration"
LOCK = "/run/nixos/switch-to-configuration.lock"
AGENT_UNIT = "etc/systemd/system/multi-user.target.wants/nixfleet-agent.service"
AGENT_FILE = "etc/nixfleet/agent.toml"
PROFILES = "/nix/var/nix/profiles"
_DISKS = {"UUID": "by-uuid", "LABEL": "by-label", "PARTUUID": "by-partuuid", "PARTLABEL": "by-partlabel", "ID": "by-id"}
_BOOT_SPARE_BYTES = 4 << 20


def device_trouble(host: Host, settings: Settings, offer: Offer, previous: str) -> Trouble | None:
    """Say what keeps this device from any update, or from this one, before anything is fetched."""
    if not has_switch(host, previous):
        return _no("no way back: the running system is not a NixOS system with a switch, so there is no way forward")
    here = platform_of(host)
    if offer.system not in {"", here}:
        return _no(f"looks like another machine: the system is for {offer.system}, this is {here}", refused=True)
    if set("$%") & set(settings.state_dir):
        # systemd expands both in the command line of a switch (systemd.service(5), Command lines).
        return _no(f"the name of the state folder {settings.state_dir} has $ or %, which systemd would expand")
    for what, place in (
        (f"the state folder {settings.state_dir}", settings.state_dir),
        (f"Nix's memory {PROFILES}", str(host.at(PROFILES))),
    ):
        kind = filesystem_of(host, place)
        if kind in VOLATILE and not settings.volatile_state:
            return _no(f"{what} is on {kind}: a reboot would lose the way back")
    if switch_is_running(host):
        return Trouble(cause=Cause.PREFLIGHT, reason="another switch of this system is running", later=True)
    return None


def system_trouble(host: Host, settings: Settings, offer: Offer, previous: str, names: set[str]) -> Trouble | None:
    """Read the new system, which is here and is the signed one; `names` are what this device may be called."""
    path = offer.path
    if not has_switch(host, path):
        return _no(f"not a NixOS system: it has no {SWITCH}", refused=True)
    here, there = platform_of(host), host.read(f"{path}/system", 64).strip()
    if there not in {"", here}:
        return _no(f"looks like another machine: the system is for {there}, this is {here}", refused=True)
    if not offer.leave and (why := _would_leave(host, settings, path)):
        return _no(f"would leave the fleet: {why}", refused=True)
    name = host.read(f"{path}/etc/hostname", 256).strip()
    known = {*names, host.hostname(), host.read(f"{previous}/etc/hostname", 256).strip()}
    if name and name not in known and not offer.rename:
        return _no(f"looks like another machine: its host name is {name}", refused=True)
    if why := _root_missing(host, path):
        return _no(f"looks like another machine: {why}", refused=True)
    short_bytes = _boot_short_bytes(host, path, previous)
    if short_bytes > 0:
        reason = f"/boot is short of {short_bytes >> 20} MiB for the new kernel and initrd"
        return Trouble(cause=Cause.SPACE, reason=reason, later=True)
    return None


def has_switch(host: Host, path: str) -> bool:
    """Tell whether a path is a system that can be switched to."""
    place = host.resolve(f"{path}/{SWITCH}") if path else None
    return place is not None and place.is_file() and os.access(place, os.X_OK)


def platform_of(host: Host) -> str:
    """Name this machine's platform as Nix does."""
    return host.read(f"{host.current_system()}/system", 64).strip() or f"{platform.machine()}-linux"


def switch_is_running(host: Host) -> bool:
    """Tell whether somebody holds the lock of switch-to-configuration (flock(2))."""
    try:
        with host.at(LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def settings_of(file: Path | None, otherwise: Settings) -> Settings:
    """Read the settings that a system brings, or the other ones when it brings none that can be read."""
    try:
        return read_toml(file, Settings) if file is not None else otherwise
    except UserError:
        return otherwise


def agent_changes(host: Host, before: str, after: str) -> bool:
    """Tell whether two systems start different agents, or the same one with other settings."""
    files = ("etc/systemd/system/nixfleet-agent.service", AGENT_FILE)
    return any(host.read(f"{before}/{file}") != host.read(f"{after}/{file}") for file in files)


def _would_leave(host: Host, settings: Settings, path: str) -> str:
    unit = host.resolve(f"{path}/{AGENT_UNIT}")
    if unit is None or not unit.is_file():
        return "it has no enabled nixfleet-agent.service"
    file = host.resolve(f"{path}/{AGENT_FILE}")
    if file is None:
        return f"it has no /{AGENT_FILE}"
    try:
        new = read_toml(file, Settings)
    except UserError as error:
        return f"its agent would not start: {str(error).removeprefix(f'{file}: ')}"
    # What the new file does not say stays as recorded in the state folder; only another value is a change.
    if new.fleet is not None and new.fleet != settings.fleet:
        return f"its agent.toml names another fleet ({new.fleet[:12]}…)"
    if Path(new.state_dir) != Path(settings.state_dir):
        return f"its agent.toml names another state folder ({new.state_dir})"
    if new.key_file is not None and new.key_file != settings.key_file:
        return f"its agent.toml names another key ({new.key_file})"
    if new.protocol is not None and new.protocol < PROTOCOL:
        return f"its agent follows protocol {new.protocol}, this one {PROTOCOL}"
    return ""


def _root_missing(host: Host, path: str) -> str:
    """Say which root file system of the new fstab does not exist here (fstab(5))."""
    for line in host.read(f"{path}/etc/fstab").splitlines():
        words = line.split()
        if len(words) < 3 or words[0].startswith("#") or words[1] != "/":
            continue
        tag, _, value = words[0].partition("=")
        place = f"/dev/disk/{_DISKS[tag]}/{value.strip(chr(34))}" if tag in _DISKS and value else words[0]
        if place.startswith("/dev/") and not os.path.lexists(host.at(place)):
            return f"its root file system {words[0]} does not exist here"
    return ""


def _boot_short_bytes(host: Host, path: str, previous: str) -> int:
    """Say how many bytes /boot lacks for a new kernel and initrd, when it is a file system of its own."""
    need = 0
    for name in ("kernel", "initrd"):
        new, old = host.resolve(f"{path}/{name}"), host.resolve(f"{previous}/{name}")
        if new is not None and new.is_file() and new != old:
            need += new.stat().st_size
    try:
        separate = host.at("/boot").stat().st_dev != host.at("/").stat().st_dev
    except OSError:
        return 0
    return need + _BOOT_SPARE_BYTES - host.free_bytes("/boot")[0] if need and separate else 0


def _no(reason: str, *, refused: bool = False) -> Trouble:
    return Trouble(cause=Cause.PREFLIGHT, reason=reason, refused=refused)
