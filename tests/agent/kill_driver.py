"""Run one update on a made-up machine and die by SIGKILL at a chosen write of its journal (for test_agent_kill).

Usage: kill_driver.py ROOT PATH NUMBER before|after
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.agent.made_up import Machine, MadeUpStore, Silent, append_line

from nixfleet import config
from nixfleet.agent import journal as journals
from nixfleet.agent import machine
from nixfleet.agent.journal import Journal
from nixfleet.agent.runner import Runner
from nixfleet.agent.service import Clock, Service
from nixfleet.agent.settings import Settings
from nixfleet.agent.update import Contact, Contacted, Delivered, Effect, Event, Offered, Restarted, State

_save = config.write_atomic


def die_at(number: int, when: str) -> None:
    """Make the process kill itself just before or just after its `number`-th write."""
    writes = 0

    def save(path: Path, data: bytes, *, mode: int = 0o600) -> None:
        nonlocal writes
        writes += 1
        if writes == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        _save(path, data, mode=mode)
        if writes == number and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(journals, "write_atomic", save)  # noqa: B010 - a name that the module does not export


async def update(root: Path, path: str) -> None:
    """Resume, offer the update, and run until its outcome is delivered."""
    made = Machine(root)
    settings = Settings(state_dir=str(made.state_dir), volatile_state=True)
    runner = Runner(
        host=made.host,
        store=MadeUpStore(made),
        settings=settings,
        watcher=Silent(),
        cache_base=lambda: "http://coordinator.example",
        names=lambda: {"web-01"},
    )
    done = asyncio.Event()

    async def perform(effect: Effect) -> Event | None:
        if isinstance(effect, Contact):
            return Contacted(by="coordinator")
        return await runner.perform(effect)

    def changed(before: State, after: State) -> None:
        for one in after.outbox:
            append_line(root / "outcomes", [one.rollout, one.run, one.outcome])
            asyncio.get_running_loop().call_soon(service.feed, Delivered(rollout=one.rollout, run=one.run))
        if after.update is not None and after.update.phase in machine.ENDED and not after.outbox:
            done.set()

    clock = Clock(wall=lambda: int(time.time()), boot=lambda: int(time.clock_gettime(time.CLOCK_BOOTTIME)))
    service = Service(Journal(made.state_dir), perform, clock, changed)
    service.start(Restarted(boot_id=made.host.boot_id(), current=made.host.current_system()))
    changed(service.state, service.state)
    service.feed(Offered(offer=made.offer(path), boot_id=made.host.boot_id()))
    async with asyncio.timeout(30):
        await done.wait()
        await service.idle()
    await service.close()


if __name__ == "__main__":
    die_at(int(sys.argv[3]), sys.argv[4])
    asyncio.run(update(Path(sys.argv[1]), sys.argv[2]))
    sys.exit(0)
