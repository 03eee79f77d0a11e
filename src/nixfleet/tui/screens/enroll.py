"""Who asks to be enrolled, with the fingerprint to compare."""

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll

from nixfleet.model.views import EnrollView
from nixfleet.tui.columns import Column, age_column, text_column
from nixfleet.tui.intents import Scene
from nixfleet.tui.keys import bindings
from nixfleet.tui.screens.tables import TableScreen
from nixfleet.tui.store import Changes
from nixfleet.tui.view import joining as view
from nixfleet.tui.view.devices import tags_text
from nixfleet.tui.view.text import Line, Span
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.fleet_table import FleetTable


def _model(request: EnrollView) -> str:
    return request.facts.model if request.facts else ""


TOKENS_SHOWN = 6
ENROLL_COLUMNS: tuple[Column[EnrollView], ...] = (
    text_column("name", "asks as", lambda r: r.name, cells=12, keep=10, role="strong", grow=1, most=26),
    age_column("asked", lambda r: r.asked_at, cells=5, keep=9),
    text_column("model", "hardware", _model, cells=24, keep=6, grow=1, most=30, sort=False),
    text_column("tags", "tags", lambda r: tags_text(r.tags), cells=14, keep=5, grow=1, most=40, sort=False),
)


class EnrollScreen(TableScreen[EnrollView]):
    """Who asks to be enrolled, and the fingerprint to compare."""

    scope = "enroll"
    view = "enroll"
    kind = "request"
    empty = "Nobody asks to be enrolled.\n \nT makes a token for new devices, as does\nnixfleet enroll token"
    BINDINGS = bindings("enroll")

    def body(self) -> ComposeResult:
        """Give the list and the card."""
        with Horizontal(id="main"):
            with Vertical():
                yield self.make_table()
                yield LinesPanel(self._tokens, id="tokens")
            with VerticalScroll(id="card", can_focus=False):
                yield LinesPanel(self._card, id="card-lines")

    def make_table(self) -> FleetTable[EnrollView]:
        """Make the table, who waits longest first."""
        kind = Column[EnrollView](
            key="kind", title="means", cells=12, keep=8, draw=lambda r, _c, _n: view.kind_cell(r, self.desk.store)
        )
        return self.table_of(
            (*ENROLL_COLUMNS[:2], kind, *ENROLL_COLUMNS[2:]),
            lambda: self.desk.store.requests,
            name_of=lambda r: r.name,
            sort=("age", True),
        )

    def take_in(self, changes: Changes, settle: bool, /) -> None:
        """Redraw what changed, and the card."""
        super().take_in(changes, settle)
        self.query_one("#card-lines", LinesPanel).redraw(layout=True)
        self.query_one("#tokens", LinesPanel).redraw(layout=True)

    def scene(self) -> Scene:
        """Act on the marked requests, or the one under the cursor."""
        return self.scene_of(requests=self.table.chosen)

    def copy_text(self) -> str:
        """Copy the fingerprint."""
        record = self.table.record
        return record.fingerprint if record else ""

    def highlighted(self) -> None:
        """Show the card of the one under the cursor."""
        for panel in self.query("#card-lines").results(LinesPanel):
            panel.redraw(layout=True)

    def _card(self, cells: int) -> list[Line]:
        record = self.table.record
        return [] if record is None else view.request_card(record, self.desk.store, self.desk.clock(), cells)

    def _tokens(self, cells: int) -> list[Line]:
        found = view.tokens(self.desk.access)
        lines = view.token_lines(found, self.desk.clock(), cells - 2, most=TOKENS_SHOWN)
        return [(), *((Span(" "), *line) for line in lines)]
