"""What boot loaders tell: the menus of systemd-boot and GRUB, and what falls back at boot on this machine.

Pure readers of texts and small files; it must never change what is booted (`agent.fallback` does), and what it cannot
read is no way to fall back.
"""

import json
import re
from typing import Final, Literal

import msgspec

from nixfleet.agent.host import Host
from nixfleet.model.text import clean

Kind = Literal["systemd-boot", "grub", "none"]
"""The fact `boot_fallback`: what can boot a system once and fall back; systemd-boot's and GRUB's one-shot entries."""

GRUB_MENU: Final = "/boot/grub/grub.cfg"
GRUB_MEMORY: Final = "/boot/grub/grubenv"
EFI_VARIABLES: Final = "/sys/firmware/efi/efivars"
LOADER: Final = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
"""The vendor id of the Boot Loader Interface's variables (systemd.io/BOOT_LOADER_INTERFACE)."""
_ONE_SHOT, _DEFAULT = 1 << 3, 1 << 2
"""Bits of LoaderFeatures: a one-shot entry, a default entry (the same page)."""
_GRUB_WRITES: Final = frozenset({"ext2", "ext3", "ext4", "vfat", "msdos"})
"""File systems on which GRUB can write its memory, by overwriting the blocks of a file in place: without that it never
forgets a one-shot entry (GRUB manual, Environment block)."""
_GRUB_BLIND: Final = ("/dev/mapper/", "/dev/dm-", "/dev/md")
"""Block devices that GRUB only reads."""
_INIT: Final = re.compile(r"(?:^|\s)init=(/nix/store/[^\s/]+)/\S*")
_TITLE: Final = re.compile(r"""\s*(menuentry|submenu)\s+(?:"([^"]*)"|'([^']*)')""")
_MOST_BYTES: Final = 4 << 20
_UTF16: Final = "utf-16-le"


class Entry(msgspec.Struct, frozen=True):
    """An entry of a boot menu: how its loader names it, and the system it starts."""

    id: str
    system: str


def systemd_menu(text: str) -> tuple[Entry, ...]:
    """Read ``bootctl list --json=short``: a list, or before systemd 254 an object on each line."""
    found: list[Entry] = []
    for line in text.splitlines():
        if not line.startswith(("{", "[")):
            continue  # what it said on standard error
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            continue
        for one in told if isinstance(told, list) else [told]:
            if isinstance(one, dict) and isinstance(one.get("id"), str):
                options = one.get("options")
                found += _entry(one["id"], options if isinstance(options, str) else "")
    return tuple(found)


def grub_menu(text: str) -> tuple[Entry, ...]:
    """Read NixOS's grub.cfg; an entry of a submenu is named as ``grub-reboot`` wants it, ``MENU>ENTRY``."""
    found: list[Entry] = []
    menus: list[str] = []
    """Titles of the blocks around; of a block that is no menu, an empty one."""
    for line in text.splitlines():
        title = _TITLE.match(line)
        if line.rstrip().endswith("{"):
            name = (title[2] or title[3] or "") if title else ""
            # grub-reboot(8): a > within a title is written twice.
            menus.append(name.replace(">", ">>"))
        elif line.strip() == "}":
            del menus[-1:]
        elif menus and line.split()[:1] in (["linux"], ["linuxefi"], ["module"]):
            found += _entry(">".join(filter(None, menus)), line)
    return tuple(found)


def _entry(name: str, options: str) -> tuple[Entry, ...]:
    system = _INIT.search(options)
    return (Entry(name, system[1]),) if system is not None and name == clean(name) else ()


def find(menu: tuple[Entry, ...], system: str) -> str:
    """Name the entry that starts a system; empty when there is none."""
    return next((entry.id for entry in menu if entry.system == system), "")


def kind_of(host: Host) -> Kind:
    """Tell what falls back at boot here: a loader that boots an entry once, and that can forget it."""
    if _systemd_boot(host):
        return "systemd-boot"
    return "grub" if _grub(host) else "none"


def _systemd_boot(host: Host) -> bool:
    """Tell whether systemd-boot started this machine, can boot an entry once, and its variables can be written."""
    features = variable_bytes(host, "LoaderFeatures")
    bits = int.from_bytes(features[:8], "little")
    wanted = _ONE_SHOT | _DEFAULT
    if not variable(host, "LoaderInfo").startswith("systemd-boot") or bits & wanted != wanted:
        return False
    mount = _mount_of(host, EFI_VARIABLES)
    return mount is not None and mount.writable and mount.kind == "efivarfs"


def _grub(host: Host) -> bool:
    """Tell whether GRUB's menu is this system's, knows one-shot entries, and is where GRUB can forget one."""
    text = host.read(GRUB_MENU, _MOST_BYTES)
    if "next_entry" not in text or re.search(r'set default="?\$\{saved_entry\}', text):
        return False
    if not find(grub_menu(text), host.booted_system()) or grub_tool(host, "grub-reboot") == "":
        return False
    mount = _mount_of(host, GRUB_MEMORY)
    return (
        mount is not None and mount.writable and mount.kind in _GRUB_WRITES and not mount.device.startswith(_GRUB_BLIND)
    )


def grub_tool(host: Host, name: str) -> str:
    """Find a tool of GRUB in the running system, by its path there; empty when that has none."""
    place = f"{host.current_system()}/sw/bin/{name}"
    return str(host.at(place)) if host.current_system() and host.resolve(place) is not None else ""


def variable(host: Host, name: str) -> str:
    """Read a text of the boot loader among the firmware's variables: UTF-16, ended by a zero."""
    return variable_bytes(host, name).decode(_UTF16, "replace").partition("\0")[0]


def variable_bytes(host: Host, name: str) -> bytes:
    """Read a variable without the four bytes of its attributes (efivarfs); empty when there is none."""
    place = host.resolve(f"{EFI_VARIABLES}/{name}-{LOADER}")
    try:
        with place.open("rb") if place is not None else open("/dev/null", "rb") as file:  # noqa: PTH123 - nothing
            return file.read(1_028)[4:]
    except OSError:
        return b""


def grub_once(host: Host) -> str:
    """Read which entry GRUB boots once, next; empty when none."""
    for line in host.read(GRUB_MEMORY, 4_096).splitlines():
        name, _, value = line.partition("=")
        if name == "next_entry":
            return value
    return ""


class _Mount(msgspec.Struct, frozen=True):
    point: str
    kind: str
    device: str
    writable: bool


def _mount_of(host: Host, path: str) -> _Mount | None:
    """Find the file system that holds a path, by the longest mount point (proc_pid_mountinfo(5)); a later one hides."""
    found: _Mount | None = None
    for line in host.read("/proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        words, last = fields.split(), rest.split()
        if len(words) < 6 or len(last) < 3:
            continue
        point = words[4].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (found is None or len(point) >= len(found.point)):
            writable = "ro" not in words[5].split(",") and "ro" not in last[2].split(",")
            found = _Mount(point, last[0], last[1], writable)
    return found
