"""Nix made up on a machine's folder: it survives its user's death, and fails when it is told to.

What a path contains is told by its name: the digest of the right one is `digest_of`.
"""
# ruff: noqa: ARG002, ASYNC240 - the signatures are the real Nix's, and the folder is small

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nixfleet.nix import Cache, Fault, FaultKind, FetchLimits, Generation, MissingBytes, NixError, PathInfo, Progress
from nixfleet.sim.machine import Machine, digest_of, set_profile


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
