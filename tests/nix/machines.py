"""Machines for tests: a mount namespace with its own /nix, /etc, /run and so on, over this host's programs.

A trap this file exists to avoid: an activation script that writes in /etc can go through a link into the host's /usr.
So everything of the host is read-only before anything runs in a device, and only the device's own folders are
mounted writable over it.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tests.nix.builder import Systems, nix_env, write_conf

RUN_TIMEOUT_S = 120
KILL_TIMEOUT_S = 10
_MARK = "NIXFLEET_TEST_MACHINE"
_OWN = ("nix", "run", "boot", "etc", "var", "root", "tmp", "home", "srv", "mnt")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# $1 the machine's folder, $2 its host name, $3 a file with its boot id, $4 the order of mounting; then folders to
# keep, "--", the command.
_ENTER_DEVICE = """
machine=$1; name=$2; boot_id=$3; order=$4; shift 4
keep=(); while [ "$1" != -- ]; do keep+=("$1"); shift; done; shift
hostname "$name"
mount -o remount,bind,ro /
mount --bind "$boot_id" /proc/sys/kernel/random/boot_id
# A folder to keep may lie under one that is about to be hidden: mount it inside the new one first.
for folder in "${keep[@]}"; do
  mount --bind "$folder" "$machine$folder"; mount -o remount,bind,ro "$machine$folder"
done
# The machine's own folder lies under one of these, which comes last.
for own in $order; do
  [ -d "/$own" ] || continue
  mount --rbind "$machine/$own" "/$own"; mount -o remount,bind,rw "/$own"
done
cd /; exec "$@"
"""

_ENTER_ADMIN = 'mount --bind "$1/nix" /nix; cd "$2"; shift 2; exec "$@"'


class Machine:
    """What device and admin machine share: starting programs inside, and ending whatever is left of them."""

    def __init__(self, folder: Path, netns: str | None) -> None:
        self.folder = folder.resolve()
        self.netns = netns
        self._started: list[subprocess.Popen[Any]] = []
        Path("/nix").mkdir(exist_ok=True)  # the place to mount on; nothing is ever written to it

    def argv(self, argv: Sequence[str]) -> list[str]:
        """Give the command that runs `argv` inside; it keeps its process id."""
        network = [] if self.netns is None else ["nsenter", f"--net=/run/netns/{self.netns}"]
        return [*network, "unshare", "--mount", "--uts", "--propagation", "private", *self._enter(), *argv]

    def env(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Give the environment of a program inside."""
        raise NotImplementedError

    def _enter(self) -> list[str]:
        raise NotImplementedError

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program inside, in a session of its own; `close` ends it."""
        process = subprocess.Popen(
            self.argv(argv), env=self.env(env), stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        )
        self._started.append(process)
        return process

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        check: bool = True,
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end; with `check`, anything but exit code 0 fails the test with its output."""
        done = subprocess.run(
            self.argv(argv),
            env=self.env(env),
            input=stdin or "",
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        said = f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
        assert not check or done.returncode == 0, f"{' '.join(argv)} ended with {done.returncode}: {said}"
        return done

    def path(self, inside: str | Path) -> Path:
        """Give the place on the host of an absolute path inside; links are not followed."""
        return self.folder / str(inside).lstrip("/")

    def write(self, inside: str | Path, text: str, mode: int = 0o644) -> Path:
        """Write a file inside, its folder too."""
        file = self.path(inside)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def read(self, inside: str | Path) -> str:
        """Read a file inside; not there, empty."""
        with suppress(FileNotFoundError):
            return self.path(inside).read_text()
        return ""

    def processes(self) -> list[int]:
        """List the ids of everything that still runs inside, also what has left its parent."""
        mark = f"{_MARK}={self.folder}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def close(self) -> None:
        """End all that was started inside."""
        while found := self.processes():
            for process_id in found:
                with suppress(ProcessLookupError):
                    _kill(process_id)
        for process in self._started:
            with process:  # closes its pipes and waits
                process.kill()
        self._started.clear()


class Device(Machine):
    """A NixOS-shaped device with its own host name, machine id and boot id."""

    def __init__(
        self, folder: Path, name: str = "web-01", *, netns: str | None = None, keep: Sequence[Path] = ()
    ) -> None:
        super().__init__(folder, netns)
        self.name = name
        self._keep = _outermost([Path(sys.prefix), Path(sys.base_prefix), _checkout(), *keep])
        self._boots = 0
        for own in _OWN:
            self.path(own).mkdir(parents=True, exist_ok=True)
        for kept in self._keep:
            self.path(kept).mkdir(parents=True, exist_ok=True)
        self._make_etc()
        for link in ("current-system", "booted-system"):
            root = self.path(f"/nix/var/nix/gcroots/{link}")
            root.parent.mkdir(parents=True, exist_ok=True)
            root.symlink_to(f"/run/{link}")
        self.path("/nix/var/nix/profiles").mkdir()
        self.path("/nix/store").mkdir()
        self._new_boot_id()

    def _make_etc(self) -> None:
        for name in ("passwd", "group", "nsswitch.conf", "hosts", "ld.so.cache", "services", "protocols"):
            if Path("/etc", name).exists():
                shutil.copy(Path("/etc", name), self.path("/etc"))
        for name in ("alternatives", "ssl"):
            if Path("/etc", name).exists():
                shutil.copytree(Path("/etc", name), self.path("/etc") / name, symlinks=True)
        self.write("/etc/NIXOS", "")
        self.write("/etc/hostname", f"{self.name}\n")
        self.write("/etc/machine-id", f"{os.urandom(16).hex()}\n")
        write_conf(self.path("/etc/nix"))
        conf = self.path("/etc/nix/nix.conf")
        conf.write_text(conf.read_text().replace(str(self.folder), ""))

    def _new_boot_id(self) -> None:
        raw = bytearray(os.urandom(16))
        raw[6], raw[8] = raw[6] & 0x0F | 0x40, raw[8] & 0x3F | 0x80
        text = raw.hex()
        self.boot_id = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
        (self.folder / "boot_id").write_text(f"{self.boot_id}\n")

    def _enter(self) -> list[str]:
        kept = [str(path) for path in self._keep]
        order = " ".join(sorted(_OWN, key=lambda own: own == self.folder.parts[1]))
        where = [str(self.folder), self.name, f"{self.folder}/boot_id", order]
        return ["bash", "-ec", _ENTER_DEVICE, "_", *where, *kept, "--"]

    def env(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Give the environment of a system service: nothing of the test's own, but its Python first on PATH."""
        return {
            "PATH": f"{Path(sys.executable).parent}:{_PATH}",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "NIX_USER_CONF_FILES": "/dev/null",
            _MARK: str(self.folder),
            **(extra or {}),
        }

    def boot(self, systems: Systems, system: str | None = None) -> "Device":
        """Install a system (the builder's `a`) and make it the running one, as after a first boot."""
        system = system or systems.a
        systems.copy(system, f"local?root={self.folder}")
        self.run(["nix-env", "--profile", "/nix/var/nix/profiles/system", "--set", system])
        self.write("/boot/loader/default", f"{system}\n")
        self.reboot()
        return self

    def reboot(self) -> None:
        """Do what a reboot does to the files: end all programs, empty /run, start what the boot loader names."""
        self.close()
        shutil.rmtree(self.path("/run"))
        self.path("/run").mkdir()
        self._new_boot_id()
        system = self.boot_default
        self.run([f"{system}/activate"], check=False)
        booted = self.path("/run/booted-system")
        booted.symlink_to(system)

    @property
    def boot_default(self) -> str:
        """The system that the boot loader would start."""
        return self.read("/boot/loader/default").strip()

    @property
    def current_system(self) -> str:
        """The system that runs."""
        return str(self.path("/run/current-system").readlink())

    @property
    def booted_system(self) -> str:
        """The system that was booted."""
        return str(self.path("/run/booted-system").readlink())

    @property
    def profile(self) -> str:
        """The system that the profile's current generation points to."""
        profiles = self.path("/nix/var/nix/profiles")
        return str((profiles / (profiles / "system").readlink()).readlink())

    @property
    def generations(self) -> dict[int, str]:
        """The numbers of the profile's generations and their systems."""
        links = self.path("/nix/var/nix/profiles").glob("system-*-link")
        return {int(link.name.split("-")[1]): str(link.readlink()) for link in sorted(links)}

    def has(self, path: str) -> bool:
        """Tell whether the device's store holds a path."""
        return self.run(["nix-store", "--check-validity", path], check=False).returncode == 0

    def switches(self) -> list[tuple[str, str]]:
        """List the calls of switch-to-configuration so far, also those that its lock turned away: verb and system."""
        lines = self.read("/var/lib/stc/log").splitlines()
        return [(line.split()[0], line.split()[1]) for line in lines]

    def steer(self, name: str, value: str = "") -> None:
        """Set a hook of the stand-in: hold, sleep, hook, fail-VERB, fail-bootloader, failed-units."""
        self.write(f"/var/lib/stc/{name}", value, 0o755 if name == "hook" else 0o644)

    def unsteer(self, name: str) -> None:
        """Take a hook away."""
        self.path(f"/var/lib/stc/{name}").unlink(missing_ok=True)

    def make_host_key(self) -> str:
        """Make the device's ssh host key; give its public line."""
        key = self.path("/etc/ssh/ssh_host_ed25519_key")
        key.parent.mkdir(exist_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"root@{self.name}", "-f", str(key)],
            check=True,
            timeout=10,
        )
        return key.with_suffix(".pub").read_text().strip()


class Admin(Machine):
    """An admin's machine: this host, but /nix is a copy of the builder's store and HOME a folder of its own."""

    def __init__(self, folder: Path, systems: Systems, *, netns: str | None = None) -> None:
        super().__init__(folder, netns)
        folder.mkdir(parents=True, exist_ok=True)
        self.home = folder / "home"
        write_conf(folder / "etc" / "nix")
        self._env = nix_env(folder / "etc" / "nix", self.home)
        with systems._locked():
            subprocess.run(
                ["cp", "-a", "--reflink=auto", f"{systems.store}/nix", f"{folder}/nix"], check=True, timeout=60
            )

    def _enter(self) -> list[str]:
        return ["bash", "-ec", _ENTER_ADMIN, "_", str(self.folder), str(self.home)]

    def env(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Give the test's environment with this HOME and Nix configuration, and its Python first on PATH."""
        path = f"{Path(sys.executable).parent}:{self._env.get('PATH', _PATH)}"
        return {**self._env, "PATH": path, _MARK: str(self.folder), **(extra or {})}


@contextmanager
def closing(machine: Machine) -> Iterator[None]:
    """End what runs in a machine when the block ends."""
    try:
        yield
    finally:
        machine.close()


def _kill(process_id: int) -> None:
    """Kill a process and wait until it has ended."""
    handle = os.pidfd_open(process_id)
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        ended, _, _ = select.select([handle], [], [], KILL_TIMEOUT_S)
        assert ended, f"process {process_id} does not end"
    finally:
        os.close(handle)


def _checkout() -> Path:
    return Path(__file__).resolve().parents[2]


def _outermost(folders: Sequence[Path]) -> list[Path]:
    """Drop folders inside others, and those that no mount hides."""
    found: list[Path] = []
    for folder in sorted({folder.resolve() for folder in folders}):
        hidden = len(folder.parts) > 1 and folder.parts[1] in _OWN
        if hidden and not any(folder.is_relative_to(other) for other in found):
            found.append(folder)
    return found
