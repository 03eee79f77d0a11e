"""Run the benchmarks (all, or those named) and write docs/benchmarks.md and docs/benchmarks.json.

What is measured runs from compiled bytecode, as installed programs do; the first run of a program is never counted.
"""

import importlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from bench.rows import Row

DOCS = Path(__file__).parent.parent / "docs"
NAMES = ("agent", "firstsync", "console", "update", "latency", "reports", "replay", "planner", "sim")
HEAD = ("what", "median", "p99", "samples", "ratio to the yardstick of the same run", "budget", "holds")
PRIORITY = 10
"""What else runs on the machine is not what is measured: where it is allowed, we are scheduled before it."""
INTRODUCTION = """\
# Benchmarks

Written by `make bench`, on a shared and noisy machine: trust medians and ratios. Of fewer than a hundred samples, the
p99 is the largest one. A budget is judged by the median where it names no percentile. Everything runs for real, on
loopback: coordinators and agents as processes of their own, signatures, SQLite with fsync, Nix, pseudo terminals. As
root, the benchmarks run at nice -10, because other work shares the machine; pure computations (replay, planner) are
timed by processor time. For figures per second, the column p99 holds the best.
"""


def machine() -> str:
    """Describe the machine that was measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {model}, {memory_gib:.0f} GiB, {system}"


def main(names: list[str]) -> int:
    """Measure, print each row as it is there, and write the files when everything was measured."""
    rows: list[Row] = []
    load, begun = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory() as bytecode:
        with suppress(PermissionError):
            os.nice(-PRIORITY)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = bytecode
        for name in names or NAMES:
            for row in importlib.import_module(f"bench.{name}").measure():
                rows.append(row)
                print(" | ".join(row.cells()), flush=True)
    if not names:
        taken_min = (time.monotonic() - begun) / 60
        write(
            rows,
            f"Load average {load:.1f} before and {os.getloadavg()[0]:.1f} after; taken in {taken_min:.1f} minutes.",
        )
    return 0 if all(row.holds is not False for row in rows) else 1


def write(rows: list[Row], circumstances: str) -> None:
    """Write the table for people and the figures for programs."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows))]
    (DOCS / "benchmarks.md").write_text(
        f"{INTRODUCTION}\nMachine: {machine()}. {circumstances}\n\n" + "\n".join(lines) + "\n"
    )
    figures = [
        {
            "what": row.what,
            "unit": row.unit,
            "median": statistics.median(row.samples),
            "p99": row.p99,
            "runs": len(row.samples),
            "ratio": row.ratio,
            "budget": row.budget,
            "holds": row.holds,
        }
        for row in rows
    ]
    (DOCS / "benchmarks.json").write_text(
        json.dumps({"machine": machine(), "circumstances": circumstances, "rows": figures}, indent=2) + "\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
