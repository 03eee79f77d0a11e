"""Groups that bound a test machine's memory and processor time, with either version of the kernel's control groups."""

import time
from contextlib import suppress
from pathlib import Path

BASE = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
Limits = dict[str, int | str | None]


def make(name: str, *, memory_bytes: int | None, cpu: float | None) -> list[Path]:
    """Make the groups that a process has to join before it starts the machine; give their folders."""
    unified = BASE / "cgroup.controllers"
    if unified.exists():
        share = None if cpu is None else f"{int(cpu * PERIOD_US)} {PERIOD_US}"
        limits: Limits = {"memory.max": memory_bytes, "cpu.max": share}
        return [_group(BASE / name, limits)]
    groups = [_group(BASE / "unified" / name, {})]
    if memory_bytes is not None:
        groups.append(_group(BASE / "memory" / name, {"memory.limit_in_bytes": memory_bytes}))
    if cpu is not None:
        limits = {"cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": int(cpu * PERIOD_US)}
        groups.append(_group(BASE / "cpu" / name, limits))
    return groups


def peak_bytes(groups: list[Path]) -> int:
    """Read the most memory that the processes of a group have had."""
    for group in groups:
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            if (group / name).exists():
                return int((group / name).read_text())
    raise AssertionError("no group bounds memory")


def remove(groups: list[Path]) -> None:
    """Remove groups with all within, once their last process is gone."""
    for group in groups:
        inner = sorted((one for one in group.rglob("*") if one.is_dir()), key=lambda one: -len(one.parts))
        for one in (*inner, group):
            _remove(one)


def _remove(group: Path) -> None:
    for _ in range(100):
        with suppress(OSError):
            group.rmdir()
            return
        if not group.exists():
            return
        time.sleep(0.05)


def _group(folder: Path, limits: Limits) -> Path:
    folder.mkdir(exist_ok=True)
    for name, value in limits.items():
        if value is not None:
            (folder / name).write_text(str(value))
    return folder
