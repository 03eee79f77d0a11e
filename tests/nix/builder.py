"""Builds NixOS-shaped systems for tests, in a store of its own that only looks like /nix/store; never the host's."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from nixfleet.trust.narinfo import CacheKey

SYSTEMS = Path(__file__).with_name("systems")
NIX_TIMEOUT_S = 120

# What a machine's nix.conf says: no cache and no key but what a command names, and no experimental feature.
NIX_CONF = """\
experimental-features =
sandbox = false
build-users-group =
substituters =
trusted-public-keys =
require-sigs = true
gc-reserved-space = 0
flake-registry = /etc/nix/registry.json
"""
REGISTRY = '{"flakes":[],"version":2}'
Arg = str | int | bool


def write_conf(folder: Path, extra: str = "") -> None:
    """Make a configuration folder of Nix that reaches for nothing outside."""
    folder.mkdir(parents=True, exist_ok=True)
    registry = folder / "registry.json"
    registry.write_text(REGISTRY)
    (folder / "nix.conf").write_text(NIX_CONF.replace("/etc/nix/registry.json", str(registry)) + extra)


def nix_env(conf: Path, home: Path) -> dict[str, str]:
    """Give an environment in which Nix reads only that configuration and keeps its caches in `home`."""
    home.mkdir(parents=True, exist_ok=True)
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("NIX_", "XDG_", "NIXFLEET_"))}
    return {
        **keep,
        "HOME": str(home),
        "NIX_CONF_DIR": str(conf),
        "NIX_USER_CONF_FILES": "/dev/null",
        "LC_ALL": "C.UTF-8",
    }


class Systems:
    """A builder store with systems in it; `a`, `b` and `bad` are the usual three, others are built on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.conf = folder / "conf"
        with self._locked():
            if not self.conf.exists():
                write_conf(self.conf, "sandbox-paths = /bin/sh=/bin/busybox\n")
                busybox = folder / "bb" / "bin" / "busybox"
                busybox.parent.mkdir(parents=True)
                found = shutil.which("busybox")
                assert found is not None
                shutil.copy(found, busybox)
        self.env = nix_env(self.conf, folder / "home")

    @property
    def a(self) -> str:
        """The system that a device runs at first."""
        return self.build()

    @property
    def b(self) -> str:
        """The next version: a few paths differ."""
        return self.build(version=2)

    @property
    def bad(self) -> str:
        """A version whose activation fails."""
        return self.build(version=3, broken=True)

    def build(self, **args: Arg) -> str:
        """Build a system with arguments of systems.nix; give its store path."""
        return self.build_file(SYSTEMS / "systems.nix", **args)

    def build_file(self, file: Path, **args: Arg) -> str:
        """Build any Nix file that takes `bb`, the folder of the static busybox."""
        return _build(self, file, tuple(sorted(args.items())))

    def closure(self, path: str) -> list[str]:
        """List the store paths of a closure."""
        return self.run(["nix-store", "--query", "--requisites", path, "--store", str(self.store)]).split()

    def push(self, path: str, cache: Path, key: CacheKey | None = None, compression: str = "zstd") -> None:
        """Write a closure into a folder that is a binary cache, signed when a key is given."""
        secret = ""
        if key is not None:
            file = self.folder / f"{key.name}-{os.getpid()}.secret"
            file.write_text(key.text)
            secret = f"&secret-key={file}"
        self.copy(path, f"file://{cache}?compression={compression}{secret}")

    def copy(self, path: str, to: str) -> None:
        """Copy a closure to any store that Nix can address, without asking for signatures."""
        argv = ["nix", "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs"]
        self.run([*argv, "--store", str(self.store), "--to", to, path])

    def run(self, argv: Sequence[str]) -> str:
        """Run a Nix command with the builder's settings."""
        done = subprocess.run(
            argv, env=self.env, capture_output=True, text=True, check=False, timeout=NIX_TIMEOUT_S, cwd="/"
        )
        assert done.returncode == 0, f"{' '.join(argv)} failed: {done.stderr[-2000:]}"
        return done.stdout

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other test processes out: they share the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@cache
def _build(systems: Systems, file: Path, args: tuple[tuple[str, Arg], ...]) -> str:
    argv = ["nix-build", str(file), "--store", str(systems.store), "--no-out-link"]
    argv += ["--arg", "bb", str(systems.folder / "bb")]
    for name, value in args:
        if isinstance(value, str):
            argv += ["--argstr", name, value]
        else:
            argv += ["--arg", name, str(value).lower()]
    with systems._locked():
        return systems.run(argv).split()[-1]
