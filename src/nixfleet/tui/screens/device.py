"""One device: what it runs and should run, why not yet, its live log, its history, its facts."""

from collections.abc import Sequence

from textual import work
from textual.app import ComposeResult
from textual.css.query import NoMatches

from nixfleet.errors import NixfleetError
from nixfleet.model.text import clean
from nixfleet.model.views import DeviceView
from nixfleet.tui.desk import Desk
from nixfleet.tui.intents import Scene
from nixfleet.tui.keys import bindings
from nixfleet.tui.ports import AttemptView
from nixfleet.tui.screens.base import ConsoleScreen, OpenPage
from nixfleet.tui.store import Changes
from nixfleet.tui.view import devices as view
from nixfleet.tui.view.text import Line, Role, Span, fit, joined, pairs, plain, store_short
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.lines import LineView

TWO_COLUMNS = 110
"""Cells from which the facts stand beside the systems."""
TABS: tuple[tuple[str, str], ...] = (("log", "Log"), ("history", "History"), ("facts", "Facts"))
_OUTCOMES: dict[str, tuple[str, Role]] = {
    "confirmed": ("●", "ok"),
    "reverted": ("↺", "bad"),
    "failed": ("✗", "bad"),
    "refused": ("⊘", "bad"),
}


class DeviceScreen(ConsoleScreen):
    """A device, live."""

    scope = "device"
    view = "devices"
    BINDINGS = bindings("device")

    def __init__(self, desk: Desk, device: str) -> None:
        super().__init__(desk)
        self._key = device
        self._tab = "log"
        self._history: Sequence[AttemptView] | None = None
        self._trouble = ""

    def body(self) -> ComposeResult:
        """Give the head, the tabs and the lines under them."""
        yield LinesPanel(self._head, id="head")
        yield LinesPanel(self._tabs, id="tabs")
        yield LineView(follow=True, empty="No activation output yet.", id="lines")

    def on_mount(self) -> None:
        """Read what is not in the snapshot."""
        self._lines_view.focus()
        self._show()
        self._read()

    def on_unmount(self) -> None:
        """Stop collecting lines."""
        self.desk.store.unwatch_lines(self._key)

    def take_in(self, changes: Changes, _settle: bool, /) -> None:
        """Redraw when it is this device."""
        if self._key in changes.of("device") or changes.everything:
            self.query_one("#head", LinesPanel).redraw(layout=True)
            self._show()

    def grow_older(self) -> None:
        """Draw the ages again."""
        self.query_one("#head", LinesPanel).redraw()

    def scene(self) -> Scene:
        """Act on this device."""
        return self.scene_of(devices=(self._key,))

    def copy_text(self) -> str:
        """Copy what is in the open tab."""
        return plain(self._lines_view.all_lines)

    def action_tab(self, tab: str) -> None:
        """Show another tab."""
        self._tab = tab
        self.query_one("#tabs", LinesPanel).redraw()
        self._show()

    def action_diff(self) -> None:
        """Show what would change on it."""
        device = self._device
        if device is None or not device.intended or not device.system:
            self.notify("It is in no rollout, or has not said yet what it runs.")
        elif device.system == device.intended:
            self.notify("It runs what it should.")
        else:
            self.post_message(OpenPage("change", device.id))

    def action_open_rollout(self) -> None:
        """Open the rollout it is in."""
        device = self._device
        if device is not None and device.rollout in self.desk.store.rollouts:
            self.post_message(OpenPage("rollout", device.rollout))
        else:
            self.notify("It is in no rollout.")

    @property
    def _device(self) -> DeviceView | None:
        return self.desk.store.devices.get(self._key)

    @property
    def _lines_view(self) -> LineView:
        return self.query_one("#lines", LineView)

    @work(exclusive=True, exit_on_error=False)
    async def _read(self) -> None:
        """Read history and log; what cannot be read is said in its place."""
        device = self._device
        if device is None:
            return
        try:
            await self.desk.feed.watch_lines(self._key, device.name)
            self._history = await self.desk.feed.history(self._key, device.name)
        except NixfleetError as error:
            self._trouble = str(error)
        self._show()

    def _show(self) -> None:
        try:
            lines = self._lines_view
        except NoMatches:
            return
        lines.show(self._lines())

    def _lines(self) -> list[Line]:
        trouble: list[Line] = [(Span(clean(self._trouble), "bad"),)] if self._trouble else []
        device = self._device
        if device is None:
            return [(Span("It is gone from the fleet.", "dim"),)]
        if self._tab == "facts":
            width = max(40, self.size.width - 2)
            rows = [*view.identity_rows(device, self.desk.clock()), *view.facts_rows(device)]
            return pairs(rows, width)
        if self._tab == "history":
            return trouble + self._history_lines()
        held = self.desk.store.lines(self._key) or device.lines
        return trouble + [view.output_line(line) for line in held]

    def _history_lines(self) -> list[Line]:
        if self._history is None:
            return [(Span("reading …", "dim"),)]
        drawn: list[Line] = []
        for attempt in self._history:
            glyph, role = _OUTCOMES.get(attempt.outcome, ("◐", "busy"))
            drawn.append(
                joined(
                    (
                        (Span(view.when(attempt.at), "dim"),),
                        (Span(f"{glyph} {attempt.outcome or 'under way':<9}", role),),
                        (Span(store_short(attempt.path)),),
                        (Span(f"try {attempt.run}", "dim"),) if attempt.run > 1 else (),
                        (Span(f"rollout {attempt.rollout[:8]}", "dim"),),
                    )
                )
            )
            if attempt.reason:
                drawn.append((Span(" " * 18 + clean(attempt.reason), "plain"),))
        return drawn or [(Span("No update yet.", "dim"),)]

    def _head(self, cells: int) -> list[Line]:
        device = self._device
        if device is None:
            return [(Span("This device is gone from the fleet.", "bad"),)]
        now = self.desk.clock()
        room = cells - 2
        name = (Span(clean(device.name), "strong"), Span(f"  {view.tags_text(device.tags)}", "dim"))
        top = [name, *view.headline(device, now, room), *([track] if (track := view.track(device.phase)) else []), ()]
        left = pairs(view.system_rows(device), room)
        if cells >= TWO_COLUMNS:
            half = (room - 4) // 2
            left = pairs([*view.system_rows(device), *view.identity_rows(device, now)[1:]], half)
            right = pairs(view.facts_rows(device), half)
            blank: Line = ()
            rows = max(len(left), len(right))
            left += [blank] * (rows - len(left))
            right += [blank] * (rows - len(right))
            left = [(*fit(one, half), Span("    "), *fit(two, half)) for one, two in zip(left, right, strict=True)]
        return [(Span(" "), *line) for line in [*top, *left]]

    def _tabs(self, cells: int) -> list[Line]:
        keys = {"log": "l", "history": "h", "facts": "i"}
        parts: list[Line] = [
            (
                Span(f"{keys[name]} ", "accent" if name == self._tab else "dim"),
                Span(label, "strong" if name == self._tab else "dim"),
            )
            for name, label in TABS
        ]
        return [fit((Span(" "), *joined(parts, "   ")), cells)]
