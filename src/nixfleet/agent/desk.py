"""Decide what this device may begin, from what the link has verified, and say why nothing begins.

The shell around `agent.decide`: it holds the gates and lines that a decision takes, fetches a line that is wanted, and
looks again when a time has come. It must never act on an update, which is the machine's, nor accept a line unproven.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from pathlib import Path

from nixfleet.agent import decide, facts, pausing
from nixfleet.agent.ahead import SPREAD_S, Ahead
from nixfleet.agent.decide import Me, NeedLine, Proceed, Wait
from nixfleet.agent.link import Link, backoff_s, jittered
from nixfleet.agent.machine import BEFORE_SWITCH, ENDED
from nixfleet.agent.member import RETIRED, Member, Parts, note_waits
from nixfleet.agent.pausing import Pause
from nixfleet.agent.service import Service
from nixfleet.agent.update import Held, Nudged, Offer, Offered, Withdrawn
from nixfleet.errors import NixfleetError, Untrusted
from nixfleet.model.device import LocalPause, Phase
from nixfleet.model.ids import Digest
from nixfleet.model.statements import TargetLine, Targets
from nixfleet.model.wire import LineAnswer, Sync
from nixfleet.trust.lines import verify_absence, verify_line

log = logging.getLogger("nixfleet.agent")

LOOK_AGAIN_S = 3_600
TELL_ROOT_S = 20.0
"""Within so long each device that is there tells that it replayed a new root."""
LINES_HELD = 1_024
"""Releases whose line for this device, or the lack of one, is remembered."""


class Desk:
    """Where one device's updates are decided."""

    def __init__(
        self, parts: Parts, member: Member, link: Link, service: Service, ahead: Ahead, tell: Callable[[], None]
    ) -> None:
        """Prepare; `tell` asks for a report."""
        self._ahead = ahead
        self.waits = ""
        """Why nothing begins; empty when nothing is wanted."""
        self.paused: LocalPause | None = None
        """What reports say of the pause that root has set here, as last looked at."""
        self._pause: Pause | None = None
        self._noted = False
        self._begun = False
        self._parts, self._mirror, self._host = parts, parts.mirror, parts.host
        self._member, self._link, self._service, self._tell = member, link, service, tell
        self._root = self._root_version()
        self._closed = False
        self._considering = asyncio.Lock()
        self._gates: tuple[bytes, ...] = ()
        self._lines: dict[str, TargetLine | None] = {}
        self._lines_due: dict[str, int] = {}
        """When the line of a rollout with ``prefetch`` is asked for, by rollout."""
        self._line_failures = 0
        self._wake: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Decide nothing more."""
        self._closed = True
        if self._wake is not None:
            self._wake.cancel()
        for task in self._tasks:
            task.cancel()
        await self._ahead.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def synced(self, sync: Sync) -> None:
        """Look again at what is wanted, after each verified sync."""
        self._gates = sync.gates
        if sync.ask:
            self._tell()
        self._tell_of_root()
        if self._member.is_in():
            await self.consider()
        elif self._member.is_retired():
            self.note(RETIRED)

    def _tell_of_root(self) -> None:
        """Let a report say that another root is replayed: people wait for it before they leave what the old one named.

        Not at once: a whole fleet hears of a root in the same moment.
        """
        version = self._root_version()
        if version != self._root:
            self._root = version
            asyncio.get_running_loop().call_later(jittered(TELL_ROOT_S), self._tell)

    def _root_version(self) -> int:
        root = self._mirror.state.root
        return 0 if root is None else root.version

    async def consider(self) -> None:
        """Begin what the log wants of this device, or note why not; withdraw what it no longer wants."""
        async with self._considering:
            if self._closed:
                return
            if self._link.trouble:
                self.note(self._link.trouble)
                return
            pause = self._look_at_pause()
            self._reconsider()
            decision = await self._decide()
            if decision is None:
                return
            log.debug("decided: %s", decision)
            if pause is not None:
                decision = _paused(decision, pause[0], self._link.wall() + pause[1])
            if isinstance(decision, Proceed):
                if self._parts.by_hand and self._begun:
                    return  # a file does not get better by being read again
                self._begun = True
                await self._ahead.close()
                self._link.void = ""
                self.note("")
                boot_id = self._host.boot_id()
                self._service.feed(Offered(offer=decision.offer, boot_id=boot_id, refusal=decision.refusal))
            else:
                # What is downloaded ahead is not dropped for a pause, and goes on; nothing further begins.
                if not self._parts.by_hand and pause is None and (decision.ahead is not None or not self._under_way()):
                    await self._ahead.want(decision.ahead)
                self.note(decision.reason or self._link.void)
                self._look_again(decision.until_s)

    def _under_way(self) -> bool:
        update = self._service.state.update
        return update is not None and update.phase not in ENDED

    async def _decide(self) -> Proceed | Wait | None:
        """Decide, fetching the lines that it takes; None, with a note, when one cannot be had."""
        key = self._mirror.log_view.log_key
        gated = decide.gated(self._gates, key, self._mirror.fleet, self._parts.identity.device)
        for _ in range(LINES_HELD):
            decision = decide.decide(self._mirror.state, key, self._me(), self._service.state, self._gates, self._lines)
            if not isinstance(decision, NeedLine):
                return decision
            if not self._parts.by_hand and not gated and not self._line_ahead(decision.rollout):
                # Whether the rollout is for this device at all is not known, nor worth a request of every device.
                why = "the word that its wave is open does not hold" if self._gates else ""
                return decide.waits(self._mirror.state, Wait(reason=why))
            if not await self._learn_line(decision):
                return None
        return Wait(reason=f"more than {LINES_HELD} rollouts have no line for this device")

    def _line_ahead(self, rollout: str) -> bool:
        """Tell whether the line of a rollout that is to be downloaded ahead may be asked for; not by all at once."""
        if not self._mirror.state.rollouts[Digest(rollout)].statement.prefetch:
            return False
        now = self._link.wall()
        due_s = self._lines_due.setdefault(rollout, now + math.ceil(jittered(SPREAD_S)) - 1)
        if now < due_s:
            self._look_again(due_s)
        return now >= due_s

    def _reconsider(self) -> None:
        """Judge again an update that has changed nothing yet."""
        update = self._service.state.update
        if update is None or update.phase not in BEFORE_SWITCH | {Phase.REBOOT_PENDING}:
            return
        verdict = self.still(update.offer, reboot=update.phase is Phase.REBOOT_PENDING)
        held = update.phase in {Phase.STAGED, Phase.REBOOT_PENDING} and update.retry_s is not None
        if isinstance(verdict, Withdrawn):
            self._service.feed(verdict)
        elif verdict is None and held:
            self._service.feed(Nudged())

    def still(self, offer: Offer, *, reboot: bool = False) -> Held | Withdrawn | None:
        """Judge an update once more, or its `reboot`; None: go on."""
        judge = decide.still_boots if reboot else decide.still
        verdict = judge(self._mirror.state, self._me(), self._service.state, offer, self._lines)
        pause = self._look_at_pause()
        return Held(reason=pause[0].words) if verdict is None and pause is not None else verdict

    def _look_at_pause(self) -> tuple[Pause, int] | None:
        """Give the pause in force and how long it lasts; tell when one began, changed or ended."""
        pause = pausing.current(Path(self._parts.settings.state_dir), self._host, self._parts.clock)
        held = pause[0] if pause is not None else None
        if held != self._pause:
            self._pause = held
            self.paused = None
            if pause is not None:
                self.paused = LocalPause(until=self._link.signing_s() + pause[1], reason=pause[0].reason)
            log.info("%s", held.words if held is not None else "the pause is over")
            self._tell()
        return pause

    async def _learn_line(self, need: NeedLine) -> bool:
        """Fetch this device's own line of a release, or that there is none, proven; False, with a note, without proof.

        An answer that proves nothing is no "no": a coordinator that could hide a line would have an older rollout
        applied in place of the newer one (trust.md, Order).
        """
        record = self._mirror.state.releases.get(Digest(need.release))
        try:
            told = await self._link.client.line(need.rollout)
            line = _proven(told, record.statement.targets if record is not None else None, self._parts.identity.device)
        except NixfleetError as error:
            served = isinstance(error, Untrusted)
            what = "the line that the coordinator serves does not hold" if served else "its line could not be fetched"
            self.note(f"{what}: {error}")
            self._line_failures += 1
            self._look_again(self._link.wall() + math.ceil(backoff_s(self._line_failures)))
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
            wall_s=self._link.wall(),
            clock_late=self._parts.clock.wall() < self._mirror.state.last_time,
            orphan_s=self._parts.settings.orphan_s,
            by_hand=bool(self._parts.by_hand),
        )

    def note(self, reason: str) -> None:
        """Remember, and tell, why nothing begins."""
        if reason != self.waits or not self._noted:
            self._noted = True  # at first whatever there is: the note of an earlier run, or of asking to be enrolled
            note_waits(self._parts, reason)
        if reason == self.waits:
            return
        self.waits = reason
        if reason:
            log.info("waiting: %s", reason)
        self._tell()

    def _look_again(self, until_s: int | None) -> None:
        """Consider again when a time has come that no sync announces."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if until_s is not None:
            wait_s = min(max(until_s - self._link.wall(), 1), LOOK_AGAIN_S)
            self._wake = asyncio.get_running_loop().call_later(wait_s, self.consider_soon)

    def consider_soon(self) -> None:
        """Look in a task of its own."""
        if self._member.is_in() and not self._closed:
            task = asyncio.create_task(self.consider(), name="consider")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def _paused(decision: Proceed | Wait, pause: Pause, end_s: int) -> Wait:
    """Let nothing begin during a pause, and look again when it ends."""
    if isinstance(decision, Proceed):
        return Wait(reason=pause.words, until_s=end_s)
    return Wait(reason=decision.reason, until_s=end_s if decision.until_s is None else min(decision.until_s, end_s))


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
