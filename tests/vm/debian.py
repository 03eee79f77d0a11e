"""A Debian with systemd, Nix and Python, made once from Debian's packages, and the agent's Python packages for it.

Kept in the user's cache folder: `make test-vm` downloads some 150 MB the first time. Nothing here runs a service.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SUITE = "trixie"
PACKAGES = (
    # libdbi-perl: what nix-bin asks for by a virtual name, which debootstrap does not resolve.
    *("systemd", "systemd-sysv", "dbus", "nix-bin", "libdbi-perl", "python3"),
    *("iproute2", "ca-certificates", "procps", "util-linux"),
)
MAKE_S = 1_800
CHECKOUT = Path(__file__).parents[2]
REQUIREMENTS = ("msgspec", "httpx", "pynacl", "platformdirs")
"""What the flake's nixfleet-agent package depends on (nix/package.nix)."""


def cache_folder() -> Path:
    """Give the folder that is kept from one run to the next."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    folder = Path(home) / "nixfleet-vm"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def debian() -> Path:
    """Give the root of the Debian; make it first, if need be."""
    root = cache_folder() / SUITE
    with _locked():
        if not root.exists():
            fresh = root.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            _run(["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(fresh)])
            for rest in ("var/cache/apt", "var/lib/apt/lists"):
                shutil.rmtree(fresh / rest)
            fresh.rename(root)
    return root


def agent_library(root: Path, folder: Path) -> None:
    """Make a folder with this checkout's nixfleet and what its agent imports, compiled for the Debian's Python."""
    shutil.copytree(_requirements(root), folder)
    shutil.copytree(CHECKOUT / "src" / "nixfleet", folder / "nixfleet", ignore=shutil.ignore_patterns("__pycache__"))
    _compile(root, folder)


def _requirements(root: Path) -> Path:
    constraints = CHECKOUT / "constraints.txt"
    python = max(root.glob("usr/bin/python3.*")).name
    known = hashlib.sha256(constraints.read_bytes()).hexdigest()[:16]
    folder = cache_folder() / f"{python}-{known}"
    with _locked():
        if not folder.exists():
            fresh = folder.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            where = ["--target", str(fresh), "--python-version", python.removeprefix("python"), "--only-binary=:all:"]
            _run([*pip, *where, "--no-compile", "--constraint", str(constraints), *REQUIREMENTS])
            fresh.rename(folder)
    return folder


def _compile(root: Path, folder: Path) -> None:
    """Compile as a Nix package is: a file's time is 1970, and tells nothing."""
    there = root / "mnt"
    command = "mount --bind $1 $2 && exec chroot $3 python3 -m compileall -q --invalidation-mode unchecked-hash /mnt"
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", command, "_"]
    _run([*argv, str(folder), str(there), str(root)])


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=MAKE_S)
    assert done.returncode == 0, f"{' '.join(argv)} failed: {done.stdout[-3000:]}{done.stderr[-3000:]}"


@contextmanager
def _locked() -> Iterator[None]:
    with (cache_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
