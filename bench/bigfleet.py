"""The console on a snapshot out of a file, decoded as the client decodes it: ``python -m bench.bigfleet FILE``."""

import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
from tests.tui.console_ports import FakeSource, connect

from nixfleet.model.views import Delta, Snapshot
from nixfleet.tui.app import run
from nixfleet.tui.desk import Options
from nixfleet.tui.ports import Reset


class FromFile(FakeSource):
    """Serves the file's snapshot, and nothing happens after it."""

    async def snapshot(self) -> Snapshot:
        """Read and decode it."""
        return _read(Path(sys.argv[1]))

    async def events(self, _since: int) -> AsyncGenerator[Delta | Reset, None]:
        """Give nothing."""
        async for event in super().events(_since):
            yield event


def _read(file: Path) -> Snapshot:
    return msgspec.json.decode(file.read_bytes(), type=Snapshot)


if __name__ == "__main__":
    sys.exit(run(connect(FromFile([])), options=Options(clock=lambda: int(time.time()))))
