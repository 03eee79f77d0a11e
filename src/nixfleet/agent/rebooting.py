"""Updates that need a reboot, performed: set for one boot, made the default once they have confirmed, and taken back.

Every effect is safe to repeat. It must never let the new system be booted twice before it has confirmed, where the boot
loader can fall back.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from nixfleet.agent import reboots
from nixfleet.agent.fallback import Fallback
from nixfleet.agent.host import Host
from nixfleet.agent.jobs import Job
from nixfleet.agent.switching import Switches
from nixfleet.agent.units import Run
from nixfleet.agent.update import Activate, Event, GoBack, MakeDefault, Offer, Ready, Result, Switched, Trouble
from nixfleet.model.device import Cause

DOWN_S: Final = 600.0
"""A machine that was told to reboot is down by then, or is told again."""
TOLD_S: Final = 60.0


class Rebooting:
    """What one host does about reboots."""

    def __init__(self, host: Host, run: Run, switches: Switches, set_profile: Callable[[str], Awaitable[None]]) -> None:
        """Prepare; `run` runs small commands, `set_profile` makes a system the profile's newest."""
        self._host, self._run, self._switches, self._set_profile = host, run, switches, set_profile
        self._fallback = Fallback(host, run)

    async def ready(self, offer: Offer, previous: str, ready: Ready) -> Ready:
        """Add what an update needs of a reboot, and how this machine would fall back."""
        needs = reboots.reasons(self._host, offer.path)
        if offer.verb == "boot" and not needs:
            needs = ("the rollout wants one",)
        kind = await self._fallback.usable(previous) if needs else ""
        return Ready(baseline=ready.baseline, in_place=ready.in_place, reboot=needs, fallback=kind)

    async def set_once(self, job: Job, effect: Activate) -> Event:
        """Have the previous system's installer list the new one, and boot that once. Raises: UserError, NixError."""
        offer, kind = effect.offer, effect.fallback or "none"
        if not job.started:
            await self._fallback.pin(kind, effect.once)
            await self._set_profile(offer.path)
        # The installer makes its own system the default, and gives each generation an entry (install-grub.pl,
        # systemd-boot-builder.py): so at no moment is the new one what a power cut would boot.
        switched = await self._switches.run(job, offer, effect.once, "boot")
        if switched.result is Result.DONE and self._host.current_system() != offer.path:
            return Switched(result=Result.INTERRUPTED, reason="the machine went down before the new system was set")
        if switched.result is Result.REBOOT:
            await self._fallback.once(kind, offer.path)
        return switched

    async def make_default(self, job: Job, effect: MakeDefault) -> Event:
        """Let the new system's installer make it the default, and take the pin off. Raises: UserError, NixError."""
        await self._set_profile(effect.offer.path)
        switched = await self._switches.run(job, effect.offer, effect.offer.path, "boot")
        if switched.result in {Result.DONE, Result.REBOOT}:
            await self._fallback.release(effect.fallback or "none")
        return switched

    async def back(self, job: Job, effect: GoBack) -> Switched:
        """Switch back; where the way back is another boot's, its installer makes it the default.

        The way back from a trial says nothing to the boot loader: it never knew.
        """
        previous, offer = effect.previous, effect.offer
        booted = self._host.booted_system()
        needs = booted not in {"", previous} and booted == offer.path and reboots.reasons(self._host, previous)
        verb = "test" if offer.verb == "test" else "boot" if needs else "switch"
        return await self._switches.run(job, offer, previous, verb)

    async def release(self, effect: GoBack) -> None:
        """Forget what was to be booted once, after the way back is the default. Raises: UserError."""
        await self._fallback.release(effect.fallback or "none")

    async def reboot(self) -> Trouble:
        """Tell the machine to reboot; who gets an answer is still up."""
        argv = ("systemctl", "reboot") if self._host.has_systemd() else ("reboot",)
        ran = await self._run(argv, TOLD_S)
        if ran.exit_code != 0:
            said = f": {ran.lines[-1]}" if ran.lines else ""
            return Trouble(cause=Cause.INTERNAL, reason=f"the machine could not be rebooted{said}", later=True)
        await asyncio.sleep(DOWN_S)
        return Trouble(cause=Cause.INTERNAL, reason="the machine was told to reboot, and did not", later=True)
