"""What the systems of a made-up fleet consist of, as its cache tells it: packages, their sizes, signed narinfos.

There are no files behind them: a device of the simulation downloads nothing, and whoever asks for one gets none.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from nixfleet.sim.machine import made_path
from nixfleet.trust.narinfo import CacheKey, NarInfo, base32_encode, format_narinfo, hash_part

LIBC: Final = "glibc-2.40-66"
KEPT: Final = {
    LIBC: 9,
    "bash-5.2p37": 1,
    "openssl-3.4.2": 3,
    "linux-firmware-20250808": 410,
    "noto-fonts-2025.08.01": 96,
}
"""What every system has and no release builds anew, with its MiB to download."""
WEIGHTS: Final = {"linux": 130.0, "initrd-linux": 24.0, "systemd": 12.0, "chromium": 118.0, "mesa": 30.0}
"""How large packages are against each other; others weigh `WEIGHT`."""
BOOTED: Final = {"linux": 130, "initrd-linux": 24, "systemd": 12}
"""What only a reboot brings, with its MiB where it is not built anew."""
WEIGHT: Final = 6.0
UNPACKED: Final = 3
"""How many times its file's size a path has on the disk."""
OWN_BYTES: Final = 24 << 10
"""A system's path itself: links, mostly."""


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be known of a system in order to tell what it consists of."""

    path: str
    build: str
    """What was built together: a package of another build has another path, whatever its version."""
    kernel: str
    packages: Mapping[str, str]
    """Versions by name."""
    mib: int
    """What of it has to be downloaded by who has none of the build."""
    boots_anew: bool = True
    """Whether `BOOTED` is of this build; else it is that of every system with the same versions."""


def narinfos(system: Contents) -> list[NarInfo]:
    """Tell of a system and of all that it needs; unsigned."""
    kept = {made_path(name, name): mib << 20 for name, mib in KEPT.items()}
    libc = made_path(LIBC, LIBC)
    built = {"linux": system.kernel, "initrd-linux": system.kernel, "etc": "", "system-path": "", **system.packages}
    if not system.boots_anew:
        same = {f"{name}-{built.pop(name)}": mib for name, mib in BOOTED.items() if name in built}
        kept |= {made_path(name, name): mib << 20 for name, mib in same.items()}
    names = {f"{name}-{version}" if version else name: WEIGHTS.get(name, WEIGHT) for name, version in built.items()}
    shares = _shares(max(0, (system.mib << 20) - OWN_BYTES), names)
    # What is built together has the same sizes: other packages beside it, and it is another build.
    build = f"{system.build}/{system.mib}/{' '.join(sorted(names))}"
    paths = {name: made_path(f"{build}/{name}", name) for name in names}
    return [
        _info(system.path, OWN_BYTES, (*kept, *paths.values())),
        *(_info(paths[name], size, (libc,)) for name, size in shares.items()),
        *(_info(path, size, () if path == libc else (libc,)) for path, size in kept.items()),
    ]


def stock(folder: Path, key: CacheKey, systems: Iterable[Contents]) -> None:
    """Let a cache whose narinfos are in a folder tell of systems, by its key."""
    folder.mkdir(parents=True, exist_ok=True)
    told: set[str] = set()
    for system in systems:
        for info in narinfos(system):
            if info.store_path not in told:
                told.add(info.store_path)
                place = folder / f"{hash_part(info.store_path)}.narinfo"
                # Renamed into its place: the cache is being read.
                half = place.with_suffix(".half")
                half.write_text(format_narinfo(key.signed(info)))
                half.rename(place)


def _shares(whole: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Divide bytes by weight, to the last one; nobody gets none, for a path has at least its own headers."""
    total = sum(weights.values())
    shares = {name: max(1, int(whole * weight / total)) for name, weight in weights.items()}
    largest = max(shares, key=lambda name: shares[name])
    shares[largest] += max(0, whole - sum(shares.values()))
    return shares


def _info(path: str, file_bytes: int, references: tuple[str, ...]) -> NarInfo:
    made = base32_encode(hashlib.sha256(path.encode()).digest())
    return NarInfo(
        store_path=path,
        url=f"nar/{made}.nar.zst",
        compression="zstd",
        file_hash=f"sha256:{made}",
        file_bytes=file_bytes,
        nar_hash=f"sha256:{made}",
        nar_bytes=UNPACKED * file_bytes,
        references=references,
    )
