"""Who asks to be enrolled, with the fingerprint to compare."""

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll

from nixfleet.model.views import EnrollView
from nixfleet.tui.columns import Column
from nixfleet.tui.intents import Scene
from nixfleet.tui.keys import bindings
from nixfleet.tui.screens.base import ConsoleScreen
from nixfleet.tui.store import Changes
from nixfleet.tui.view import records as view
from nixfleet.tui.view.devices import tags_text
from nixfleet.tui.view.text import Line, Span, ago, clean
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.fleet_table import FleetTable

ENROLL_COLUMNS: tuple[Column[EnrollView], ...] = (
    Column(
        key="name",
        title="asks as",
        cells=12,
        keep=10,
        grow=1,
        most=26,
        draw=lambda r, _c, _n: (Span(clean(r.name), "strong"),),
        sort=lambda r: r.name,
    ),
    Column(
        key="age",
        title="asked",
        cells=5,
        keep=9,
        right=True,
        draw=lambda r, _c, n: (Span(ago(r.asked_at, n), "dim"),),
        sort=lambda r: -r.asked_at,
    ),
    Column(
        key="model",
        title="hardware",
        cells=24,
        keep=7,
        grow=1,
        most=30,
        draw=lambda r, _c, _n: (Span(clean(r.facts.model) if r.facts else "", "dim"),),
    ),
    Column(
        key="tags",
        title="tags",
        cells=14,
        keep=5,
        grow=1,
        most=40,
        draw=lambda r, _c, _n: (Span(tags_text(r.tags), "dim"),),
    ),
)


class EnrollScreen(ConsoleScreen):
    """Who asks to be enrolled, and the fingerprint to compare."""

    scope = "enroll"
    view = "enroll"
    BINDINGS = bindings("enroll")

    def body(self) -> ComposeResult:
        """Give the list and the card."""
        with Horizontal(id="main"):
            yield FleetTable(
                ENROLL_COLUMNS,
                lambda: self.desk.store.requests,
                name_of=lambda request: request.name,
                clock=self.desk.clock,
                sort=[("age", True)],
                id="table",
            )
            with VerticalScroll(id="card", can_focus=False):
                yield LinesPanel(self._card, id="card-lines")

    @property
    def table(self) -> FleetTable[EnrollView]:
        """The table."""
        return self.query_one("#table", FleetTable)

    def on_mount(self) -> None:
        """Show who asks."""
        self.table.empty = (
            "Nobody asks to be enrolled.\n \nnixfleet enroll token --tag site=berlin  makes a token for new devices."
        )
        self.table.focus()
        self.table.reload()

    def take_in(self, changes: Changes, settle: bool, /) -> None:
        """Redraw what changed."""
        if changes.everything:
            self.table.reload()
        else:
            self.table.on_changes(changes.of("request"), settle=settle)
        self.query_one("#card-lines", LinesPanel).redraw(layout=True)

    def scene(self) -> Scene:
        """Act on the marked requests, or the one under the cursor."""
        return self.scene_of(requests=self.table.chosen)

    def copy_text(self) -> str:
        """Copy the fingerprint."""
        record = self.table.record
        return record.fingerprint if record else ""

    def on_fleet_table_highlighted(self, event: FleetTable.Highlighted) -> None:
        """Show the card of the one under the cursor."""
        event.stop()
        for panel in self.query("#card-lines").results(LinesPanel):
            panel.redraw(layout=True)
        self.refresh_chrome()

    def _card(self, cells: int) -> list[Line]:
        record = self.table.record
        return [] if record is None else view.request_card(record, self.desk.clock(), cells)
