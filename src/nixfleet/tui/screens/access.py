"""Who may do what: the root's people and keys, the grants as a tree, and what waits for signatures."""

from textual.app import ComposeResult

from nixfleet.model.views import AccessView
from nixfleet.tui.columns import Column, text_column
from nixfleet.tui.desk import Desk
from nixfleet.tui.intents import Scene
from nixfleet.tui.keys import bindings
from nixfleet.tui.screens.base import ConsoleScreen, OpenPage
from nixfleet.tui.screens.tables import TableScreen
from nixfleet.tui.store import Changes
from nixfleet.tui.view import access as view
from nixfleet.tui.view.access import Row
from nixfleet.tui.view.text import Line, Span, plain
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.fleet_table import FleetTable
from nixfleet.tui.widgets.lines import LineView

COLUMNS: tuple[Column[Row], ...] = (
    Column(
        key="who",
        title="who",
        cells=22,
        keep=10,
        grow=3,
        most=52,
        draw=lambda r, _c, _n: view.who_cell(r),
        sort=lambda r: r.order,
    ),
    Column(
        key="state",
        title="state",
        cells=9,
        keep=10,
        draw=lambda r, _c, _n: view.state_cell(r.state),
        sort=lambda r: r.state,
    ),
    Column(key="may", title="may", cells=20, keep=9, grow=3, draw=lambda r, _c, _n: view.may_cell(r)),
    text_column("over", "on", lambda r: r.over, cells=14, keep=8, role="plain", grow=1, most=34, sort=False),
    text_column("ends", "ends", lambda r: r.ends, cells=8, keep=7, sort=False),
    text_column(
        "why", "", lambda r: "" if r.kind == "pending" else r.why, cells=16, keep=5, grow=1, most=40, sort=False
    ),
)


class AccessScreen(TableScreen[Row]):
    """Everybody who may do anything, what waits for whom, and the root's rules."""

    scope = "access"
    view = "access"
    empty = "Replaying the log …"
    BINDINGS = bindings("access")

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._shown: AccessView | None = None
        self._rows: dict[str, Row] = {}

    def body(self) -> ComposeResult:
        """Give the root, the table, and below it the row under the cursor in full."""
        yield LinesPanel(self._head, id="head")
        yield self.make_table()
        yield LinesPanel(self._chosen, id="below")

    def make_table(self) -> FleetTable[Row]:
        """Make the table, in the order of the tree."""
        return self.table_of(COLUMNS, lambda: self._rows, name_of=lambda row: row.order, sort=("who", False))

    def begin(self) -> None:
        """Show what the replay says by now."""
        self._take()
        super().begin()

    def take_in(self, changes: Changes, _settle: bool, /) -> None:
        """Follow the log: what it says is worked out anew only when it has grown, or a minute has passed."""
        if self._take() or changes.everything:
            self.table.reload()
            self.query_one("#head", LinesPanel).redraw(layout=True)
            self.highlighted()

    def refresh_chrome(self) -> None:
        """Look at the log again, too: it grows without a delta."""
        super().refresh_chrome()
        self.take_in(Changes(), True)

    def highlighted(self) -> None:
        """Show the row that the cursor came to."""
        for panel in self.query("#below").results(LinesPanel):
            panel.redraw(layout=True)

    def scene(self) -> Scene:
        """Act on the row under the cursor."""
        return self.scene_of(right=self.table.cursor)

    def words(self, record: Row) -> str:
        """Find a row by anything that is said of it."""
        return f"{record.who} {record.state} {record.may} {record.over} {record.why} {record.key}"

    def copy_text(self) -> str:
        """Copy the keys, or the id, of the row."""
        kind, _, name = self.table.cursor.partition(":")
        return name if kind == "grant" else "\n".join(view.keys_of_row(self.desk.access, self.table.cursor))

    def on_fleet_table_opened(self, event: FleetTable.Opened) -> None:
        """Open what waits to the byte, and everything else in full."""
        event.stop()
        pending = view.pending_of(self.desk.access, event.key)
        if pending is not None and pending.index < len(self.desk.entries):
            self.post_message(OpenPage("entry", str(pending.index)))
        else:
            self.post_message(OpenPage("right", event.key))

    def _take(self) -> bool:
        """Take what the replay says now; tells whether it has changed."""
        access = self.desk.access
        if access is self._shown:
            return False
        self._shown = access
        self._rows = view.rows(access, self.desk.clock())
        return True

    def _head(self, cells: int) -> list[Line]:
        return [(Span(" "), *line) for line in view.root_head(self.desk.access.root, cells - 2)]

    def _chosen(self, cells: int) -> list[Line]:
        lines = view.card(self.desk.access, self.table.cursor, self.desk.clock(), cells - 2)
        return [(Span(" "), *line) for line in lines]


class RightScreen(ConsoleScreen):
    """One principal, key or grant in full."""

    scope = "right"
    view = "access"
    BINDINGS = bindings("right")

    def __init__(self, desk: Desk, key: str) -> None:
        super().__init__(desk)
        self._key = key

    def body(self) -> ComposeResult:
        """Give the lines."""
        yield LineView(empty="This is gone.", id="lines")

    def on_mount(self) -> None:
        """Show it."""
        self.query_one("#lines", LineView).focus()
        self._show()

    def take_in(self, _changes: Changes, _settle: bool, /) -> None:
        """Show what the replay says by now."""
        self._show()

    def scene(self) -> Scene:
        """Act on this row."""
        return self.scene_of(right=self._key)

    def copy_text(self) -> str:
        """Copy everything that is shown."""
        return plain(self.query_one("#lines", LineView).all_lines)

    def _show(self) -> None:
        cells = max(20, self.size.width - 2)
        lines = view.card(self.desk.access, self._key, self.desk.clock(), cells)
        self.query_one("#lines", LineView).show([(), *lines] if lines else [])
