"""The devices: a live table, filtered by a query, with a summary beside it where there is room."""

from textual.app import ComposeResult
from textual.containers import Horizontal

from nixfleet.model.text import clean
from nixfleet.model.views import DeviceView
from nixfleet.query import FIELDS, Predicate, QueryError, compile_query, parse
from nixfleet.query.fields import Kind
from nixfleet.tui.columns import Column
from nixfleet.tui.desk import Desk
from nixfleet.tui.intents import Scene
from nixfleet.tui.keys import bindings
from nixfleet.tui.screens.tables import TableScreen
from nixfleet.tui.store import Changes
from nixfleet.tui.view import devices as view
from nixfleet.tui.view.text import Line, Span, fit, store_name
from nixfleet.tui.widgets.chrome import LinesPanel, Prompt
from nixfleet.tui.widgets.dialogs import MenuDialog
from nixfleet.tui.widgets.fleet_table import FleetTable

COLUMNS: tuple[Column[DeviceView], ...] = (
    Column(
        key="status", title="state", cells=11, keep=10, draw=lambda d, _c, _n: view.status_cell(d), sort=view.needs_me
    ),
    Column(
        key="name",
        title="device",
        cells=16,
        keep=10,
        grow=1,
        most=26,
        draw=lambda d, _c, _n: view.name_cell(d),
        sort=lambda d: d.name,
    ),
    Column(key="now", title="what", cells=34, keep=9, grow=4, draw=lambda d, c, _n: view.phrase(d, c)),
    Column(
        key="tags",
        title="tags",
        cells=17,
        keep=6,
        grow=1,
        most=24,
        draw=lambda d, _c, _n: view.tags_cell(d),
        sort=lambda d: sorted(d.tags.items()),
    ),
    Column(
        key="system",
        title="system",
        cells=24,
        keep=7,
        grow=1,
        most=44,
        draw=view.system_cell,
        sort=lambda d: store_name(d.system),
    ),
    Column(
        key="wave",
        title="wave",
        cells=4,
        keep=3,
        right=True,
        draw=lambda d, _c, _n: (Span("" if d.wave is None else str(d.wave), "dim"),),
        sort=lambda d: -1 if d.wave is None else d.wave,
    ),
    Column(
        key="seen",
        title="seen",
        cells=5,
        keep=8,
        right=True,
        draw=lambda d, _c, n: view.seen_cell(d, n),
        sort=lambda d: -d.seen_at,
    ),
)


class DevicesScreen(TableScreen[DeviceView]):
    """All devices, those that need a person first."""

    scope = "devices"
    view = "devices"
    kind = "device"
    page = "device"
    BINDINGS = bindings("devices")

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._query = desk.options.query
        self._ages = False
        self._holds: Predicate | None = None
        self._sought: Predicate | None = None
        """What the last query that was kept asks for, and `n` looks for; it outlives the filter."""

    def body(self) -> ComposeResult:
        """Give the table and its side."""
        with Horizontal(id="main"):
            yield self.make_table()
            yield LinesPanel(self._side, id="side")
        yield LinesPanel(self._filter_line, id="filter-line")

    def make_table(self) -> FleetTable[DeviceView]:
        """Make the table, those that need a person first."""
        return self.table_of(
            COLUMNS, lambda: self.desk.store.devices, name_of=lambda device: device.name, sort=("status", False)
        )

    def begin(self) -> None:
        """Show the query that one came with."""
        self.answer("query", self._query)
        self._say_empty()

    def take_in(self, changes: Changes, settle: bool, /) -> None:
        """Redraw what changed."""
        super().take_in(changes, settle)
        self._say_empty()
        if self.table.cursor in changes.of("device") or changes.everything:
            self.query_one("#side", LinesPanel).redraw()
        self.query_one("#filter-line", LinesPanel).redraw()

    def grow_older(self) -> None:
        """Judge again by time where the query asks for an age, unless one wants the rows to stay."""
        super().grow_older()
        if self._ages and not self.desk.paused and self.is_current:
            self.table.reload()
            self.query_one("#filter-line", LinesPanel).redraw()

    def scene(self) -> Scene:
        """Act on the marked devices, or the one under the cursor."""
        return self.scene_of(devices=self.table.chosen)

    def copy_text(self) -> str:
        """Copy the name under the cursor, or those that are marked."""
        devices = self.desk.store.devices
        return "\n".join(devices[key].name for key in self.table.chosen if key in devices)

    def asked(self, _mode: str, /) -> str:
        """Give the query in force."""
        return self._query

    def answer(self, _mode: str, text: str, /) -> bool:
        """Filter by a query; one that cannot be read leaves the last good result."""
        prompt = self.query_one(Prompt)
        try:
            query = parse(text)
            holds = compile_query(query)
        except QueryError as error:
            prompt.say(str(error), bad=True, place=(error.position, error.length))
            return False
        self._query = text.strip()
        self._ages = any(term.field in FIELDS and FIELDS[term.field].kind is Kind.AGE for term in query.terms)
        clock = self.desk.clock
        self.table.filter((lambda device: holds(device, clock())) if self._query else None)
        self._holds = holds if self._query else None
        prompt.say(f"{len(self.table.listing.ids):,} of {len(self.desk.store.devices):,}" if self._query else "")
        self.query_one("#filter-line", LinesPanel).redraw(layout=True)
        self._say_empty()
        return True

    def action_match(self, step: int) -> None:
        """Go to the next or previous device that matches the last query."""
        holds, now = self._holds or self._sought, self.desk.clock()
        if holds is None:
            self.notify("Press / and say what to look for.", timeout=3)
        elif not self.table.go_to(lambda device: holds(device, now), step):
            self.notify("No device matches the last query.", timeout=3)

    def action_columns(self) -> None:
        """Choose which columns to show."""

        def chosen(key: str | None) -> None:
            if key:
                table = self.table
                table.hidden = table.hidden ^ {key} if len(table.hidden ^ {key}) < len(COLUMNS) else frozenset()
                table.refresh()

        choices = [
            (column.key, "✓" if column.key not in self.table.hidden else " ", column.title, "") for column in COLUMNS
        ]
        self.app.push_screen(MenuDialog("Columns", choices), chosen)

    def highlighted(self) -> None:
        """Show the device beside the table."""
        for panel in self.query("#side").results(LinesPanel):
            panel.redraw()

    def focus_main(self) -> None:
        """Remember the query that editing ended with."""
        super().focus_main()
        self._sought = self._holds or self._sought

    def while_typed(self, text: str) -> str:
        """Leave out a last word that begins a field's name: while ``stat`` is typed, no device is meant by it."""
        head, _, last = text.rpartition(" ")
        word = last.removeprefix("-")
        half = word != "" and any(name.startswith(word) for name in (*FIELDS, "tag."))
        return head if half else text

    def _say_empty(self) -> None:
        table = self.table
        if not self.desk.store.loaded:
            why = self.desk.feed.link.why
            table.empty = "\n \n".join(("Asking the coordinator …", *([clean(why)] if why else [])))
        elif self._query:
            table.empty = "No device matches.\nPress / to change the query."
        else:
            table.empty = (
                "No devices yet.\n \nMake a token with:  nixfleet enroll token --tag site=berlin\n"
                "or press 3 to see who asks to be enrolled."
            )

    def _side(self, cells: int) -> list[Line]:
        record = self.table.record
        return [] if record is None else view.summary(record, self.desk.clock(), cells)

    def _filter_line(self, cells: int) -> list[Line]:
        if not self._query:
            return []
        count = f"{len(self.table.listing.ids):,} of {len(self.desk.store.devices):,}"
        return [fit((Span(" / ", "accent"), Span(clean(self._query)), Span(f"   {count}", "dim")), cells)]
