"""The agent put together: log, desk, machine, runner and reports around one device.

It decides nothing itself and starts no process; see `desk`, `machine` and `runner`. Nothing here may raise because
a coordinator, a network or a cache misbehaves.
"""

import asyncio
import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from nixfleet.agent import facts, preflight, units
from nixfleet.agent.ahead import Ahead
from nixfleet.agent.desk import Desk
from nixfleet.agent.link import Link, jittered
from nixfleet.agent.machine import ENDED
from nixfleet.agent.member import BUNDLE, Member, Parts
from nixfleet.agent.reporter import Reporter, Ticker
from nixfleet.agent.rescue import STANDS_IN, UNDONE
from nixfleet.agent.runner import Runner
from nixfleet.agent.service import Service
from nixfleet.agent.update import (
    Contact,
    Contacted,
    Effect,
    Event,
    Offer,
    Ready,
    Reboot,
    Restarted,
    Stage,
    State,
    Trouble,
    Update,
)
from nixfleet.errors import NixfleetError, Unreachable
from nixfleet.model.device import Cause, Facts, Outcome, Phase, Progress
from nixfleet.model.ids import store_name
from nixfleet.model.wire import Sync

log = logging.getLogger("nixfleet.agent")

CONTACT_S = 5.0
TELL_S = 10.0
"""So long a reboot waits until the coordinator knows of it."""


class Agent:
    """One device's agent; `run` keeps it going until it is told to stop."""

    def __init__(self, parts: Parts) -> None:
        self.replaced = False
        """The system that runs now has another agent, which has to finish the update."""
        self._parts = parts
        self._host = parts.host
        self._born_in = parts.host.current_system()
        self._once = False
        self._stop = asyncio.Event()
        self._settled = asyncio.Event()
        self._admitted = asyncio.Event()
        self._member = Member(parts)
        self._nix_version = ""
        self._ticker = Ticker(self._send_progress, lines=parts.settings.report_lines)
        self.link = Link(
            mirror=parts.mirror,
            urls=(*parts.settings.urls, *parts.identity.urls),
            clock=parts.clock.wall,
            poll_s=parts.settings.poll_s,
            key=self._member.request_key,
            admit=self._admit,
            synced=self._synced,
            distrusted=lambda: self.desk.note(self.link.trouble),
            turned_away=self._turned_away,
            make_client=parts.make_client,
        )
        self._runner = Runner(
            host=parts.host,
            store=parts.store,
            settings=parts.settings,
            watcher=self._ticker,
            cache_base=lambda: self.link.base_url,
            names=self._member.names,
            by_hand=parts.by_hand,
            run=parts.run,
            make_switcher=parts.make_switcher,
            make_guarding=parts.make_guarding,
        )
        self.service = Service(parts.journal, self._perform, parts.clock, self._changed)
        self._reporter = Reporter(
            parts,
            self.link,
            self.service,
            failed_units=lambda: units.failed(parts.host, self._runner.run_tool),
            gather=self._facts,
            waits=lambda: self.desk.waits or (STANDS_IN if parts.rescue else ""),
            paused=lambda: self.desk.paused,
            key=lambda: self._member.key,
        )
        self._ahead = Ahead(self._runner)
        self.desk = Desk(parts, self._member, self.link, self.service, self._ahead, self._reporter.want)

    # Life

    async def run(self) -> None:
        """Resume what the journal holds, then follow the log until `stop`."""
        await self._start()
        running = [
            asyncio.create_task(self.link.run(), name="link"),
            asyncio.create_task(self._report_for_ever(), name="reports"),
            asyncio.create_task(self._ticker.run(), name="progress"),
        ]
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait([stop, *running], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stop}:
                task.result()  # these run for ever: one that ended is a fault of this program
        finally:
            await self._end([stop, *running])

    async def run_once(self) -> bool:
        """Sync once, bring an update that is wanted to its end, deliver its outcome; False when it did not confirm.

        Raises: Unreachable, Untrusted, Refused when the device is not enrolled yet.
        """
        before = self.service.state.update
        self._once = True
        await self._start()
        ticker = asyncio.create_task(self._ticker.run(), name="progress")
        session = asyncio.create_task(self.link.session(self._finish_once), name="session")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait([session, stop], return_when=asyncio.FIRST_COMPLETED)
            if session.done():
                session.result()
        finally:
            await self._end([ticker, session, stop])
        after = self.service.state.update
        return after is None or after == before or after.outcome in {None, Outcome.CONFIRMED}

    async def _finish_once(self) -> None:
        """Wait for the end of the update under way, then deliver what there is to tell."""
        await self._settled.wait()
        await self.service.idle()
        await self._reporter.deliver()

    def stop(self) -> None:
        """End cleanly; a switch that runs goes on, and its end is collected by the next start."""
        self._stop.set()

    def look(self) -> None:
        """Look again at what somebody may have done on the device: a pause, or another system that runs."""
        self.desk.consider_soon()
        if self._host.current_system() != self.told_system():
            self._reporter.want()

    def told_system(self) -> str:
        """Name the running system as the newest report has it; empty before the first."""
        return self._reporter.told_system

    async def _start(self) -> None:
        if not self._parts.by_hand:
            # What a killed `apply` left; the update itself goes on from the journal.
            shutil.rmtree(Path(self._parts.settings.state_dir) / BUNDLE, ignore_errors=True)
        try:
            self._nix_version = ".".join(map(str, await self._parts.store.version()))
        except NixfleetError as error:
            log.warning("%s", error)
        host = self._host
        update = self.service.state.update
        undone, lines = self._runner.undone(update) if update is not None else ("", ())
        undone = undone or (UNDONE if self._parts.rescue else "")
        current = host.current_system()
        booted = host.booted_system()
        told = Restarted(boot_id=host.boot_id(), current=current, booted=booted, undone=undone, lines=lines)
        self.service.start(told)
        self._settle(self.service.state)

    async def _end(self, running: Sequence[asyncio.Task[object]] | Sequence[asyncio.Task[None]]) -> None:
        await self.desk.close()
        await self.service.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self.link.close()

    def _settle(self, state: State) -> None:
        """Note whether an update is under way; who runs once does not wait for the end of a pause or for a window."""
        update = state.update
        waits = self._once and update is not None and update.held
        if waits or update is None or update.phase in {*ENDED, Phase.REBOOT_PENDING}:
            self._settled.set()
        else:
            self._settled.clear()

    def _facts(self) -> Facts:
        return facts.gather(self._host, self._nix_version)

    async def _report_for_ever(self) -> None:
        await self._admitted.wait()
        await self._reporter.run()

    async def _send_progress(self, progress: Progress) -> None:
        await self.link.client.progress(progress)

    async def _synced(self, sync: Sync) -> None:
        if self._parts.last_good is not None:
            await self._parts.last_good.note()
        await self.desk.synced(sync)

    def _turned_away(self, why: str) -> None:
        """Note for who asks on the device that the coordinator admits it no longer: that is its word, not the log's."""
        self.desk.note(why)

    async def _admit(self, link: Link) -> None:
        """Become a member first; from then on there is somebody to report to."""
        await self._member.admit(link, self._facts(), once=self._once)
        self._admitted.set()
        self._reporter.want()

    # The machine's world

    async def _perform(self, effect: Effect) -> Event | None:
        if isinstance(effect, Contact):
            return await self._contact(effect.offer)
        if isinstance(effect, Reboot) and not effect.back and (not_now := await self._may_reboot(effect.offer)):
            return not_now
        answer = await self._runner.perform(effect)
        if self._parts.by_hand and isinstance(answer, Trouble) and answer.cause is Cause.NETWORK:
            return msgspec.structs.replace(answer, later=False)  # there is none: the file lacks it, now and later
        if isinstance(effect, Stage) and isinstance(answer, Ready):
            return await self._ask_once_more(effect.offer, answer)
        return answer

    async def _ask_once_more(self, offer: Offer, ready: Ready) -> Event:
        """Sync again right before the switch: revoked meanwhile? (trust.md, What a device does, 6)."""
        return await self._sync_before(offer, "the switch") or self.desk.still(offer) or ready

    async def _sync_before(self, offer: Offer, what: str) -> Trouble | None:
        try:
            await self.link.sync()
        except NixfleetError as error:
            # `none` does without a coordinator that is silent, never without one that shows another log.
            if offer.contact != "none" or not isinstance(error, Unreachable):
                return Trouble(cause=Cause.NETWORK, reason=f"no sync before {what}: {error}", later=True)
        if self.link.trouble:
            return Trouble(cause=Cause.NETWORK, reason=self.link.trouble, later=True)
        return None

    async def _may_reboot(self, offer: Offer) -> Event | None:
        """Sync, judge once more and tell where it stands, before the machine goes down; None: it may."""
        if trouble := await self._sync_before(offer, "the reboot"):
            return trouble
        not_now = self.desk.still(offer, reboot=True)
        if not_now is None:
            with suppress(NixfleetError, TimeoutError):
                async with asyncio.timeout(TELL_S):
                    await self._reporter.deliver()
        return not_now

    async def _contact(self, offer: Offer) -> Event:
        """Try for a full signed sync over a new connection, until it works or the machine gives up."""
        while True:
            try:
                await self.link.sync(fresh=True)
            except NixfleetError as error:
                log.info("the coordinator is not reached yet: %s", error)
            else:
                return Contacted(by="coordinator")
            for url in self._runner.sources.others(offer):
                if await self._parts.cache_answers(url, CONTACT_S):
                    self.service.feed(Contacted(by="cache"))
                    break
            await asyncio.sleep(jittered(CONTACT_S))

    def _changed(self, before: State, after: State) -> None:
        """React to a durable change: tell it, look for the next update, make way for a new agent."""
        self._settle(after)
        old, new = before.update, after.update
        if new is not None and self._gives_way(old, new):
            # The journal says where to go on: only the agent of the system that runs now may judge it.
            self.replaced = True
            self.service.halt()
            self._stop.set()
        if new is None or (old is not None and _shown(old) == _shown(new)):
            return
        why = f": {new.reason}" if new.reason else ""
        log.info("%s %s%s", store_name(new.offer.path), new.phase.value, why)
        self._reporter.want()
        if new.phase in ENDED:
            self.desk.consider_soon()

    def _gives_way(self, old: Update | None, new: Update) -> bool:
        """Tell whether another agent than this one came with the system that was just switched to, or back to."""
        ahead = new.phase is Phase.CHECKING and (old is None or old.phase is not Phase.CHECKING)
        back = old is not None and old.phase is Phase.REVERTING and not old.settling
        moved = ahead or (back and (new.settling or new.phase in ENDED))
        supervised = self._parts.supervised and not self._once
        # One that systemd started during a switch, or after a reboot, may be the right one already.
        now = self._host.current_system()
        changes = self._parts.rescue or preflight.agent_changes(self._host, self._born_in, now)
        return supervised and moved and changes


def _shown(update: Update) -> tuple[object, ...]:
    """Give what of an update is worth a line and a report when it changes."""
    return update.phase, update.offer, update.number, update.reason
