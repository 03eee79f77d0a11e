"""Drives the console in a test: opens it on the made-up fleet, presses keys, reads the screen as text."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.tui.console_fleet import NOW
from tests.tui.console_ports import FakeActs, FakeAuthority, FakeSource, FakeVerifier, connect
from textual.pilot import Pilot
from textual.widgets import Input

from nixfleet.tui.app import ConsoleApp
from nixfleet.tui.desk import Desk, Options

DEADLINE_S = 20.0


class Driven:
    """An open console and what is behind it."""

    def __init__(self, app: ConsoleApp, pilot: Pilot[int], source: FakeSource, acts: FakeActs) -> None:
        self.app = app
        self.pilot = pilot
        self.source = source
        self.acts = acts

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, drawing meanwhile; fails after the deadline."""
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                await self.pilot.pause()
                self.app.flush()
                await asyncio.sleep(0)

    async def press(self, *keys: str) -> None:
        """Press keys, then let everything that follows from them happen."""
        for key in keys:
            await self.pilot.press(key)
        await self.rest()

    async def rest(self) -> None:
        """Wait until no task but the endless ones, and a preview that a test holds back, runs, and all is drawn."""
        endless = {"feed", "verify", *({"preview"} if self.acts.foresees.held is not None else ())}
        await self.until(lambda: all(worker.group in endless or worker.is_finished for worker in self.app.workers))
        self.app.flush()
        for field in self.app.screen.query(Input):
            field.cursor_blink = False
        await self.pilot.pause()

    @property
    def text(self) -> str:
        """The screen as text, without spaces at the ends of lines."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips) + "\n"


@asynccontextmanager
async def console(
    *,
    size: tuple[int, int] = (120, 40),
    source: FakeSource | None = None,
    acts: FakeActs | None = None,
    verifier: FakeVerifier | None = None,
    authority: FakeAuthority | None = None,
    options: Options | None = None,
) -> AsyncIterator[Driven]:
    """Open the console, headless, with everything loaded and verified."""
    source, acts, verifier = source or FakeSource(), acts or FakeActs(), verifier or FakeVerifier()
    desk = Desk(connect(source, acts, verifier, authority), options or Options(clock=lambda: NOW))
    app = ConsoleApp(desk)
    app.animation_level = "none"
    async with app.run_test(size=size, notifications=True) as pilot:
        driven = Driven(app, pilot, source, acts)
        await driven.until(lambda: desk.store.loaded and verifier.check.state != "checking" and source.listeners > 0)
        await driven.rest()
        yield driven
