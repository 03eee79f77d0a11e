"""The agent put together: log, decision, machine, runner and reports around one device.

It decides nothing itself and starts no process; see `decide`, `machine` and `runner`. Nothing here may raise because
a coordinator, a network or a cache misbehaves.
"""

import asyncio
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from nixfleet.agent import decide, facts, health, preflight
from nixfleet.agent.decide import Me, NeedLine, Proceed, Wait
from nixfleet.agent.link import Link, backoff_s, jittered
from nixfleet.agent.machine import BEFORE_SWITCH, ENDED
from nixfleet.agent.member import Member, Parts
from nixfleet.agent.reporter import Reporter, Ticker
from nixfleet.agent.runner import Runner
from nixfleet.agent.service import Service
from nixfleet.agent.update import (
    Contact,
    Contacted,
    Effect,
    Event,
    Nudged,
    Offer,
    Offered,
    Ready,
    Restarted,
    Stage,
    State,
    Trouble,
    Update,
    Withdrawn,
)
from nixfleet.errors import NixfleetError, Unreachable, Untrusted
from nixfleet.model.device import SHORT_CHARS, Attempt, Cause, Facts, Outcome, Phase, Progress, Report
from nixfleet.model.ids import PROTOCOL, Digest, store_name
from nixfleet.model.statements import TargetLine, Targets
from nixfleet.model.wire import LineAnswer, Signed, Sync
from nixfleet.trust.lines import verify_absence, verify_line
from nixfleet.trust.reports import sign_report

log = logging.getLogger("nixfleet.agent")

CONTACT_S = 5.0
LOOK_AGAIN_S = 3_600
LINES_HELD = 1_024
"""Releases whose line for this device, or the lack of one, is remembered."""


class Agent:
    """One device's agent; `run` keeps it going until it is told to stop."""

    def __init__(self, parts: Parts) -> None:
        self.waits = ""
        """Why nothing begins; empty when nothing is wanted."""
        self.replaced = False
        """The system that runs now has another agent, which has to finish the update."""
        self._parts = parts
        self._settings, self._host, self._mirror = parts.settings, parts.host, parts.mirror
        self._once = False
        self._stop = asyncio.Event()
        self._settled = asyncio.Event()
        self._admitted = asyncio.Event()
        self._considering = asyncio.Lock()
        self._gates: tuple[bytes, ...] = ()
        self._lines: dict[str, TargetLine | None] = {}
        self._line_failures = 0
        self._member = Member(parts)
        self._told: Facts | None = None
        self._nix_version = ""
        self._wake: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker = Ticker(self._send_progress, lines=parts.settings.report_lines)
        self._reporter = Reporter(lambda: self.service, self._make_report, self._send_report)
        self.link = Link(
            mirror=parts.mirror,
            urls=(*parts.settings.urls, *parts.identity.urls),
            clock=parts.clock.wall,
            poll_s=parts.settings.poll_s,
            key=self._member.request_key,
            admit=self._admit,
            synced=self._synced,
            distrusted=lambda: self._note(self.link.trouble),
            make_client=parts.make_client,
        )
        self._runner = Runner(
            host=parts.host,
            store=parts.store,
            settings=parts.settings,
            watcher=self._ticker,
            cache_base=lambda: self.link.base_url,
            names=self._member.names,
        )
        self.service = Service(parts.journal, self._perform, parts.clock, self._changed)

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

    async def _start(self) -> None:
        try:
            self._nix_version = ".".join(map(str, await self._parts.store.version()))
        except NixfleetError as error:
            log.warning("%s", error)
        host = self._host
        self.service.start(Restarted(boot_id=host.boot_id(), current=host.current_system()))
        self._settle(self.service.state)

    async def _end(self, running: Sequence[asyncio.Task[object]] | Sequence[asyncio.Task[None]]) -> None:
        if self._wake is not None:
            self._wake.cancel()
        await self.service.close()
        for task in (*running, *self._tasks):
            task.cancel()
        await asyncio.gather(*running, *self._tasks, return_exceptions=True)
        await self.link.close()

    def _settle(self, state: State) -> None:
        """Note whether an update is under way."""
        if state.update is None or state.update.phase in {*ENDED, Phase.REBOOT_PENDING}:
            self._settled.set()
        else:
            self._settled.clear()

    async def _admit(self, link: Link) -> None:
        """Become a member first; from then on there is somebody to report to."""
        await self._member.admit(link, facts.gather(self._host, self._nix_version), once=self._once)
        self._admitted.set()
        self._reporter.want()

    # Decisions

    async def _synced(self, sync: Sync) -> None:
        """Look again at what is wanted, after each verified sync."""
        self._gates = sync.gates
        if sync.ask:
            self._reporter.want()
        if self._member.is_in():
            await self.consider()

    async def consider(self) -> None:
        """Begin what the log wants of this device, or note why not; withdraw what it no longer wants."""
        async with self._considering:
            if self.link.trouble:
                self._note(self.link.trouble)
                return
            self._reconsider()
            decision = await self._decide()
            if decision is None:
                return
            log.debug("decided: %s", decision)
            if isinstance(decision, Proceed):
                self.link.void = ""
                self._note("")
                boot_id = self._host.boot_id()
                self.service.feed(Offered(offer=decision.offer, boot_id=boot_id, refusal=decision.refusal))
            else:
                self._note(decision.reason or self.link.void)
                self._look_again(decision.until_s)

    async def _decide(self) -> Proceed | Wait | None:
        """Decide, fetching the lines that it takes; None, with a note, when one cannot be had."""
        key = self._mirror.log_view.log_key
        gated = decide.gated(self._gates, key, self._mirror.fleet, self._parts.identity.device)
        for _ in range(LINES_HELD):
            decision = decide.decide(self._mirror.state, key, self._me(), self.service.state, self._gates, self._lines)
            if not isinstance(decision, NeedLine):
                return decision
            if not gated:
                # Whether the rollout is for this device at all is not known, nor worth a request of every device.
                return Wait(reason="the word that its wave is open does not hold" if self._gates else "")
            if not await self._learn_line(decision):
                return None
        return Wait(reason=f"more than {LINES_HELD} rollouts have no line for this device")

    def _reconsider(self) -> None:
        """Judge again an update that has changed nothing yet."""
        update = self.service.state.update
        if update is None or update.phase not in BEFORE_SWITCH:
            return
        verdict = decide.still(self._mirror.state, self._me(), self.service.state, update.offer, self._lines)
        if isinstance(verdict, Withdrawn):
            self.service.feed(verdict)
        elif verdict is None and update.phase is Phase.STAGED and update.retry_s is not None:
            self.service.feed(Nudged())

    async def _learn_line(self, need: NeedLine) -> bool:
        """Fetch this device's own line of a release, or that there is none, proven; False, with a note, without proof.

        An answer that proves nothing is no "no": a coordinator that could hide a line would have an older rollout
        applied in place of the newer one (trust.md, Order).
        """
        record = self._mirror.state.releases.get(Digest(need.release))
        try:
            told = await self.link.client.line(need.rollout)
            line = _proven(told, record.statement.targets if record is not None else None, self._parts.identity.device)
        except NixfleetError as error:
            served = isinstance(error, Untrusted)
            what = "the line that the coordinator serves does not hold" if served else "its line could not be fetched"
            self._note(f"{what}: {error}")
            self._line_failures += 1
            self._look_again(self.link.wall() + math.ceil(backoff_s(self._line_failures)))
            return False
        self._line_failures = 0
        while len(self._lines) >= LINES_HELD:
            self._lines.pop(next(iter(self._lines)))
        self._lines[need.release] = line
        log.debug("the line of release %s: %s", need.release[:12], line)
        return True

    def _me(self) -> Me:
        return Me(
            device=self._parts.identity.device,
            timezone=facts.timezone(self._host),
            wall_s=self.link.wall(),
            orphan_s=self._settings.orphan_s,
        )

    def _note(self, reason: str) -> None:
        """Remember, and tell, why nothing begins."""
        if reason == self.waits:
            return
        self.waits = reason
        if reason:
            log.info("waiting: %s", reason)
        try:
            (Path(self._settings.state_dir) / "waits").write_text(reason)
        except OSError as error:
            log.debug("%s", error)
        self._reporter.want()

    def _look_again(self, until_s: int | None) -> None:
        """Consider again when a time has come that no sync announces."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if until_s is not None:
            wait_s = min(max(until_s - self.link.wall(), 1), LOOK_AGAIN_S)
            self._wake = asyncio.get_running_loop().call_later(wait_s, self._consider_soon)

    def _consider_soon(self) -> None:
        if self._member.is_in():
            task = asyncio.create_task(self.consider(), name="consider")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # The machine's world

    async def _perform(self, effect: Effect) -> Event | None:
        if isinstance(effect, Contact):
            return await self._contact(effect.offer)
        answer = await self._runner.perform(effect)
        if isinstance(effect, Stage) and isinstance(answer, Ready):
            return await self._ask_once_more(effect.offer, answer)
        return answer

    async def _ask_once_more(self, offer: Offer, ready: Ready) -> Event:
        """Sync again right before the switch: revoked meanwhile? (trust.md, What a device does, 6)."""
        try:
            await self.link.sync()
        except NixfleetError as error:
            # `none` does without a coordinator that is silent, never without one that shows another log.
            if offer.contact != "none" or not isinstance(error, Unreachable):
                return Trouble(cause=Cause.NETWORK, reason=f"no sync before the switch: {error}", later=True)
        if self.link.trouble:
            return Trouble(cause=Cause.NETWORK, reason=self.link.trouble, later=True)
        return decide.still(self._mirror.state, self._me(), self.service.state, offer, self._lines) or ready

    async def _contact(self, offer: Offer) -> Event:
        """Try for a full signed sync over a new connection, until it works or the machine gives up."""
        while True:
            try:
                await self.link.sync(fresh=True)
            except NixfleetError as error:
                log.info("the coordinator is not reached yet: %s", error)
            else:
                return Contacted(by="coordinator")
            others = [cache.url for cache in offer.caches if cache.url.startswith("http")]
            for url in others:
                if await asyncio.to_thread(health.answers, f"{url.rstrip('/')}/nix-cache-info", CONTACT_S) == 200:
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
            self._consider_soon()

    def _gives_way(self, old: Update | None, new: Update) -> bool:
        """Tell whether another agent than this one came with the system that was just switched to, or back to."""
        back = old is not None and old.phase is Phase.REVERTING and not old.settling
        moved = new.phase is Phase.CHECKING or (back and (new.settling or new.phase in ENDED))
        supervised = self._parts.supervised and not self._once
        return supervised and moved and preflight.agent_changes(self._host, new.previous, new.offer.path)

    # Reports

    async def _report_for_ever(self) -> None:
        await self._admitted.wait()
        await self._reporter.run()

    async def _make_report(self, attempt: Attempt | None) -> Signed:
        parts, host = self._parts, self._host
        failed = await health.failed_units(host, self._runner.run_tool)
        update = self.service.state.update
        baseline = update.baseline if update is not None else ()
        new = [unit for unit in failed if unit not in baseline]
        told = facts.gather(host, self._nix_version)
        report = Report(
            v=1,
            fleet=parts.identity.fleet,
            device=parts.identity.device,
            seq=parts.journal.next_seq(),
            at=self.link.signing_s(),
            log=self._mirror.log_state,
            protocol=PROTOCOL,
            boot_id=host.boot_id(),
            system=host.current_system()[:SHORT_CHARS],
            booted=host.booted_system()[:SHORT_CHARS],
            healthy=not new,
            note=(f"failed units: {', '.join(new)}" if new else self.waits)[:SHORT_CHARS],
            attempt=attempt,
            facts=None if _same(told, self._told) else told,
        )
        return sign_report(report, parts.key)

    async def _send_report(self, signed: Signed) -> None:
        await self.link.send_report(signed)
        self._told = facts.gather(self._host, self._nix_version)

    async def _send_progress(self, progress: Progress) -> None:
        await self.link.client.progress(progress)


def _proven(told: LineAnswer, targets: Targets | None, device: str) -> TargetLine | None:
    """Read a device's own line; None when it is proven that there is none. Raises: Untrusted."""
    if targets is None:
        raise Untrusted("the release has no device lines")
    if told.line is not None:
        return verify_line(told.line, targets, device)
    if told.absence is None:
        raise Untrusted("it is neither a line nor a proof that there is none")
    verify_absence(told.absence, targets, device)
    return None


def _shown(update: Update) -> tuple[object, ...]:
    """Give what of an update is worth a line and a report when it changes."""
    return update.phase, update.offer, update.number, update.reason


def _same(told: Facts, before: Facts | None) -> bool:
    """Tell whether facts are old news; free space always changes a little."""
    return before is not None and told == msgspec.structs.replace(before, store_free_bytes=told.store_free_bytes)
