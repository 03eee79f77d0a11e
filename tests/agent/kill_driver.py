"""Run an update on made-up machines and die by SIGKILL at each point of it in turn (for test_agent_kill).

A point is just before or after anything that lasts: a write of the journal or of a switch's folder, a command of Nix,
the start of the guard or of a switch; and one is amid the switch. Of points with the same name the first and the last
are tried. Each try has a machine of its own; when it has died, a second agent goes on from what the first left. The
last try meets no point any more. (`test_agent_crashes` has every row and step, by agents that only seem to be killed.)

Usage: kill_driver.py FOLDER CODE; CODE is what the new system's switch exits with. Prints one JSON object a try.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.agent.made_up import Machine, MadeUpStore, Silent, append_line

from nixfleet import config
from nixfleet.agent import jobs, journal, machine
from nixfleet.agent.journal import Journal
from nixfleet.agent.runner import Runner, Store
from nixfleet.agent.service import Clock, Service
from nixfleet.agent.settings import Settings
from nixfleet.agent.switching import Switcher
from nixfleet.agent.update import Contact, Contacted, Delivered, Effect, Event, Offer, Offered, Restarted, State


class Points:
    """Counts what is reached, and ends this process at the chosen one."""

    def __init__(self, root: Path, number: int) -> None:
        self._root = root
        self._number = number
        self._reached = 0

    def reach(self, name: str) -> None:
        """Die here, if this is the chosen point; its name is left for the parent."""
        self._reached += 1
        if self._number == 0:
            with (self._root / "points").open("a") as file:
                file.write(f"{name}\n")
        if self._reached == self._number:
            (self._root / "died").write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        """Put a point before and one after a call."""

        def call(*args: Any, **rest: Any) -> Any:
            self.reach(f"before {name}")
            answer = act(*args, **rest)
            self.reach(f"after {name}")
            return answer

        return call


class WatchedStore:
    """The made-up Nix with a point before and after each of its commands."""

    def __init__(self, store: MadeUpStore, points: Points) -> None:
        self._store = store
        self._points = points

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Give a command."""
        act = getattr(self._store, name)

        async def call(*args: Any, **rest: Any) -> Any:
            self._points.reach(f"before {name}")
            answer = await act(*args, **rest)
            self._points.reach(f"after {name}")
            return answer

        return call


class Watcher(Silent):
    """A watcher with one point amid the first switch."""

    def __init__(self, points: Points) -> None:
        super().__init__()
        self._points = points
        self._seen = False

    def on_lines(self, offer: Offer, lines: tuple[str, ...]) -> None:
        """Reach the point, once."""
        super().on_lines(offer, lines)
        if not self._seen:
            self._seen = True
            self._points.reach("amid the switch")


async def update(made: Machine, path: str, points: Points) -> None:
    """Resume, offer the update, and run until its outcome is delivered."""
    runner = Runner(
        host=made.host,
        store=cast("Store", WatchedStore(MadeUpStore(made), points)),
        settings=Settings(state_dir=str(made.state_dir), volatile_state=True),
        watcher=Watcher(points),
        cache_base=lambda: "http://coordinator.example",
        names=lambda: {"web-01"},
    )
    switcher = cast("Switcher", runner._switcher)
    setattr(switcher, "_start", points.around("starting the switch", switcher._start))  # noqa: B010 - a point
    guarding = runner._guarding
    setattr(guarding, "_start", points.around("starting the guard", guarding._start))  # noqa: B010 - a point
    for module, what in ((journal, "writing the journal"), (jobs, "writing a switch's folder")):
        setattr(module, "write_atomic", points.around(what, config.write_atomic))  # noqa: B010 - a name it does not export
    done = asyncio.Event()

    async def perform(effect: Effect) -> Event | None:
        if isinstance(effect, Contact):
            return Contacted(by="coordinator")
        return await runner.perform(effect)

    def changed(_: State, after: State) -> None:
        for one in after.outbox:
            append_line(made.root / "outcomes", [one.rollout, one.run, one.outcome])
            asyncio.get_running_loop().call_soon(service.feed, Delivered(rollout=one.rollout, run=one.run))
        if after.update is not None and after.update.phase in machine.ENDED and not after.outbox:
            done.set()

    clock = Clock(wall=lambda: int(time.time()), boot=lambda: int(time.clock_gettime(time.CLOCK_MONOTONIC)))
    service = Service(Journal(made.state_dir), perform, clock, changed)
    service.start(Restarted(boot_id=made.host.boot_id(), current=made.host.current_system()))
    changed(service.state, service.state)
    service.feed(Offered(offer=made.offer(path), boot_id=made.host.boot_id()))
    async with asyncio.timeout(60):
        await done.wait()
        await service.idle()
    await service.close()


def forked(made: Machine, path: str, number: int) -> bool:
    """Run the update in a process of its own; tell whether it died at a point."""
    child = os.fork()
    if child == 0:
        asyncio.run(update(made, path, Points(made.root, number)))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, -signal.SIGKILL}, f"try {number} ended with {code}"
    return code != 0


def tried(root: Path, code: int, number: int) -> dict[str, object]:
    """Update a new machine, dying at one point; say where that was and what it came to in the end."""
    made = Machine(root)
    old, new = made.system("old"), made.system("new", at="cache", code=code, before="sleep 0.1")
    made.boot(old)
    died = forked(made, new, number)
    last = Journal(made.state_dir).state.update
    if died:
        assert not forked(made, new, 0)
    names = {old: "old", new: "new"}
    return {
        "point": (root / "died").read_text() if died else None,
        "phase": last.phase if last is not None else None,
        "outcomes": sorted({json.loads(line)[2] for line in (root / "outcomes").read_text().splitlines()}),
        "switches": [names[one.removeprefix("switch ")] for one in made.switches()],
        "runs": [names[made.host.current_system()], names[made.host.profile_system()]],
        "confirmed": len(Journal(made.state_dir).state.confirmed),
    }


if __name__ == "__main__":
    folder, ends_with = Path(sys.argv[1]), int(sys.argv[2])
    whole = tried(folder / "0", ends_with, 0)
    named = (folder / "0/points").read_text().splitlines()
    numbers = {name: number for number, name in enumerate(named, 1)}
    firsts = {name: number for number, name in reversed([*enumerate(named, 1)])}
    for attempt in sorted({*numbers.values(), *firsts.values()}):
        print(json.dumps(tried(folder / str(attempt), ends_with, attempt)), flush=True)
    print(json.dumps(whole), flush=True)
