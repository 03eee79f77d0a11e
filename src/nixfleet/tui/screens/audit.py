"""The audit log: every act in the words of our own replay, and each one to the byte."""

from collections.abc import Callable

from textual import work
from textual.app import ComposeResult

from nixfleet.errors import NixfleetError
from nixfleet.model.text import clean
from nixfleet.model.views import EntryView
from nixfleet.tui.columns import Column, text_column
from nixfleet.tui.desk import Desk
from nixfleet.tui.keys import bindings
from nixfleet.tui.screens.base import ConsoleScreen
from nixfleet.tui.screens.tables import TableScreen
from nixfleet.tui.store import Changes
from nixfleet.tui.view import records as view
from nixfleet.tui.view.access import pending_of
from nixfleet.tui.view.devices import when
from nixfleet.tui.view.log import log_head
from nixfleet.tui.view.text import Line, Span, plain
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.fleet_table import FleetTable
from nixfleet.tui.widgets.lines import LineView

AUDIT_COLUMNS: tuple[Column[EntryView], ...] = (
    Column(
        key="index",
        title="entry",
        cells=6,
        keep=10,
        right=True,
        draw=lambda e, _c, _n: (Span(f"{e.index:,}", "dim"),),
        sort=lambda e: e.index,
    ),
    text_column("at", "when (UTC)", lambda e: when(e.at), cells=16, keep=8),
    Column(
        key="verdict",
        title="verdict",
        cells=7,
        keep=10,
        draw=lambda e, _c, _n: view.verdict_cell(e),
        sort=lambda e: e.verdict,
    ),
    text_column("who", "who", lambda e: e.principal or "?", cells=10, keep=9, role="strong", grow=1, most=22),
    text_column("type", "type", lambda e: e.type, cells=8, keep=5),
    Column(key="what", title="what", cells=44, keep=9, grow=5, draw=lambda e, _c, _n: view.entry_phrase(e)),
    text_column("subject", "on", lambda e: e.subject, cells=12, keep=6, grow=1, most=24),
    text_column("by", "key", lambda e: e.by, cells=20, keep=3),
)


class AuditScreen(TableScreen[EntryView]):
    """Every act, newest first, in the words of our own replay."""

    scope = "audit"
    view = "audit"
    page = "entry"
    empty = "Replaying the log …"
    BINDINGS = bindings("audit")

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._void = False
        self._entries: dict[str, EntryView] = {}

    def body(self) -> ComposeResult:
        """Give the state of the log and the table."""
        yield LinesPanel(self._head, id="head")
        yield self.make_table()

    def make_table(self) -> FleetTable[EntryView]:
        """Make the table, newest first."""
        return self.table_of(
            AUDIT_COLUMNS, lambda: self._entries, name_of=lambda entry: -entry.index, sort=("index", True)
        )

    def begin(self) -> None:
        """Show what was verified so far."""
        self._take()
        super().begin()

    def take_in(self, changes: Changes, settle: bool, /) -> None:
        """Take in new entries."""
        new = self._take()
        if changes.everything or new:
            self.query_one("#head", LinesPanel).redraw(layout=True)
        if new:
            self.table.on_changes(new, settle=settle)

    def refresh_chrome(self) -> None:
        """Draw the state of the log again, too: it changes without a delta."""
        super().refresh_chrome()
        self.take_in(Changes(), True)

    def copy_text(self) -> str:
        """Copy the entry under the cursor."""
        record = self.table.record
        return plain(view.entry_head(record, 120)) if record else ""

    def words(self, record: EntryView) -> str:
        """Find an entry by anything that is said of it."""
        said = (record.type, record.principal, record.what, record.subject, record.why, record.by)
        return f"{record.index} {' '.join(said)}"

    def judge(self) -> Callable[[EntryView], bool] | None:
        """Show only what holds the text, and only acts without effect while that is asked for."""
        holds, void = super().judge(), self._void
        if not void:
            return holds
        return lambda entry: entry.verdict != "valid" and (holds is None or holds(entry))

    def action_only_void(self) -> None:
        """Show only acts without effect, or all."""
        self._void = not self._void
        self.narrow()

    def export_index(self) -> int | None:
        """Give the entry that `e` exports."""
        record = self.table.record
        return record.index if record else None

    def _take(self) -> list[str]:
        """Take the entries that were verified since the last time."""
        entries = self.desk.entries
        fresh = [str(entry.index) for entry in entries[len(self._entries) :]]
        for entry in entries[len(self._entries) :]:
            self._entries[str(entry.index)] = entry
        return fresh

    def _head(self, cells: int) -> list[Line]:
        unretired = (device for device in self.desk.store.devices.values() if device.state != "retired")
        lines = log_head(self.desk.feed.check, map(self.desk.sight, unretired), cells - 2)
        if self._void:
            lines.append((Span("only acts without effect", "warn"), Span("  v shows all", "dim")))
        return [(Span(" "), *line) for line in lines]


class EntryScreen(ConsoleScreen):
    """One entry to the byte: its payload, its signature, its proof."""

    scope = "entry"
    view = "audit"
    BINDINGS = bindings("entry")

    def __init__(self, desk: Desk, key: str) -> None:
        super().__init__(desk)
        self._entry = desk.entries[int(key)]

    def body(self) -> ComposeResult:
        """Give the head and the bytes."""
        yield LinesPanel(lambda cells: [(Span(" "), *line) for line in self._head(cells - 2)], id="head")
        yield LineView(empty="Reading …", id="lines")

    def on_mount(self) -> None:
        """Read payload and proof."""
        self.query_one("#lines", LineView).focus()
        self._read()

    def take_in(self, _changes: Changes, _settle: bool, /) -> None:
        """Show who has signed it by now; the entry itself never changes."""
        self.query_one("#head", LinesPanel).redraw(layout=True)

    def copy_text(self) -> str:
        """Copy everything that is shown."""
        return plain([*self._head(120), (), *self.query_one("#lines", LineView).all_lines])

    def export_index(self) -> int | None:
        """Give the entry that `e` exports."""
        return self._entry.index

    def _head(self, cells: int) -> list[Line]:
        pending = pending_of(self.desk.access, f"pending:{self._entry.index}")
        return view.entry_head(self._entry, cells, view.approvals_of(self._entry, self.desk.entries), pending)

    @work(exclusive=True, exit_on_error=False)
    async def _read(self) -> None:
        """Read the proof; an error is said in its place."""
        lines = self.query_one("#lines", LineView)
        try:
            proof = await self.desk.verifier.proof(self._entry.index)
        except NixfleetError as error:
            lines.show([(Span(clean(str(error)), "bad"),)])
            return
        drawn: list[Line] = [(Span("payload", "head"),)]
        drawn += [(Span(clean(line)),) for line in proof.payload.splitlines()]
        drawn += [(), (Span("signature", "head"),)]
        drawn += [(Span(clean(line), "dim"),) for line in proof.signature.splitlines()]
        drawn += [(), (Span(f"proof in the log of {proof.size:,} entries", "head"),)]
        drawn += [(Span(f"{place:>3}  {step}", "dim"),) for place, step in enumerate(proof.hashes)]
        drawn += [(Span("  =  ", "ok"), Span(proof.root, "dim"))]
        lines.show(drawn)
