"""A NixOS-shaped machine that a real systemd runs as process 1: a container of namespaces with a network of its own.

Its /usr is the Debian's, read-only; everything else is its own. What of the kernel is not in a namespace is read-only
(systemd-nspawn(1)); nothing of the host can be written. A reboot brings a new boot id and starts what the boot loader
names.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.nix.builder import Systems, write_conf
from tests.nix.probes import wait_until
from tests.vm import cgroups

BOOT_S = 60
RUN_S = 60
# What boot loader and initrd do: the system that is the default is process 1.
BOOT_LOADER = '#!/bin/sh\nexec "$(cat /boot/loader/default)/init"\n'
# 133: how nspawn, which is to keep its unit, says that the machine asks for a reboot.
FIRMWARE = 'while :; do code=0; "$@" || code=$?; [ "$code" = 133 ] || exit "$code"; done'
# nspawn gives each boot an id of its own.
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Booted:
    """One machine; `start` boots it, `close` ends it and all that is of it."""

    def __init__(self, folder: Path, debian: Path, number: int) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.name = f"nfvm{os.getpid()}x{number}"
        low = (os.getpid() * 8 + number) % 16_000
        self._network = f"10.91.{low // 64}"
        self._low = low % 64 * 4
        self._debian = debian
        self._process: subprocess.Popen[bytes] | None = None
        self.groups: list[Path] = []
        self._make_root()

    @property
    def host_address(self) -> str:
        """The host's end of the only link that this machine has."""
        return f"{self._network}.{self._low + 1}"

    def _make_root(self) -> None:
        self.root.mkdir(parents=True)
        for name in ("etc", "var"):
            shutil.copytree(self._debian / name, self.root / name, symlinks=True)
        for link in ("bin", "sbin", "lib", "lib64"):
            (self.root / link).symlink_to(f"usr/{link}")
        for name in ("usr", "nix/store", "nix/var/nix/gcroots", "nix/var/nix/profiles", "boot/loader", "root", "home"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name in ("proc", "sys", "dev", "run", "tmp", "mnt", "srv"):
            (self.root / name).mkdir()
        for link in ("current-system", "booted-system"):
            (self.root / "nix/var/nix/gcroots" / link).symlink_to(f"/run/{link}")
        self.write("/etc/NIXOS", "")
        self.write("/etc/machine-id", f"{os.urandom(16).hex()}\n")
        self.write("/etc/hostname", "web-01\n")
        self.write("/boot-loader", BOOT_LOADER, 0o755)
        write_conf(self.root / "etc/nix")
        conf = self.root / "etc/nix/nix.conf"
        conf.write_text(conf.read_text().replace(str(self.root), ""))

    def install(self, systems: Systems, system: str) -> None:
        """Put the first system on the disk: store, profile and boot loader."""
        systems.copy(system, f"local?root={self.root}")
        profiles = self.root / "nix/var/nix/profiles"
        (profiles / "system-1-link").symlink_to(system)
        (profiles / "system").symlink_to("system-1-link")
        self.write("/boot/loader/default", f"{system}\n")

    def connect(self) -> None:
        """Make the link between this machine and the host."""
        inside = f"{self.name[-12:]}i"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._link, "type", "veth", "peer", inside, "netns", self.name)
        _ip("addr", "add", f"{self.host_address}/30", "dev", self._link)
        _ip("link", "set", self._link, "up")
        _ip("-n", self.name, "addr", "add", f"{self._network}.{self._low + 2}/30", "dev", inside)
        for link in ("lo", inside):
            _ip("-n", self.name, "link", "set", link, "up")

    @property
    def _link(self) -> str:
        return f"{self.name[-12:]}h"

    def start(self, *, memory_bytes: int | None = None, cpu: float | None = None) -> None:
        """Boot, with no more memory and processor time than given, and wait until systemd has started all."""
        self.groups = cgroups.make(self.name, memory_bytes=memory_bytes, cpu=cpu)
        join = "".join(f'echo $$ >"{group}/cgroup.procs"\n' for group in self.groups)
        own = ["--quiet", "--register=no", "--keep-unit", f"--machine={self.name}", "--hostname=web-01"]
        place = [f"--directory={self.root}", f"--bind-ro={self._debian}/usr:/usr"]
        rest = ["--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe"]
        network = f"--network-namespace-path=/run/netns/{self.name}"
        argv = ["systemd-nspawn", *own, *place, *rest, network, "--kill-signal=SIGRTMIN+3", "/boot-loader"]
        with (self.folder / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["nice", "-n", "5", "sh", "-ec", f"{join}{FIRMWARE}", "_", *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_booted(than="")

    def wait_booted(self, than: str) -> None:
        """Wait until systemd has started all there is in another boot than that."""
        try:
            wait_until(lambda: self.boot_id not in {"", than} and self._is_up(), BOOT_S)
        except AssertionError as error:
            raise AssertionError(f"it does not boot: {self.console()[-2000:]}") from error

    def _is_up(self) -> bool:
        said = self.run(["systemctl", "is-system-running"], check=False).stdout.strip()
        return said in {"running", "degraded"}

    @property
    def leader(self) -> int:
        """The host's number of the machine's process 1; 0 while there is none."""
        if self._process is None:
            return 0
        number = self._process.pid
        with suppress(OSError, IndexError):
            for _ in ("nspawn", "process 1"):
                number = int(Path(f"/proc/{number}/task/{number}/children").read_text().split()[0])
            return number
        return 0

    def live(self, inside: str) -> Path:
        """Give the place on the host of an absolute path as the running machine sees it; links are not followed."""
        return Path(f"/proc/{self.leader}/root") / inside.lstrip("/")

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = RUN_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as root and with the path of a shell there."""
        env = {"PATH": "/usr/sbin:/usr/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "NIX_USER_CONF_FILES": "/dev/null"}
        inside = ["nsenter", f"--target={self.leader}", "--all", "--", *argv]
        done = subprocess.run(inside, env=env, capture_output=True, text=True, check=False, timeout=timeout_s)
        said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        assert not check or done.returncode == 0, f"{' '.join(argv)} ended with {done.returncode}: {said}"
        return done

    def reboot(self) -> None:
        """Reboot as an admin does, and wait for the next boot."""
        before = self.boot_id
        self.run(["systemctl", "--no-block", "reboot"])
        self.wait_booted(than=before)

    def pull_the_plug(self) -> None:
        """End everything at once, as when the power fails; `start` boots again."""
        assert self._process is not None
        os.kill(self.leader, signal.SIGKILL)
        self._process.wait(BOOT_S)
        self._process = None

    @property
    def boot_id(self) -> str:
        """This boot's id; empty while there is none."""
        with suppress(OSError):
            return self.live(BOOT_ID).read_text().strip()
        return ""

    @property
    def systems(self) -> tuple[str, str, str]:
        """The running system, the profile's and the boot loader's."""
        profiles = self.root / "nix/var/nix/profiles"
        profile = (profiles / (profiles / "system").readlink()).readlink()
        default = (self.root / "boot/loader/default").read_text().strip()
        return str(self.live("/run/current-system").readlink()), str(profile), default

    @property
    def booted_system(self) -> str:
        """The system that was booted."""
        return str(self.live("/run/booted-system").readlink())

    def switches(self) -> list[tuple[str, str]]:
        """List the calls of switch-to-configuration so far: verb and system."""
        log = self.root / "var/lib/stc/log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(line.split()[0], line.split()[1]) for line in lines]

    def main_pid(self, unit: str) -> int:
        """Give the number, inside, of a unit's main process; 0 when there is none."""
        return int(self.show(unit, "MainPID") or 0)

    def show(self, unit: str, key: str) -> str:
        """Read a property of a unit."""
        return self.run(["systemctl", "show", "--value", f"--property={key}", unit]).stdout.strip()

    def journal(self, *argv: str) -> str:
        """Read the journal of all boots."""
        argv = argv or ("--lines=200",)
        return self.run(["journalctl", "--no-pager", "--output=short-monotonic", *argv], check=False).stdout

    def console(self) -> str:
        """Give what was written on the console."""
        return (self.folder / "console.log").read_text(errors="replace")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file on the machine's disk, its folder too."""
        file = self.root / inside.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def close(self) -> None:
        """End the machine and take away its link, its groups and its disk."""
        if self._process is not None:
            if leader := self.leader:
                with suppress(ProcessLookupError):
                    os.kill(leader, signal.SIGKILL)
            with self._process:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(10)
                self._process.kill()
            self._process = None
        for argv in (("link", "del", self._link), ("netns", "del", self.name)):
            subprocess.run(["ip", *argv], capture_output=True, check=False, timeout=10)
        cgroups.remove(self.groups)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ip(*argv: str) -> None:
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, check=False, timeout=10)
    assert done.returncode == 0, f"ip {' '.join(argv)}: {done.stderr}"
