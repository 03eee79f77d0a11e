"""Run the benchmarks (all, or those named) and write docs/benchmarks.md and docs/benchmarks.json."""

import importlib
import json
import os
import platform
import statistics
import sys
from pathlib import Path

from bench.rows import Row

DOCS = Path(__file__).parent.parent / "docs"
NAMES = ("agent", "console", "latency", "update")
HEAD = ("what", "median", "p99", "runs", "ratio", "budget", "holds")


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
    for name in names or NAMES:
        for row in importlib.import_module(f"bench.{name}").measure():
            rows.append(row)
            print(" | ".join(row.cells()), flush=True)
    if not names:
        write(rows)
    return 0 if all(row.holds for row in rows) else 1


def write(rows: list[Row]) -> None:
    """Write the table for people and the figures for programs."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows))]
    text = "# Benchmarks\n\nWritten by `make bench`, on a shared and noisy machine: trust medians and ratios."
    (DOCS / "benchmarks.md").write_text(f"{text}\n\nMachine: {machine()}\n\n" + "\n".join(lines) + "\n")
    figures = [
        {
            "what": row.what,
            "unit": row.unit,
            "median": statistics.median(row.samples),
            "p99": row.p99,
            "runs": len(row.samples),
            "ratio": row.ratio,
            "holds": row.holds,
        }
        for row in rows
    ]
    (DOCS / "benchmarks.json").write_text(json.dumps({"machine": machine(), "rows": figures}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
