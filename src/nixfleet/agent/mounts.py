"""Which kind of file system keeps what is written at a path: told by the kernel, nothing is tried.

It must never change a mount. Whoever asks wants to know whether a reboot would lose it.
"""

import os
import re
from typing import NamedTuple

from nixfleet.agent.host import Host

VOLATILE = frozenset({"tmpfs", "ramfs"})
_LAYERS_MOST = 8
"""Overlays on overlays: the kernel stacks two (Documentation/filesystems/overlayfs.rst)."""
_OCTAL = re.compile(r"\\([0-7]{3})")
_BOOT_ROOTS = ("/mnt-root", "/sysroot")
"""Where the first stage of NixOS mounts what becomes /: an overlay keeps the names of that time."""


class _Mount(NamedTuple):
    point: str
    kind: str
    options: str


def filesystem_of(host: Host, path: str) -> str:
    """Name the type of the file system that holds a path; of an overlay, the one that its upper folder is on."""
    mounts = _mounts(host)
    place = os.path.realpath(path)
    for _ in range(_LAYERS_MOST):
        mount = _holding(mounts, place)
        upper = _upper(mount) if mount.kind == "overlay" else ""
        if not upper:
            return mount.kind
        below = next((upper.removeprefix(root) for root in _BOOT_ROOTS if upper.startswith(f"{root}/")), upper)
        place = upper if below == upper or _holding(mounts, upper).point != "/" else below
    return "overlay"


def _mounts(host: Host) -> list[_Mount]:
    """Read what is mounted (proc_pid_mountinfo(5)), oldest first."""
    found: list[_Mount] = []
    for line in host.read("/proc/self/mountinfo").splitlines():
        fields, divider, rest = line.partition(" - ")
        words, after = fields.split(), rest.split(" ")
        if divider and len(words) >= 5 and after[0]:
            found.append(_Mount(_plain(words[4]), after[0], after[2] if len(after) > 2 else ""))
    return found


def _holding(mounts: list[_Mount], path: str) -> _Mount:
    """Find the mount that a path is on: the deepest, and of several at one point the last."""
    best = _Mount("", "", "")
    for mount in mounts:
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if inside and len(mount.point) >= len(best.point):
            best = mount
    return best


def _upper(mount: _Mount) -> str:
    """Give the folder that an overlay writes into; none when it is read-only."""
    for option in re.split(r"(?<!\\),", mount.options):
        name, _, value = option.partition("=")
        if name == "upperdir":
            return _plain(value).replace("\\,", ",")
    return ""


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)
