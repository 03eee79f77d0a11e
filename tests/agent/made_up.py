"""A made-up NixOS machine in a folder: systems, a store that survives its user's death, and a link that answers.

The switches are real programs that really run; only Nix and the network are made up.
"""
# ruff: noqa: ARG002, ASYNC240 - the signatures are the real Nix's, and the folder is small

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nixfleet.agent.host import Host
from nixfleet.agent.update import Offer
from nixfleet.model.statements import CacheRef
from nixfleet.nix import Cache, Fault, FaultKind, FetchLimits, Generation, MissingBytes, NixError, PathInfo, Progress

CACHE = CacheRef(url="http://cache.example:80", key="cache-1:" + "A" * 43 + "=")
SWITCH = """\
#!/bin/sh
echo "$1 {path}" >>{root}/switches
echo "switching to {path}"
{before}
new={root}/run/current-system.new
[ "$1" = boot ] || {{ ln -sfn {path} $new; mv -T $new {root}/run/current-system; }}
echo "switched"
exit {code}
"""


def store_path(name: str) -> str:
    """Make a store path out of a name."""
    digits = "0123456789abcdfghijklmnpqrsvwxyz"
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:20], "big")
    text = "".join(digits[(number >> (5 * at)) & 31] for at in range(32))
    return f"/nix/store/{text}-nixos-system-{name}"


@dataclass
class Machine:
    """A machine whose whole file tree is one folder."""

    root: Path
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        """Make what every NixOS machine has."""
        self.host = Host(root=self.root)
        for folder in (
            "run/nixos",
            "nix/store",
            "nix/var/nix/profiles",
            "nix/var/nix/gcroots/nixfleet",
            "etc",
            "cache",
        ):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        self.write("/proc/sys/kernel/random/boot_id", "boot-1\n")
        self.write("/proc/sys/kernel/hostname", "web-01\n")
        self.write("/etc/machine-id", "machine-1\n")

    @property
    def state_dir(self) -> Path:
        """Give the agent's state folder."""
        folder = self.root / "var/lib/nixfleet"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def system(
        self, name: str, *, at: str = "nix/store", code: int = 0, before: str = "", agent_toml: str | None = None
    ) -> str:
        """Make a system in the store, or in the cache with ``at="cache"``; its switch ends with `code`."""
        path = store_path(name)
        place = self.root / at / Path(path).name
        wants = place / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True)
        (place / "bin").mkdir()
        switch = place / "bin/switch-to-configuration"
        switch.write_text(SWITCH.format(path=path, root=self.root, code=code, before=before))
        switch.chmod(0o755)
        (wants.parent / "nixfleet-agent.service").write_text("[Service]\n")
        (wants / "nixfleet-agent.service").symlink_to("../nixfleet-agent.service")
        (place / "etc/nixfleet").mkdir()
        toml = f'state_dir = "{self.state_dir}"\n' if agent_toml is None else agent_toml
        (place / "etc/nixfleet/agent.toml").write_text(toml)
        (place / "system").write_text("x86_64-linux")
        return path

    def boot(self, path: str) -> None:
        """Make a system the running, booted and current one."""
        for link in ("current-system", "booted-system"):
            place = self.root / "run" / link
            place.unlink(missing_ok=True)
            place.symlink_to(path)
        set_profile(self.host, path)

    def switches(self) -> list[str]:
        """List the switches that were made, as ``verb path``."""
        place = self.root / "switches"
        return place.read_text().splitlines() if place.exists() else []

    def offer(self, path: str, *, index: int = 5, run: int = 1, digest: str = "") -> Offer:
        """Make an offer of a system in the cache or in the store."""
        return Offer(
            rollout=f"{index:064x}",
            epoch=0,
            index=index,
            run=run,
            path=path,
            system="x86_64-linux",
            digest=digest or digest_of(path),
            nar_bytes=1_000,
            caches=(CACHE,),
            confirm_s=60,
        )


def digest_of(path: str) -> str:
    """Give the digest that the made-up store tells of a path."""
    return hashlib.sha256(path.encode()).hexdigest()


def set_profile(host: Host, path: str) -> None:
    """Add a generation, as `nix-env --set` does; the same path again adds none."""
    folder = host.profile().parent
    if host.profile_system() == path:
        return
    numbers = [int(one.name.split("-")[1]) for one in folder.glob("system-*-link")]
    name = f"system-{max(numbers, default=0) + 1}-link"
    (folder / name).symlink_to(path)
    fresh = folder / "system.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    fresh.rename(folder / "system")


@dataclass
class MadeUpStore:
    """Nix made up on a machine's folder; faults are set by attributes."""

    machine: Machine
    fetch_fault: Fault | None = None
    wrong_digests: int = 0
    """How many times the digest is told wrong."""
    unpacked_bytes: int = 0
    pause: Callable[[], None] = lambda: None
    calls: list[str] = field(default_factory=list)

    async def version(self) -> tuple[int, int, int]:
        """Tell a version."""
        return 2, 8, 0

    async def is_valid(self, path: str) -> bool:
        """Tell whether the path's folder is there."""
        return self.machine.host.at(path).exists()

    async def closure(self, path: str) -> list[PathInfo]:
        """Tell a closure of one path."""
        return [PathInfo(path, "sha256:" + "0" * 52, 1_000, (), None)]

    async def digest(self, path: str) -> tuple[str, int]:
        """Tell the digest, or another one while `wrong_digests` lasts."""
        self.calls.append("digest")
        if not await self.is_valid(path):
            raise NixError(("nix-store",), 1, (), Fault(FaultKind.other, f"path '{path}' is not valid"))
        if self.wrong_digests > 0:
            self.wrong_digests -= 1
            return "ff" * 32, 1_000
        return digest_of(path), 1_000

    async def missing_bytes(self, path: str, caches: Sequence[Cache]) -> MissingBytes:
        """Tell what was set."""
        return MissingBytes(self.unpacked_bytes, self.unpacked_bytes)

    async def realise(
        self,
        path: str,
        *,
        caches: Sequence[Cache],
        root: Path,
        on_progress: Callable[[Progress], None],
        limits: FetchLimits | None = None,
    ) -> None:
        """Copy a system from the cache folder, unless a fault is set."""
        self.calls.append(f"realise {' '.join(cache.url for cache in caches)}")
        if self.fetch_fault is not None:
            raise NixError(("nix-store",), 1, ("said Nix",), self.fetch_fault)
        on_progress(Progress(500, 1_000, 0, 1))
        self.pause()
        await asyncio.sleep(0)
        place, source = self.machine.host.at(path), self.machine.root / "cache" / Path(path).name
        if not place.exists():
            if not source.exists():
                raise NixError(("nix-store",), 1, (), Fault(FaultKind.missing, "no cache has it"))
            half = place.with_name(place.name + ".half")
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(source, half, symlinks=True)
            half.rename(place)
        await self.add_root(path, root)
        on_progress(Progress(1_000, 1_000, 1, 1))

    async def repair(
        self,
        path: str,
        *,
        caches: Sequence[Cache],
        root: Path,
        on_progress: Callable[[Progress], None],
        limits: FetchLimits | None = None,
    ) -> None:
        """Count the repair."""
        self.calls.append("repair")

    async def add_root(self, path: str, root: Path) -> None:
        """Link it."""
        fresh = root.with_name(root.name + ".new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(path)
        fresh.rename(root)

    async def remove_root(self, root: Path) -> None:
        """Unlink it."""
        root.unlink(missing_ok=True)

    async def delete(self, paths: Sequence[str]) -> list[str]:
        """Delete paths that no root names."""
        roots = {str(one.readlink()) for one in self.machine.host.gc_root(".").iterdir()}
        gone = [path for path in paths if path not in roots]
        for path in gone:
            shutil.rmtree(self.machine.host.at(path), ignore_errors=True)
        return gone

    async def collect_garbage(self, max_freed_bytes: int) -> None:
        """Count the collection."""
        self.calls.append(f"collect {max_freed_bytes}")

    async def set_profile(self, path: str, profile: Path) -> None:
        """Add a generation."""
        set_profile(self.machine.host, path)

    async def generations(self, profile: Path) -> list[Generation]:
        """List the profile's links."""
        current = profile.readlink().name
        links = sorted(profile.parent.glob("system-*-link"), key=lambda one: int(one.name.split("-")[1]))
        return [
            Generation(int(one.name.split("-")[1]), str(one.readlink()), current=one.name == current) for one in links
        ]

    async def delete_generations(self, numbers: Sequence[int], profile: Path) -> None:
        """Unlink generations."""
        for number in numbers:
            (profile.parent / f"system-{number}-link").unlink()


class Silent:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done_bytes: list[int] = []

    def on_bytes(self, offer: Offer, progress: Progress) -> None:
        """Keep the bytes."""
        self.done_bytes.append(progress.done_bytes)

    def on_lines(self, offer: Offer, lines: tuple[str, ...]) -> None:
        """Keep the lines."""
        self.lines += lines


def append_line(path: Path, value: object) -> None:
    """Append a JSON line durably enough for a killed writer (O_APPEND, one write)."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, json.dumps(value).encode() + b"\n")
    os.close(handle)
