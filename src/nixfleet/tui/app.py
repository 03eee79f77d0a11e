"""The console's application: modes, timers, signals, dialogs. It reads the store and never the API itself.

`run` is the entry point. Everything that needs the network starts after the first paint.
"""

import asyncio
import functools
import time
from typing import ClassVar

from textual import on, work
from textual.command import CommandPalette
from textual.driver import Driver
from textual.worker import Worker, WorkerState

from nixfleet.errors import NixfleetError
from nixfleet.tui.alarm import Halts, desktop_note, halted_words
from nixfleet.tui.changing import Changing
from nixfleet.tui.confirm import Confirm
from nixfleet.tui.desk import Desk, Options
from nixfleet.tui.driver import PatientDriver
from nixfleet.tui.help import ActionProvider, help_lines
from nixfleet.tui.lending import Lender, default_pager
from nixfleet.tui.logs import log_to_file
from nixfleet.tui.ports import Connect
from nixfleet.tui.screens.audit import AuditScreen, EntryScreen
from nixfleet.tui.screens.base import ConsoleScreen, OpenPage
from nixfleet.tui.screens.pages import PAGES, VIEWS
from nixfleet.tui.themes import FALLBACKS, THEMES
from nixfleet.tui.view.text import Span
from nixfleet.tui.widgets.dialogs import ConfirmDialog, PageDialog

SETTLE_S = 1.0
"""Order is mended at most this often."""
OLDER_S = 30.0
"""Ages are drawn again this often; they go in steps of a minute and more."""
RETRY_S = 5.0


class ConsoleApp(Changing, inherit_bindings=False):
    """The console."""

    TITLE = "nixfleet"
    CSS_PATH = "nixfleet.tcss"
    COMMANDS: ClassVar = {ActionProvider}
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"

    def __init__(self, desk: Desk, driver_class: type[Driver] | None = None) -> None:
        super().__init__(desk, driver_class=driver_class)
        self._settled_at = 0.0
        self._halts = Halts()
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = desk.options.theme
        for name, make in VIEWS.items():
            self.add_mode(name, functools.partial(make, desk))
        if desk.options.keys:
            self.set_keymap(dict(desk.options.keys))

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Give the colours that only our themes name."""
        return dict(FALLBACKS)

    async def on_mount(self) -> None:
        """Show the first view; ask the network only once it is painted."""
        first = self.desk.options.view
        await self.switch_mode(first if first in VIEWS else "devices")
        self._lender = Lender(self, self._chrome)
        self._lender.mind_signals()
        if self.desk.options.foreground is not None:
            self.desk.options.foreground.taken_by(self._lender)
        self.call_after_refresh(self._start)

    def _start(self) -> None:
        if self.desk.options.welcome:
            self.push_screen(PageDialog("Welcome", self.desk.options.welcome))
        self._read()
        self._verify()
        self.set_interval(1 / max(1, min(10, self.desk.options.refresh_hz)), self.flush)
        self.set_interval(SETTLE_S, self._chrome)
        self.set_interval(OLDER_S, self._older)

    # Reading

    @work(exclusive=True, exit_on_error=False, group="feed", name="reading from the coordinator")
    async def _read(self) -> None:
        await self.desk.feed.run()

    @work(exclusive=True, exit_on_error=False, group="verify", name="replaying the log")
    async def _verify(self) -> None:
        await self.desk.feed.verify()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Tell of a task that broke; it does not close the app, and reading starts again."""
        if event.state is WorkerState.ERROR:
            self.desk.calls.note(event.worker.name, repr(event.worker.error), failed=True)
            self.notify(f"{event.worker.name.capitalize()} broke off; @ has the details.", severity="error")
            again = {"feed": self._read, "verify": self._verify}.get(event.worker.group)
            if again is not None:
                self.set_timer(RETRY_S, again)

    def flush(self) -> None:
        """Draw what changed, unless paused or the terminal still has to take what was written before."""
        self._ring()
        if self.desk.paused or self._busy or not self._open:
            return
        calm = isinstance(self.screen_stack[-1], ConsoleScreen)
        now = time.monotonic()
        settle = calm and now - self._settled_at >= SETTLE_S
        if settle:
            self._settled_at = now
        changes = self.desk.store.take_changes()
        if changes or settle:
            self.shown.take_in(changes, settle)
        if changes:
            self.shown.refresh_chrome()

    @property
    def _busy(self) -> bool:
        return isinstance(self._driver, PatientDriver) and self._driver.waiting_writes > 0

    def _ring(self) -> None:
        """Ring for each rollout that has halted since, also while the view is held still."""
        if not self.desk.store.loaded:
            return
        for rollout in self._halts.fresh(self.desk.store.rollouts):
            said = halted_words(rollout)
            self.bell()
            if self._driver is not None and not self._driver.is_headless:
                self._driver.write(desktop_note(said))
            self.notify(f"{said}.", severity="error", timeout=15)

    def _chrome(self) -> None:
        if self._open and not self._busy:
            self.shown.refresh_chrome()

    def _older(self) -> None:
        if self._open:
            self.shown.grow_older()

    @property
    def _open(self) -> bool:
        """Tell whether there is a screen to draw on: while one opens, or the app ends, timers may find none."""
        ours = any(isinstance(screen, ConsoleScreen) for screen in self.screen_stack)
        return self.is_running and ours and self.shown.complete

    @property
    def shown(self) -> ConsoleScreen:
        """The screen of ours that is on top, under whatever dialog."""
        return next(screen for screen in reversed(self.screen_stack) if isinstance(screen, ConsoleScreen))

    # Moving about

    async def action_view(self, name: str) -> None:
        """Go to a view; pressed again, back to its top."""
        if self.current_mode == name:
            while len(self.screen_stack) > 1:
                await self.pop_screen()
        else:
            await self.switch_mode(name)

    def on_open_page(self, event: OpenPage) -> None:
        """Open a record's page over what is shown."""
        self.push_screen(PAGES[event.page](self.desk, event.key))

    def action_up(self) -> None:
        """Go up one level."""
        if len(self.screen_stack) > 1:
            self.pop_screen()

    def action_leave(self) -> None:
        """Quit; asks when that would stop something."""
        why = self.desk.options.before_quit(self.desk.store.under_way)
        if not why:
            self.exit(0)
            return
        confirm = Confirm(title="Quit?", lines=((Span(why),),), level="yes", verb="quit")
        self.push_screen(ConfirmDialog(confirm), lambda yes: self.exit(0) if yes else None)

    def action_suspend(self) -> None:
        """Go back to the shell for a while, unless something here has to go on."""
        if self.desk.options.stays:
            self.notify(self.desk.options.stays, severity="warning", timeout=4)
        else:
            self.action_suspend_process()

    @on(Driver.SignalResume)
    def _paint_again(self) -> None:
        """Paint everything: the shell had the screen, and Textual draws only what has changed since."""
        self.refresh(layout=True)

    def action_pause(self) -> None:
        """Hold the view still, or let it go on."""
        self.desk.paused = not self.desk.paused
        self.shown.refresh_chrome()
        self.flush()

    def action_resnapshot(self) -> None:
        """Read everything again."""
        if self.desk.options.foreground is not None:
            self.desk.options.foreground.ask_again()
        self._read()

    def action_copy(self) -> None:
        """Copy what is chosen to the terminal's clipboard (OSC 52)."""
        text = self.shown.copy_text()
        if text:
            self.copy_to_clipboard(text)
            lines = text.count("\n") + 1
            self.notify("Copied." if lines == 1 else f"Copied {lines} lines.", timeout=2)

    def action_pager(self) -> None:
        """Read the page, or the whole table, in the person's own pager."""
        text = self.shown.page_text()
        if not text:
            return
        if not self._lender.show(self.desk.options.pager or default_pager, text + "\n"):
            self.notify("A pager needs a terminal of its own.", severity="warning", timeout=4)

    def action_help(self) -> None:
        """Show the keys of this pane."""
        self.push_screen(PageDialog("Keys", help_lines(self.shown.scope, self.desk.options.keys)))

    def action_command_palette(self) -> None:
        """Open the palette."""
        if not isinstance(self.screen, CommandPalette):
            self.push_screen(CommandPalette(placeholder="What do you want to do?"))

    def action_calls(self) -> None:
        """Show every API call and its command line."""
        clock = "%H:%M:%S"
        lines = self.desk.calls.lines(lambda at: time.strftime(clock, time.gmtime(at)))
        self.push_screen(PageDialog("Command log (UTC)", lines, end=True))

    @work(exit_on_error=False, name="export")
    async def action_export(self) -> None:
        """Write the chosen entry to files."""
        screen = self.shown
        index = screen.export_index() if isinstance(screen, AuditScreen | EntryScreen) else None
        if index is None:
            return
        try:
            said = await self.desk.calls.run(
                f"export entry {index}", f"nixfleet audit show {index} --out .", self.desk.verifier.export(index)
            )
        except NixfleetError as error:
            self.notify(str(error), severity="error")
        else:
            self.notify(said)


def run(connect: Connect, *, options: Options) -> int:
    """Run the console until the person leaves; gives the exit code (128 + n when signal n ended it)."""
    return asyncio.run(run_async(connect, options=options))


async def run_async(connect: Connect, *, options: Options) -> int:
    """Run the console in the loop that its ports belong to; as `run`."""
    with log_to_file(options.log_file):
        app = ConsoleApp(Desk(connect, options), driver_class=PatientDriver)
        try:
            result = await app.run_async(mouse=options.mouse)
        finally:
            if options.foreground is not None:
                options.foreground.given_back()
    return result if result is not None else app.return_code or 0
