"""Apply a bundle on made-up machines and die by SIGKILL at each point of it in turn (for test_agent_apply_kill).

Points are those of `kill_driver`, of those with one name the last, with the unpacking and the writes of the receipt.
After each death the bundle is applied again; or, where the system has been switched by then, the ordinary agent goes
on, which reaches nobody.

Usage: apply_kill_driver.py FOLDER apply|agent. Prints one JSON object a try.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msgspec.structs import replace
from tests.agent.bundles import member, outcomes, receipt_of, write
from tests.agent.kill_driver import Points, WatchedStore
from tests.agent.site import Site, until

from nixfleet import config
from nixfleet.agent import applying, jobs, journal
from nixfleet.agent.agent import Agent
from nixfleet.agent.guarding import Guarding
from nixfleet.agent.journal import Journal
from nixfleet.agent.machine import ENDED
from nixfleet.agent.runner import Store
from nixfleet.agent.switching import Switcher
from nixfleet.client import receipt
from nixfleet.client.bundle import unpack
from nixfleet.model.device import Phase


def watched(site: Site, points: Points) -> Any:
    """Put points into what an agent is made of."""

    def make(kind: Callable[..., Any], name: str) -> Callable[..., Any]:
        def made(*args: Any) -> Any:
            one = kind(*args)
            one._start = points.around(name, one._start)
            return one

        return made

    for module, what in (
        (journal, "writing the journal"),
        (jobs, "writing a switch's folder"),
        (receipt, "the receipt"),
    ):
        setattr(module, "write_atomic", points.around(what, config.write_atomic))  # noqa: B010 - a name it does not export
    setattr(applying, "unpack", points.around("unpacking", unpack))  # noqa: B010 - a point
    return replace(
        site.parts(),
        store=cast("Store", WatchedStore(site.store, points)),
        make_switcher=make(Switcher, "starting the switch"),
        make_guarding=make(Guarding, "starting the guard"),
    )


async def apply(site: Site, path: Path, points: Points) -> None:
    """Apply as root does."""
    await applying.apply(watched(site, points), path, receipt_of(site))


async def run_agent(site: Site) -> None:
    """Let the ordinary agent go on until the update has ended; there is no network."""
    agent = Agent(site.parts())
    task = asyncio.create_task(agent.run())
    await until(lambda: agent.service.state.update is not None and agent.service.state.update.phase in ENDED)
    await agent.service.idle()
    agent.stop()
    await task


def forked(work: Coroutine[Any, Any, None]) -> bool:
    """Do it in a process of its own; tell whether that was killed."""
    child = os.fork()
    if child == 0:
        asyncio.run(work)
        os._exit(0)
    work.close()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, -signal.SIGKILL}, f"it ended with {code}"
    return code != 0


def tried(root: Path, number: int, then: str) -> dict[str, object]:
    """Apply on a new machine, dying at one point; say where that was and what it came to in the end."""
    root.mkdir()
    site, device = asyncio.run(member(root))
    rollout = site.deploy(device, site.machine.system("new", at="cache", before="sleep 0.1"))
    path = write(site, device, rollout)
    died = forked(apply(site, path, Points(root, number)))
    update = Journal(site.machine.state_dir).state.update
    if died and then == "agent" and update is not None and update.phase in {Phase.CHECKING, Phase.CONFIRMING}:
        assert not forked(run_agent(site))
    elif died:
        assert not forked(apply(site, path, Points(root, 0)))
    state = Journal(site.machine.state_dir).state
    return {
        "point": (root / "died").read_text() if died else None,
        "phase": update.phase if update is not None else None,
        "told": [outcome for _, _, outcome in outcomes(site, device)],
        "untold": [str(one.outcome) for one in state.outbox],
        "switches": len(site.machine.switches()),
        "runs": site.machine.host.current_system() == site.machine.host.profile_system() != site.old,
        "left": (site.machine.state_dir / "bundle").exists(),
    }


if __name__ == "__main__":
    folder, afterwards = Path(sys.argv[1]), sys.argv[2]
    whole = tried(folder / "0", 0, afterwards)
    named = (folder / "0/points").read_text().splitlines()
    numbers = {name: number for number, name in enumerate(named, 1)}
    chosen = sorted(numbers.values())
    if afterwards == "agent":
        # Only what comes after the switch is the ordinary agent's to end without a network.
        begun = numbers["after starting the switch"]
        chosen = [number for number in range(begun + 1, len(named) + 1) if "journal" in named[number - 1]]
    for attempt in chosen:
        print(json.dumps(tried(folder / str(attempt), attempt, afterwards)), flush=True)
    print(json.dumps(whole), flush=True)
