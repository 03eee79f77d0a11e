"""Start the guard before a switch, take it off, and tell what it did: the agent's side of `agent.guard`.

It must never take the guard off while that acts, nor act beside it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from nixfleet.agent import health, preflight
from nixfleet.agent.guard import MARGIN_S, Guard, Plan, find_tools
from nixfleet.agent.host import Host
from nixfleet.agent.jobs import Job
from nixfleet.agent.settings import Settings
from nixfleet.agent.switching import START_S, SWITCH_S
from nixfleet.agent.tools import run_detached, run_tool
from nixfleet.agent.units import Ran
from nixfleet.agent.update import Armed, Disarmed, Event, Offer, Overtaken, Trouble
from nixfleet.model.device import Cause

POLL_S = 0.05


class Guarding:
    """The guard of one device, as its agent handles it."""

    def __init__(self, host: Host, settings: Settings) -> None:
        """Prepare; nothing is read or written."""
        self._host = host
        self._settings = settings
        self._guard = Guard(Path(settings.state_dir) / "guard", host)

    async def arm(self, job: Job, offer: Offer, previous: str) -> Event:
        """See that the guard of a switch watches; without one there is no switch. Raises: UserError, OSError."""
        guard = self._guard
        if guard.guards(job.folder.name):
            return Armed()
        tools = find_tools(self._host, previous)
        # One that acted on an agent that died before it switched has changed nothing: it makes room for another.
        async with self.alone():
            command = guard.prepare(self._plan(job, offer, previous), tools)
        ran = await asyncio.to_thread(self._start, command, job.folder.name)
        clock = asyncio.get_running_loop().time
        until_s = clock() + START_S
        while not guard.watches():
            if ran.exit_code != 0 or clock() > until_s:
                guard.release()
                said = f": {ran.lines[-1]}" if ran.lines else ""
                return Trouble(cause=Cause.INTERNAL, reason=f"the guard could not be started{said}", later=True)
            await asyncio.sleep(POLL_S)
        return Armed()

    async def disarm(self, job: Job) -> Event:
        """Take the guard off, unless it goes back. Raises: OSError."""
        async with self.alone():
            if why := self._guard.acted(job.folder.name):
                return Overtaken(reason=why)
            self._guard.release()
            return Disarmed()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait until the guard does not act, and keep it from acting meanwhile."""
        while True:
            with self._guard.held() as held:
                if held:
                    yield
                    return
            await asyncio.sleep(POLL_S)

    def note_back(self) -> None:
        """Let the guard know that an agent judges the new system."""
        self._guard.note_back()

    def acted(self, job: Job) -> str:
        """Say why the guard of a switch goes back, or has; empty when it does not."""
        return self._guard.acted(job.folder.name)

    def went_back(self, job: Job) -> bool:
        """Tell whether the guard itself went back, well."""
        return self._guard.went_back(job.folder.name)

    def take_off(self) -> None:
        """Take the guard off, keeping what it did; only within `alone`. Raises: OSError."""
        self._guard.take_off()

    async def release(self) -> None:
        """Take off whatever guard there is, once it does not act. Raises: OSError."""
        async with self.alone():
            self._guard.release()

    def _plan(self, job: Job, offer: Offer, previous: str) -> Plan:
        # The new system's checks are the ones that will take their time.
        file = self._host.resolve(f"{offer.path}/{preflight.AGENT_FILE}")
        checks = preflight.settings_of(file, self._settings).checks
        waits_s = max(offer.orphan_s, offer.confirm_s) if offer.contact == "coordinator" else offer.confirm_s
        checks_s, trial = health.most_s(checks), offer.verb == "test"
        trial_s = offer.for_s + checks_s if trial else 0.0
        return Plan(
            update=job.folder.name,
            previous=previous,
            verb="test" if trial else "switch",
            switch=job.folder,
            switch_s=SWITCH_S,
            back_s=offer.confirm_s + MARGIN_S,
            latest_s=START_S + SWITCH_S + checks_s + waits_s + trial_s + MARGIN_S,
        )

    def _start(self, command: tuple[str, ...], name: str) -> Ran:
        """Start the guard where neither the agent's end nor the switch reaches it."""
        if not self._host.has_systemd():
            return run_detached(command, START_S)
        # It is begun again when it is killed: it looks at its folder, and waits no shorter for that. What ends it for
        # good is the end of the machine, or its own (systemd.service(5)).
        how = ("--collect", "--quiet", f"--unit=nixfleet-guard-{name}", "--service-type=exec")
        lasting = ("--property=Restart=on-failure", "--property=RestartSec=1", "--property=OOMScoreAdjust=-900")
        return run_tool(("systemd-run", *how, *lasting, *command), START_S)


MakeGuarding = Callable[[Host, Settings], Guarding]
"""Makes what guards the switches of a host."""
