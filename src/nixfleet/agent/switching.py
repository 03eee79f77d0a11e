"""Start a switch that outlives the agent, wait for its end, and tell in which way it ended.

A switch runs at most once for its job (`agent.jobs`), whoever asks and however often. It must never run one in the
agent's own unit where systemd runs.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from nixfleet.agent.host import Host
from nixfleet.agent.jobs import Job
from nixfleet.agent.preflight import SWITCH
from nixfleet.agent.tools import end_group, run_detached, run_tool
from nixfleet.agent.units import Ran
from nixfleet.agent.update import Offer, Result, Switched

SWITCH_S = 1_800.0
"""A switch that has not ended by then is killed, and the device goes back."""
START_S = 15.0
POLL_S = 0.05
AGAIN_S = 1.0
"""Between two tries to start a switch: a service manager that has just been replaced does not answer."""
LAST_WORDS_S = 2.0

_REASONS: dict[int, tuple[Result, str]] = {
    0: (Result.DONE, ""),
    2: (Result.HALFWAY, "the activation script failed"),
    4: (Result.UNITS, ""),
    100: (Result.REBOOT, ""),
}
"""Exit codes of switch-to-configuration that have a meaning of their own (switch-to-configuration-ng)."""


class Switches(Protocol):
    """Runs switches: a `Switcher`, or one of a made-up machine."""

    async def run(self, job: Job, offer: Offer, path: str, verb: str) -> Switched:
        """Start a switch, or find the one that was started, and wait for its end."""


class MakeSwitcher(Protocol):
    """Makes what runs switches on a host; see `Switcher`."""

    def __call__(
        self,
        host: Host,
        on_lines: Callable[[Offer, tuple[str, ...]], None],
        told: Callable[[tuple[str, ...]], tuple[str, ...]],
        /,
    ) -> Switches:
        """Make it."""


class Switcher:
    """Runs switches on one host."""

    def __init__(
        self,
        host: Host,
        on_lines: Callable[[Offer, tuple[str, ...]], None],
        told: Callable[[tuple[str, ...]], tuple[str, ...]],
    ) -> None:
        """Prepare; `on_lines` takes new lines of output and returns at once, `told` drops what may not be reported."""
        self._host = host
        self._on_lines = on_lines
        self._told = told

    async def run(self, job: Job, offer: Offer, path: str, verb: str) -> Switched:
        """Start a switch, or find the one that was started, and wait for its end."""
        clock = asyncio.get_running_loop().time
        same_boot = job.prepare()
        if job.exit_code is None and not same_boot:
            return Switched(result=Result.INTERRUPTED, reason="the machine went down during the switch")
        said = () if job.started else await self._begin(job, path, verb)
        if job.forbidden:
            return Switched(result=Result.ERROR, reason="the switch could not be started", lines=self._told(said))
        begun_s = last_alive_s = clock()
        while (code := job.exit_code) is None:
            await asyncio.sleep(POLL_S)
            self._on_lines(offer, job.new_lines())
            alive = job.pid
            last_alive_s = clock() if alive else last_alive_s
            # The last words of the supervisor may still be on their way when it is gone.
            if clock() - last_alive_s > LAST_WORDS_S:
                return Switched(
                    result=Result.INTERRUPTED, reason="the switch was interrupted", lines=self._told(job.lines())
                )
            if alive and clock() - begun_s > SWITCH_S:
                end_group(alive)
                reason = f"the switch did not end within {SWITCH_S:.0f} s"
                return Switched(result=Result.INTERRUPTED, reason=reason, lines=self._told(job.lines()))
        self._on_lines(offer, job.new_lines())
        return self._judge(code, path, verb, job.lines(), same_boot=same_boot)

    def _judge(self, code: int, path: str, verb: str, lines: tuple[str, ...], *, same_boot: bool) -> Switched:
        """Tell the ways apart in which a switch ends; exit 0 alone does not prove that the system runs."""
        result, reason = _REASONS.get(code, (Result.ERROR, f"the switch ended with exit code {code}"))
        current = self._host.current_system()
        if verb == "boot" and result is Result.DONE:
            result = Result.REBOOT
        if result is Result.REBOOT and not same_boot:
            result = Result.DONE  # the machine has booted since, before anybody could note that it must
        if result in {Result.DONE, Result.UNITS} and current != path:
            result, reason = Result.ELSEWHERE, f"the switch says it is done, but {current or 'nothing known'} runs"
        return Switched(result=result, exit_code=code, reason=reason, lines=self._told(lines))

    async def _begin(self, job: Job, path: str, verb: str) -> tuple[str, ...]:
        """See a supervisor claim the folder in time; if none does none ever will, and what was said is the answer."""
        clock = asyncio.get_running_loop().time
        until_s = clock() + START_S
        asked = Ran(None, ())
        while not job.started and clock() < until_s:
            if asked.exit_code != 0:
                asked = await asyncio.to_thread(self._start, job, path, verb)
            await asyncio.sleep(POLL_S if asked.exit_code == 0 else AGAIN_S)
        job.forbid()
        return asked.lines

    def _start(self, job: Job, path: str, verb: str) -> Ran:
        """Start the supervisor of a switch so that it outlives this process, whatever ends it."""
        command = ("/bin/sh", *job.command(str(self._host.at(f"{path}/{SWITCH}")), verb))
        if not self._host.has_systemd():
            return run_detached(command, START_S)
        # A unit of its own: what befalls the agent's unit does not touch it, and it has none of that unit's sandbox
        # (systemd-run(1)). There is no other way: beside the agent the switch would run half-blind.
        how = ("--collect", "--quiet", f"--unit=nixfleet-switch-{job.folder.name}", "--service-type=exec")
        return run_tool(("systemd-run", *how, *command), START_S)
