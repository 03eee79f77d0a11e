"""The shell around the update machine: journal first, then perform, then feed the answer back.

One effect runs at a time, on one event loop. It must never perform an effect whose state is not durable, and never
decide: `agent.machine` does.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from nixfleet.agent import machine
from nixfleet.agent.journal import Journal
from nixfleet.agent.update import Effect, Event, Restarted, State, Tick, Trouble
from nixfleet.errors import UserError
from nixfleet.model.device import Cause

log = logging.getLogger("nixfleet.agent")

WRITE_RETRY_S = 5.0

Perform = Callable[[Effect], Awaitable[Event | None]]


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """The clocks of the device: `wall` in unix seconds, `boot` in seconds awake since boot (CLOCK_MONOTONIC)."""

    wall: Callable[[], int]
    boot: Callable[[], int]


class Service:
    """Runs the update machine; `close` lets go of it without harm."""

    def __init__(
        self, journal: Journal, perform: Perform, clock: Clock, changed: Callable[[State, State], None]
    ) -> None:
        """Prepare; `changed` is called with the old and the new state after each durable change."""
        self._journal = journal
        self._perform = perform
        self._clock = clock
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._generation = 0
        self._halted = False
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None

    @property
    def state(self) -> State:
        """The state as last made durable."""
        return self._journal.state

    def start(self, event: Restarted) -> None:
        """Go on where the journal stopped."""
        self.feed(event)

    def feed(self, event: Event) -> None:
        """Take an event: make the new state durable, then begin its effect; a full disk delays both."""
        if self._halted:
            return
        before = self._journal.state
        after, effects = machine.step(before, event, self._clock.boot())
        try:
            self._journal.write(after)
        except UserError as error:
            log.warning("nothing is done until the journal can be written: %s", error)
            self._feed_later(event)
            return
        if after != before:
            self._changed(before, after)
        if self._halted:
            return
        for effect in effects:
            self._begin(effect)
        self._set_timer()

    def halt(self) -> None:
        """Take and begin nothing more: where the journal stands, the next agent goes on."""
        self._halted = True

    async def close(self) -> None:
        """Stop the running effect; a switch that was started goes on by itself."""
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        self._generation += 1
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def idle(self) -> None:
        """Wait until no effect is running; it may still wait for time or for the coordinator."""
        while (task := self._task) is not None and not task.done():
            await asyncio.wait([task])

    def _feed_later(self, event: Event) -> None:
        """Feed the event again, unless another effect has begun by then and the event answers an old one."""
        generation = self._generation
        loop = asyncio.get_running_loop()
        self._retry = loop.call_later(WRITE_RETRY_S, lambda: self._answer(generation, event))

    def _begin(self, effect: Effect) -> None:
        self._generation += 1
        before = self._task if self._task is not asyncio.current_task() else None
        self._task = asyncio.create_task(self._do(effect, self._generation, before), name=type(effect).__name__)

    async def _do(self, effect: Effect, generation: int, before: asyncio.Task[None] | None) -> None:
        """Perform an effect once the one before it is gone, and feed its answer."""
        if before is not None and not before.done():
            # A superseded download must have let go of the store before the next effect touches it.
            before.cancel()
            await asyncio.wait([before])
        try:
            answer = await self._perform(effect)
        except Exception as error:
            # Whatever went wrong, the device must go on: back, or to an outcome.
            log.exception("%s failed", type(effect).__name__)
            answer = Trouble(cause=Cause.INTERNAL, reason=f"{type(effect).__name__} failed: {error}"[:200])
        if answer is not None:
            self._answer(generation, answer)

    def _answer(self, generation: int, answer: Event) -> None:
        if generation == self._generation:
            self.feed(answer)

    def _set_timer(self) -> None:
        """Wake for the machine's next deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = machine.wake_at(self._journal.state)
        if at is not None:
            wait_s = max(at - self._clock.boot(), 0)
            # The boot clock counts whole seconds: a little later is surely not too early.
            self._timer = asyncio.get_running_loop().call_later(wait_s + 0.05, lambda: self.feed(Tick()))
