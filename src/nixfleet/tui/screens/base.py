"""What all screens share: header, footer, the line for queries, and how changes reach them."""

from collections.abc import Callable
from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.worker import Worker, WorkerState

from nixfleet.tui.desk import Desk
from nixfleet.tui.intents import Scene, refusal
from nixfleet.tui.keys import Scope, bindings, footer, key_name
from nixfleet.tui.store import Changes
from nixfleet.tui.view.chrome import Chrome, header
from nixfleet.tui.view.log import alarm, distrust
from nixfleet.tui.view.text import Line, Span, plain
from nixfleet.tui.widgets.chrome import Footer, LinesPanel, Prompt, TooSmall
from nixfleet.tui.widgets.fleet_table import FleetTable
from nixfleet.tui.widgets.lines import LineView

VIEWS: tuple[tuple[str, str], ...] = (
    ("devices", "Devices"),
    ("rollouts", "Rollouts"),
    ("enroll", "Enroll"),
    ("audit", "Audit"),
    ("releases", "Releases"),
    ("access", "Access"),
)
SMALLEST = (80, 20)


Page = Literal["device", "rollout", "release", "entry", "right", "witnesses", "refused", "diff", "change"]


class OpenPage(Message):
    """A record's page is wanted. Screens lead to one another by this, and never import one another."""

    def __init__(self, page: Page, key: str) -> None:
        super().__init__()
        self.page: Page = page
        self.key = key


class ConsoleScreen(Screen[None]):
    """A screen of the console: `scope` names its keys, `view` the tab it belongs to."""

    scope: ClassVar[Scope]
    view: ClassVar[str]
    BINDINGS = bindings("app")

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self._kept = ""

    def compose(self) -> ComposeResult:
        """Lay out what every screen has."""
        yield LinesPanel(self._header, id="header")
        yield LinesPanel(self._alarm, id="alarm")
        yield from self.body()
        yield Prompt()
        yield Footer(self._footer)
        yield TooSmall(id="too-small")

    def body(self) -> ComposeResult:
        """Give the widgets between header and footer."""
        raise NotImplementedError

    # What changes

    def take_in(self, changes: Changes, settle: bool, /) -> None:
        """Take in what changed in the store; order is mended only when `settle` says so."""
        raise NotImplementedError

    def on_screen_resume(self) -> None:
        """Catch up with what happened while another screen was shown."""
        if self.complete:
            self._catch_up()

    @property
    def complete(self) -> bool:
        """Whether every widget is there; before that there is nothing to bring up to date."""
        return self.is_mounted and all(widget.is_mounted for widget in self.walk_children(Widget))

    def _catch_up(self) -> None:
        self.take_in(Changes(everything=True), True)
        self.refresh_chrome()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Tell of a task that broke, and go on (console.md: it must not close the app)."""
        if event.state is WorkerState.ERROR:
            self.desk.calls.note(event.worker.name, repr(event.worker.error), failed=True)
            self.notify("Something went wrong here; @ has the details.", severity="error")

    def refresh_chrome(self) -> None:
        """Draw header and footer again."""
        self.query_one("#header", LinesPanel).redraw()
        self.query_one("#alarm", LinesPanel).redraw(layout=True)
        self.query_one("#footer", Footer).redraw()

    def grow_older(self) -> None:
        """Draw what shows an age again."""
        for table in self.query(FleetTable):
            table.refresh()

    def on_resize(self) -> None:
        """Ask for a larger terminal when there is no room to work in."""
        width, height = self.app.size
        self.set_class(width < SMALLEST[0] or height < SMALLEST[1], "-small")
        self.set_class(width >= 140, "-wide")  # a summary beside the devices
        self.set_class(height >= 30, "-tall")  # the waves under the rollouts

    # What is chosen

    def scene(self) -> Scene:
        """Give what the actions of this screen would act on."""
        return self.scene_of()

    def scene_of(
        self,
        *,
        devices: tuple[str, ...] = (),
        rollout: str = "",
        requests: tuple[str, ...] = (),
        release: str = "",
        right: str = "",
        members: tuple[str, ...] = (),
    ) -> Scene:
        """Make a scene of what is chosen."""
        return Scene(
            store=self.desk.store,
            identity=self.desk.identity,
            now=self.desk.clock(),
            live=self.desk.live,
            distrust=distrust(self.desk.feed.check),
            devices=devices,
            rollout=rollout,
            members=members,
            requests=requests,
            release=release,
            standing=self.desk.standing,
            right=right,
        )

    @property
    def target(self) -> str:
        """Name what the actions of this screen would act on; empty when nothing is chosen."""
        return self.scene().target

    def copy_text(self) -> str:
        """Give what `y` copies."""
        return ""

    def page_text(self) -> str:
        """Give what `o` shows: the whole text, or the whole table at the width it has."""
        for lines in self.query(LineView):
            return plain(lines.all_lines)
        for table in self.query(FleetTable):
            return plain(table.all_lines())
        return ""

    # The line for queries

    def action_ask(self, mode: str) -> None:
        """Open the line one types into."""
        self._kept = self.asked(mode)
        self.query_one(Prompt).open(mode, self._kept)

    def asked(self, mode: str, /) -> str:
        """Give the text that is in force now."""
        lines = self.query(LineView)
        if lines:
            return lines.first().wanted if mode == "find" else lines.first().only
        return ""

    def answer(self, mode: str, text: str, /) -> bool:
        """Take the text in force; false when it cannot be read. Screens with a table filter by it."""
        for lines in self.query(LineView):
            if mode == "find":
                lines.find(text)
                self.query_one(Prompt).say(f"{lines.hits} found" if text else "")
            else:
                lines.filter(text)
        return True

    def on_prompt_changed(self, event: Prompt.Changed) -> None:
        """Apply it while it is typed."""
        event.stop()
        self.answer(event.mode, self.while_typed(event.text))

    def on_prompt_closed(self, event: Prompt.Closed) -> None:
        """Keep it, or go back to what was in force; what cannot be read stays to be mended."""
        event.stop()
        prompt = self.query_one(Prompt)
        if event.kept and not self.answer(event.mode, prompt.text):
            return
        if not event.kept:
            self.answer(event.mode, self._kept)
        prompt.close()
        self.focus_main()

    def while_typed(self, text: str) -> str:
        """Give the part of a text that is whole while it is being typed."""
        return text

    def focus_main(self) -> None:
        """Give the keys back to what the screen is about."""
        for widget in self.query("FleetTable, LineView"):
            if widget.display:
                widget.focus()
                return

    def action_open_page(self, page: Page) -> None:
        """Open a page that is about everything."""
        self.post_message(OpenPage(page, ""))

    def action_open_here(self) -> None:
        """Open what the cursor is on."""
        for table in self.query(FleetTable):
            table.action_open()

    # Drawing

    def _header(self, cells: int) -> list[Line]:
        desk = self.desk
        sizes: dict[str, Callable[[], int | None]] = {
            "devices": lambda: len(desk.store.devices),
            "rollouts": lambda: len(desk.store.rollouts),
            "enroll": lambda: len(desk.store.requests),
            "audit": lambda: None,
            "releases": lambda: None,
            "access": lambda: len(desk.access.pending) or None,
        }
        chrome = Chrome(
            fleet=desk.store.fleet,
            identity=desk.identity,
            link=desk.feed.link,
            check=desk.feed.check,
            counts=desk.store.counts,
            tabs=[(key, label, sizes[key]() if desk.store.loaded else None) for key, label in VIEWS],
            active=self.view,
            paused=desk.paused,
            context=desk.options.context,
            mark=desk.options.mark,
            waits=desk.options.foreground.waits if desk.options.foreground is not None else "",
        )
        return header(chrome, desk.clock(), cells)

    def _alarm(self, cells: int) -> list[Line]:
        """Say on every screen that the log is not to be trusted, and what to do."""
        lines = alarm(self.desk.feed.check, self.desk.store.forked, cells - 3)
        return [(Span("▌", "bad"), Span(" "), *line) for line in lines]

    def _footer(self) -> list[tuple[str, str, bool]]:
        scene = self.scene()
        return [
            (
                key_name(self.desk.options.keys.get(key.id, key.key).split(",")[0]),
                key.label,
                not key.mutates or not refusal(key.id, scene),
            )
            for key in footer(self.scope)
        ]
