"""Where things are on this machine: the paths NixOS and Nix use, under a root that only tests move.

Reads small files and links, bounded; it must never write, and never follow a link out of the root.
"""

import os
import stat
from pathlib import Path

import msgspec

from nixfleet.model.text import clean_lines

READ_BYTES = 1 << 20
_MOST_LINKS = 40


class Host(msgspec.Struct, frozen=True):
    """This machine's file tree; `root` is ``/`` but for tests and the simulation."""

    root: Path = Path("/")

    def at(self, path: str) -> Path:
        """Place an absolute path under the root, without following links."""
        return self.root / path.lstrip("/")

    def resolve(self, path: str) -> Path | None:
        """Follow every link of an absolute path as the machine itself would, or None when it leads nowhere."""
        # By strings, not by `Path`s: a report reads a dozen files, and on a small device that is what it costs.
        left = [part for part in reversed(path.split("/")) if part not in {"", "."}]
        found: list[str] = []
        links, root = 0, str(self.root).rstrip("/")
        while left:
            part = left.pop()
            if part == "..":
                del found[-1:]
                continue
            here = f"{root}/{'/'.join((*found, part))}"
            try:
                if not stat.S_ISLNK(os.lstat(here).st_mode):
                    found.append(part)
                    continue
                target = os.readlink(here)  # noqa: PTH115 - see above
            except OSError:
                return None
            links += 1
            if links > _MOST_LINKS:
                return None
            if target.startswith("/"):
                found = []
            left += [part for part in reversed(target.split("/")) if part not in {"", "."}]
        return self.root.joinpath(*found)

    def read(self, path: str, limit: int = READ_BYTES) -> str:
        """Read a small text file with its control characters gone; empty when there is none."""
        place = self.resolve(path)
        if place is None or not place.is_file():
            return ""
        try:
            with place.open("rb") as file:
                return "\n".join(clean_lines(file.read(limit).decode("utf-8", "replace")))
        except OSError:
            return ""

    def link(self, path: str) -> str:
        """Say where a link points, or an empty string when there is none."""
        try:
            return str(self.at(path).readlink())
        except OSError:
            return ""

    def current_system(self) -> str:
        """Name the store path that runs now; empty when this is no NixOS machine."""
        return self.link("/run/current-system")

    def booted_system(self) -> str:
        """Name the store path that was booted."""
        return self.link("/run/booted-system")

    def profile_system(self) -> str:
        """Name the store path that the system profile points to."""
        name = self.link("/nix/var/nix/profiles/system")
        return self.link(f"/nix/var/nix/profiles/{name}") if name and "/" not in name else name

    def boot_id(self) -> str:
        """Identify this boot (random(4)); it changes with each one."""
        return self.read("/proc/sys/kernel/random/boot_id", 64).strip()

    def machine_id(self) -> str:
        """Identify this installation (machine-id(5)); empty when it has none."""
        return self.read("/etc/machine-id", 64).strip()

    def hostname(self) -> str:
        """Give the host name in force."""
        return self.read("/proc/sys/kernel/hostname", 256).strip()

    def has_systemd(self) -> bool:
        """Tell whether systemd runs this machine (sd_booted(3))."""
        return self.at("/run/systemd/system").is_dir()

    def profile(self) -> Path:
        """Give the system profile's link."""
        return self.at("/nix/var/nix/profiles/system")

    def gc_root(self, name: str) -> Path:
        """Give one of our own garbage collector roots."""
        return self.at("/nix/var/nix/gcroots/nixfleet") / name

    def free_bytes(self, path: str) -> tuple[int, int]:
        """Give free and total bytes of the file system that holds a path (statvfs(3)); zeros when it is not there."""
        try:
            found = os.statvfs(self.at(path))
        except OSError:
            return 0, 0
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
