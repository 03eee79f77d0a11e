"""A real agent with the real client, on a made-up machine, as a member of a fleet that a real coordinator serves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.agent.made_up import CACHE, Machine, MadeUpStore, digest_of
from tests.factories import key
from tests.server.harness import Rig

from nixfleet.agent import identity as identities
from nixfleet.agent.agent import Agent
from nixfleet.agent.journal import Journal
from nixfleet.agent.member import Parts
from nixfleet.agent.service import Clock
from nixfleet.agent.settings import Settings
from nixfleet.client.mirror import Mirror
from nixfleet.model.ids import Digest, Tags
from nixfleet.model.statements import TargetLine
from nixfleet.model.wire import AppendResponse
from nixfleet.trust.lines import LineTree


class Member:
    """One machine; its agents come and go."""

    def __init__(self, root: Path, one: Rig, name: str) -> None:
        self.one = one
        self.name = name
        root.mkdir()
        self.machine = Machine(root)
        self.machine.boot(self.machine.system("old"))
        self.store = MadeUpStore(self.machine)
        log = one.fleet.log
        self.settings = Settings(
            name=name,
            state_dir=str(self.machine.state_dir),
            volatile_state=True,
            poll_s=1,
            urls=(one.server.address,),
            fleet=one.fleet.fleet,
            checkpoint=f"{log.size}:{log.root}",
        )
        host_key = root / "etc/ssh/ssh_host_ed25519_key"
        host_key.parent.mkdir(parents=True)
        host_key.write_text(key(name).to_openssh())
        self.agent: Agent | None = None
        self.identity, _, _ = identities.establish(self.machine.host, self.settings)

    def enrol(self, tags: Tags | None = None) -> None:
        """Sign its enrolment."""
        self.one.fleet.device(self.name, device=self.identity.device, key=key(self.name).public.text, tags=tags or {})

    def deploy(self, system: str, **rollout: Any) -> tuple[str, Digest, tuple[str, ...]]:
        """Sign a release with its line, and a rollout of it; give path, rollout and the release's lines."""
        path = self.machine.system(system, at="cache")
        line = TargetLine(
            device=self.identity.device, path=path, system="x86_64-linux", digest=digest_of(path), nar_size=1_000
        )
        tree = LineTree([line])
        release, _ = self.one.fleet.release(system, caches=(CACHE,), lines=None, targets=tree.targets)
        return path, self.one.fleet.rollout(release, **rollout), tree.texts

    async def deployed(self, system: str) -> str:
        """Deploy and wait until the device runs it and has confirmed it; give the rollout."""
        _, rollout, lines = self.deploy(system)
        async with self.one.client("admin") as admin:
            answer = await self.one.send(admin, lines)
        assert isinstance(answer, AppendResponse)
        async with asyncio.timeout(30):
            while rollout not in self.confirmed():  # noqa: ASYNC110 - what is waited for spans processes
                await asyncio.sleep(0.02)
        return rollout

    def confirmed(self) -> list[str]:
        """List the rollouts that the device has confirmed."""
        return [entry.rollout for entry in self.agent.service.state.confirmed] if self.agent is not None else []

    def parts(self) -> Parts:
        """Put an agent's parts together, as `main` does."""
        folder = self.machine.state_dir
        found, own, token = identities.establish(self.machine.host, self.settings)
        return Parts(
            settings=identities.effective(self.settings, found),
            host=self.machine.host,
            store=self.store,
            clock=Clock(wall=lambda: self.one.now, boot=lambda: 100),
            identity=found,
            key=own,
            token=token,
            mirror=Mirror.open(folder / "log", found.fleet, pin=found.pin, device=found.device),
            journal=Journal(folder),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Agent]:
        """Run an agent beside the test."""
        agent = self.agent = Agent(self.parts())
        task = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            agent.stop()
            await task
