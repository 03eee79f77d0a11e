"""A coordinator that dies by SIGKILL at every write of its planner (for test_server_rollout_kill).

One life follows the other until one comes to no write any more: the first dies before the write that it comes to, the
next makes that write and dies after it, and so on. A life is a fork: a new process that need not read all modules.

Usage: kill_planner.py FOLDER NOW [DATABASE_URL]; NOW is what its clock shows, in unix seconds. On a database server,
where a transaction that was not committed is as if it had never begun, every life dies after its write. Prints the
address of each life that comes to serve. Appends to FOLDER/deaths the place where a life died, and to FOLDER/starts the
try of each device that was started.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from nixfleet.server.serve import run_forever
from nixfleet.server.settings import ServerSettings
from nixfleet.server.store import AttemptRow, RolloutRow
from nixfleet.server.store.plans import PlanTables

DEATHS = "deaths"
STARTS = "starts"


def live(data_dir: Path, now: float, database_url: str | None, *, after: bool) -> None:
    """Serve, and die before or after the first write of the planner."""
    decide = PlanTables.decide

    def die(place: str) -> None:
        with (data_dir / DEATHS).open("a") as file:
            file.write(f"{place}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    async def decide_and_die(tables: PlanTables, row: RolloutRow, rows: Sequence[AttemptRow]) -> None:
        if not after:
            die(f"before {row.version}")
        await decide(tables, row, rows)
        with (data_dir / STARTS).open("a") as file:
            file.writelines(f"{one.device} {one.run}\n" for one in rows if one.offered_s is not None)
        die(f"after {row.version}")

    setattr(PlanTables, "decide", decide_and_die)  # noqa: B010 - the point at which this program dies
    settings = ServerSettings(data_dir=data_dir, listen="127.0.0.1:0", database_url=database_url)
    run_forever(settings, lambda address: print(address, flush=True), wall=lambda: now)


def main(folder: str, now: str, database_url: str | None = None) -> None:
    """Live until a life ends otherwise than by SIGKILL; whoever started this ends it as a process group."""
    life, killed = 0, True
    while killed:
        child = os.fork()
        if not child:
            live(Path(folder), float(now), database_url, after=life % 2 == 1 or database_url is not None)
            sys.exit()
        _, status = os.waitpid(child, 0)
        killed, life = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, life + 1


if __name__ == "__main__":
    main(*sys.argv[1:])
