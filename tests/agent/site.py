"""A fleet, a made-up coordinator over its log, and one machine whose agents come and go."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from tests.agent.coordinator import Coordinator
from tests.agent.made_up import CACHE, Machine, MadeUpStore, digest_of
from tests.factories import Fleet, key

from nixfleet.agent import identity as identities
from nixfleet.agent.agent import Agent
from nixfleet.agent.journal import Journal
from nixfleet.agent.member import Parts
from nixfleet.agent.service import Clock
from nixfleet.agent.settings import Settings
from nixfleet.agent.tools import run_beside
from nixfleet.agent.units import Run
from nixfleet.client.mirror import Mirror
from nixfleet.model.device import JoinToken, Phase
from nixfleet.model.statements import TargetLine
from nixfleet.trust import token as tokens
from nixfleet.trust.lines import LineTree


class Site:
    """One fleet, one coordinator, one machine with a token; agents come and go."""

    def __init__(self, root: Path, *, select: dict[str, list[str]] | None = None, token: bool = True) -> None:
        self.fleet = Fleet(caches=(CACHE,))
        self.server = Coordinator(self.fleet)
        self.machine = Machine(root)
        self.old = self.machine.system("old")
        self.machine.boot(self.old)
        self.store = MadeUpStore(self.machine)
        self.boot_s = 100
        self.run_tool: Run = run_beside
        self.cache_is_there = False
        """Whether a binary cache, other than the coordinator's, can be reached."""
        self.settings = Settings(
            name="web-01",
            state_dir=str(self.machine.state_dir),
            volatile_state=True,
            poll_s=1,
            urls=("http://one.example",),
        )
        log = self.fleet.log
        if token:
            self.fleet.grant("joiner", "enroll", select=select or {"env": ["prod"]}, max_uses=2)
            made = tokens.make(
                JoinToken(
                    v=1, urls=("http://two.example",), fleet=self.fleet.fleet, log=log, seed=key("joiner").seed.hex()
                )
            )
            self.machine.write("/etc/nixfleet/token", made)
            self.settings = replace(self.settings, token_file="/etc/nixfleet/token")
        else:
            checkpoint = f"{log.size}:{log.root}"
            self.settings = replace(self.settings, fleet=self.fleet.fleet, checkpoint=checkpoint)
            host_key = self.machine.root / "etc/ssh/ssh_host_ed25519_key"
            host_key.parent.mkdir(parents=True)
            host_key.write_text(key("host").to_openssh())

    def parts(self, given: JoinToken | None = None) -> Parts:
        """Put an agent's parts together, as `main` does; with a token that was given on the command line."""
        folder = self.machine.state_dir
        found, own, token = identities.establish(self.machine.host, self.settings, given)
        return Parts(
            settings=identities.effective(self.settings, found),
            host=self.machine.host,
            store=self.store,
            clock=Clock(wall=lambda: self.fleet.now, boot=lambda: self.boot_s),
            identity=found,
            key=own,
            token=token,
            mirror=Mirror.open(folder / "log", found.fleet, pin=found.pin, device=found.device),
            journal=Journal(folder),
            make_client=self.server.make_client,
            run=self.run_tool,
            cache_answers=self._cache_answers,
        )

    async def _cache_answers(self, url: str, timeout_s: float) -> bool:  # noqa: ARG002 - as a real one is called
        return self.cache_is_there

    @asynccontextmanager
    async def running(self, *, supervised: bool = False) -> AsyncIterator[Agent]:
        """Run an agent beside the test."""
        agent = Agent(replace(self.parts(), supervised=supervised))
        task = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            agent.stop()
            await task

    async def member(self) -> str:
        """Wait until the device is in the log; give its id."""
        await until(lambda: bool(self.fleet.state.devices))
        return next(iter(self.fleet.state.devices))

    def deploy(self, device: str, path: str, **rollout: Any) -> str:
        """Sign a release with the device's line, and a rollout of it."""
        line = TargetLine(device=device, path=path, system="x86_64-linux", digest=digest_of(path), nar_size=1_000)
        self.server.lines = LineTree([line])
        release, _ = self.fleet.release("r", caches=(CACHE,), lines=None, targets=self.server.lines.targets)
        return self.fleet.rollout(release, **rollout)

    def phases(self) -> list[Phase]:
        """List the phases reported, repeats left out."""
        found = [one.attempt.phase for one in self.server.reports if one.attempt is not None]
        return list(dict.fromkeys(found))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for spans processes and files
            await asyncio.sleep(0.01)
