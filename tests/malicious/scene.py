"""Two devices, a console and a command line, all of them real, around a coordinator that may lie; Nix is made up.

`Scene.begin` lets everybody see the true log with one update done; `Scene.news` is what is signed after that: the end
of a grant, a release and its rollout. What a lie does to it is a test's to say.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.agent.made_up import CACHE, digest_of, store_path
from tests.factories import key
from tests.fleet.members import Member
from tests.malicious.double import MaliciousCoordinator, malicious
from tests.server.harness import DEADLINE_S, until
from tests.tui.console_pilot import Driven
from tests.tui.console_ports import FakeActs, FakeSource

from nixfleet.agent import agent as agents
from nixfleet.agent import link as links
from nixfleet.agent.agent import Agent
from nixfleet.cli import session
from nixfleet.cli.main import main
from nixfleet.client.admin import Admin
from nixfleet.client.mirror import Mirror
from nixfleet.config import Context, mirror_dir, put_context
from nixfleet.model.device import Outcome
from nixfleet.model.ids import Digest, Fingerprint
from nixfleet.model.statements import TargetLine
from nixfleet.model.views import DeviceView
from nixfleet.trust.lines import LineTree
from nixfleet.trust.signers import MemorySigner
from nixfleet.tui.acting import AdminActs
from nixfleet.tui.adapter import ClientSource, MirrorVerifier
from nixfleet.tui.app import ConsoleApp
from nixfleet.tui.authority import LogAuthority
from nixfleet.tui.desk import Desk, Options
from nixfleet.tui.ports import Ports


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it wrote."""

    code: int
    text: str


class Scene:
    """A fleet of two that is being lied to."""

    def __init__(self, double: MaliciousCoordinator, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.double = double
        self.one = double.one
        self.env = {"NIXFLEET_HOME": str(folder / "home")}
        self._capsys = capsys
        self._key = folder / "admin"
        self.members = tuple(Member(folder / name, self.one, name) for name in ("web-01", "web-02"))
        self.known = 0
        """How many entries everybody knows before anything is signed that a lie is about."""
        self.first = self.last = Digest("")
        """The rollouts of `begin` and of `news`."""

    @property
    def web(self) -> Member:
        """The device that is lied to."""
        return self.members[0]

    async def begin(self) -> None:
        """Enrol both devices and bring them to system a, while the coordinator is honest."""
        for member in self.members:
            member.enrol({"name": member.name})
            self.double.devices[key(member.name).public.fingerprint] = member.identity.device
        self.ops = self.one.fleet.grant("ops", "deploy")
        self._key.write_text(key("admin").to_openssh())
        self._key.chmod(0o600)
        fleet = self.one.fleet.fleet
        context = Context(fleet=fleet, urls=(self.one.server.address,), key=str(self._key))
        put_context("acme", context, env=self.env)
        self.first = await self.signs("a")
        async with self.members[0].running(), self.members[1].running():
            for member in self.members:
                await confirmed(member, self.first)
                await until(partial(self.device, member.name), lambda device: device.outcome == Outcome.CONFIRMED)
        verified = await self.nixfleet("audit", "verify")
        assert (0, True) == (verified.code, "2 devices signed for this log" in verified.text), verified
        self.known = self.one.fleet.size

    async def news(self, *, seen: bool = True, **rollout: Any) -> None:
        """End the grant, and sign a release of system b and its rollout.

        With `seen` the person's machine has these in its copy of the log, as that of who signed them has.
        """
        self.one.fleet.revoke(grant=self.ops)
        self.last = await self.signs("b", **rollout)
        if seen:
            async with self.one.client("admin") as client:
                await self.copy().catch_up(client)

    async def signs(self, system: str, **rollout: Any) -> Digest:
        """Sign a release for both devices and a rollout of it, and send all that was signed."""
        release, texts = self.release(system)
        digest = self.one.fleet.rollout(release, **rollout)
        async with self.one.client("admin") as admin:
            await self.one.send(admin, texts)
        return digest

    def release(self, system: str) -> tuple[Digest, tuple[str, ...]]:
        """Sign a release for both devices, whose cache has it; give it with its lines."""
        paths = {member: member.machine.system(system, at="cache") for member in self.members}
        tree = LineTree(
            [
                TargetLine(
                    device=member.identity.device,
                    path=path,
                    system="x86_64-linux",
                    digest=digest_of(path),
                    nar_size=1_000,
                )
                for member, path in paths.items()
            ]
        )
        release, _ = self.one.fleet.release(system, caches=(CACHE,), lines=None, targets=tree.targets)
        return release, tree.texts

    def swaps_b_for_c(self) -> None:
        """Let target lines name another system, which the cache has."""
        other = {member.machine.system("c", at="cache") for member in self.members}.pop()
        wanted = store_path("b")
        self.double.swaps_target_lines(lambda body: body.replace(wanted.encode(), other.encode()))

    def forks_in_silence(self) -> None:
        """Show the device another log, and let nobody hear of it."""
        self.double.forks(self.known - 1, to=key(self.web.name).public.fingerprint)
        self.double.drops_what_devices_say()

    def machine_runs(self, system: str) -> bool:
        """Tell whether the device went through the systems up to this one, each by one switch, and through no other."""
        paths = [store_path(name) for name in ("a", "b")[: ("a", "b").index(system) + 1]]
        machine = self.web.machine
        return [f"switch {path}" for path in paths] == machine.switches() and paths[-1] == machine.host.current_system()

    def copy(self) -> Mirror:
        """Open the person's verified copy of the log."""
        fleet = self.one.fleet.fleet
        return Mirror.open(mirror_dir(fleet, self.env), fleet)

    # What each says

    async def device(self, name: str) -> DeviceView:
        """Show what the coordinator itself, asked honestly, knows of a device."""
        async with self.one.client("admin") as admin:
            return await admin.device(name)

    async def reports(self, agent: Agent, why: str, *, heard: bool = True) -> None:
        """Wait until a device says why it begins nothing, and, where it is `heard`, has signed that in a report."""

        async def said() -> str:
            return agent.desk.waits

        await until(said, lambda told: why in told)
        if heard:
            await until(partial(self.device, self.web.name), lambda device: why in device.reason)

    async def nixfleet(self, *argv: str) -> Said:
        """Run a command on the person's machine."""
        self._capsys.readouterr()
        code = await asyncio.to_thread(main, argv)
        done = self._capsys.readouterr()
        return Said(code, done.out + done.err)

    @asynccontextmanager
    async def console(self) -> AsyncIterator[Driven]:
        """Open the person's console, wide enough that no sentence is broken."""
        mirror = self.copy()
        async with self.one.client("admin") as client:
            signer, clock = MemorySigner(key("admin")), lambda: self.one.now
            me = Fingerprint(signer.key.fingerprint)
            ports = Ports(
                source=ClientSource(client, mirror),
                acts=AdminActs(client, Admin(client, mirror, signer, clock), signer=me, clock=clock),
                verifier=MirrorVerifier(client, mirror, exports=mirror.folder / "exports"),
                authority=LogAuthority(mirror, signer=me, clock=clock),
            )

            async def connect() -> Ports:
                return ports

            desk = Desk(connect, Options(clock=clock))
            app = ConsoleApp(desk)
            app.animation_level = "none"
            async with app.run_test(size=(220, 50), notifications=True) as pilot:
                driven = Driven(app, pilot, FakeSource([]), FakeActs())
                await driven.until(lambda: desk.store.loaded and desk.feed.check.state != "checking")
                await driven.rest()
                yield driven


async def confirmed(member: Member, rollout: str) -> None:
    """Wait until a device has confirmed a rollout."""
    async with asyncio.timeout(DEADLINE_S):
        while rollout not in member.confirmed():  # noqa: ASYNC110 - what is waited for spans processes
            await asyncio.sleep(0.02)


@asynccontextmanager
async def scene(folder: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Scene]:
    """Set the scene: everybody has seen the true log, and one update is done."""
    patch.setattr(links, "BACKOFF_FIRST_S", 0.05)
    patch.setattr(links, "BACKOFF_MOST_S", 0.2)
    patch.setattr(agents, "CONTACT_S", 0.05)
    async with malicious(folder / "data", patch, caches=(CACHE,)) as double:
        made = Scene(double, folder, capsys)
        patch.setattr(session, "now", lambda: double.one.now)
        patch.setenv("NIXFLEET_HOME", made.env["NIXFLEET_HOME"])
        for name in ("NIXFLEET_CONTEXT", "SSH_AUTH_SOCK"):
            patch.delenv(name, raising=False)
        await made.begin()
        yield made
