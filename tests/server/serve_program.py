"""A coordinator as a program of its own, for tests that kill it: prints its address, serves until it is stopped."""

import sys
from pathlib import Path

from nixfleet.server.serve import run_forever
from nixfleet.server.settings import ServerSettings


def _ready(address: str) -> None:
    print(address, flush=True)


if __name__ == "__main__":
    url = sys.argv[2] if len(sys.argv) > 2 else None
    run_forever(ServerSettings(data_dir=Path(sys.argv[1]), listen="127.0.0.1:0", database_url=url), _ready)
