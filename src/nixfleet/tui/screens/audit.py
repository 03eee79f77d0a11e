"""The audit log: every act in the words of our own replay, and each one to the byte."""

from textual import work
from textual.app import ComposeResult

from nixfleet.errors import NixfleetError
from nixfleet.model.views import EntryView
from nixfleet.tui.columns import Column
from nixfleet.tui.desk import Desk
from nixfleet.tui.keys import bindings
from nixfleet.tui.screens.base import ConsoleScreen
from nixfleet.tui.store import Changes
from nixfleet.tui.view import records as view
from nixfleet.tui.view.devices import when
from nixfleet.tui.view.text import Line, Span, clean, plain
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
    Column(
        key="at",
        title="when (UTC)",
        cells=16,
        keep=8,
        draw=lambda e, _c, _n: (Span(when(e.at), "dim"),),
        sort=lambda e: e.at,
    ),
    Column(
        key="verdict",
        title="verdict",
        cells=7,
        keep=10,
        draw=lambda e, _c, _n: view.verdict_cell(e),
        sort=lambda e: e.verdict,
    ),
    Column(
        key="who",
        title="who",
        cells=10,
        keep=9,
        grow=1,
        most=22,
        draw=lambda e, _c, _n: (Span(clean(e.principal) or "?", "strong"),),
        sort=lambda e: e.principal,
    ),
    Column(
        key="type",
        title="type",
        cells=8,
        keep=5,
        draw=lambda e, _c, _n: (Span(clean(e.type), "dim"),),
        sort=lambda e: e.type,
    ),
    Column(key="what", title="what", cells=24, keep=9, grow=5, draw=lambda e, _c, _n: view.entry_phrase(e)),
    Column(
        key="subject",
        title="on",
        cells=12,
        keep=6,
        grow=1,
        most=24,
        draw=lambda e, _c, _n: (Span(clean(e.subject), "dim"),),
        sort=lambda e: e.subject,
    ),
    Column(
        key="by",
        title="key",
        cells=20,
        keep=3,
        draw=lambda e, _c, _n: (Span(clean(e.by), "dim"),),
        sort=lambda e: e.by,
    ),
)


class AuditScreen(ConsoleScreen):
    """Every act, newest first, in the words of our own replay."""

    scope = "audit"
    view = "audit"
    BINDINGS = bindings("audit")

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._find = ""
        self._void = False
        self._entries: dict[str, EntryView] = {}

    def body(self) -> ComposeResult:
        """Give the state of the log and the table."""
        yield LinesPanel(self._head, id="head")
        yield FleetTable(
            AUDIT_COLUMNS,
            lambda: self._entries,
            name_of=lambda entry: -entry.index,
            clock=self.desk.clock,
            sort=[("index", True)],
            id="table",
        )

    @property
    def table(self) -> FleetTable[EntryView]:
        """The table."""
        return self.query_one("#table", FleetTable)

    def on_mount(self) -> None:
        """Show what was verified so far."""
        self.table.focus()
        self._take()
        self.table.reload()

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

    def asked(self, _mode: str, /) -> str:
        """Give what the list is narrowed to."""
        return self._find

    def answer(self, _mode: str, text: str, /) -> bool:
        """Show only entries that hold the text."""
        self._find = text
        self._narrow()
        return True

    def action_only_void(self) -> None:
        """Show only acts without effect, or all."""
        self._void = not self._void
        self._narrow()

    def export_index(self) -> int | None:
        """Give the entry that `e` exports."""
        record = self.table.record
        return record.index if record else None

    def on_fleet_table_opened(self, event: FleetTable.Opened) -> None:
        """Open the entry."""
        event.stop()
        self.app.push_screen(EntryScreen(self.desk, self._entries[event.key]))

    def _narrow(self) -> None:
        wanted, void = self._find.casefold(), self._void

        def keep(entry: EntryView) -> bool:
            text = f"{entry.index} {entry.type} {entry.principal} {entry.what} {entry.subject} {entry.why} {entry.by}"
            return wanted in text.casefold() and not (void and entry.verdict == "valid")

        self.table.filter(keep if wanted or void else None)
        self.table.empty = "No entry matches."

    def _take(self) -> list[str]:
        """Take the entries that were verified since the last time."""
        entries = self.desk.verifier.entries
        fresh = [str(entry.index) for entry in entries[len(self._entries) :]]
        for entry in entries[len(self._entries) :]:
            self._entries[str(entry.index)] = entry
        self.table.empty = "Replaying the log …" if not self._entries else "No entry matches."
        return fresh

    def _head(self, cells: int) -> list[Line]:
        lines = view.log_head(self.desk.feed.check, self.desk.store.devices.values(), cells - 2)
        if self._void:
            lines.append((Span("only acts without effect", "warn"), Span("  v shows all", "dim")))
        return [(Span(" "), *line) for line in lines]


class EntryScreen(ConsoleScreen):
    """One entry to the byte: its payload, its signature, its proof."""

    scope = "entry"
    view = "audit"
    BINDINGS = bindings("entry")

    def __init__(self, desk: Desk, entry: EntryView) -> None:
        super().__init__(desk)
        self._entry = entry

    def body(self) -> ComposeResult:
        """Give the head and the bytes."""
        yield LinesPanel(
            lambda cells: [(Span(" "), *line) for line in view.entry_head(self._entry, cells - 2)], id="head"
        )
        yield LineView(empty="Reading …", id="lines")

    def on_mount(self) -> None:
        """Read payload and proof."""
        self.query_one("#lines", LineView).focus()
        self._read()

    def take_in(self, changes: Changes, _settle: bool, /) -> None:
        """Do nothing: an entry never changes."""

    def copy_text(self) -> str:
        """Copy everything that is shown."""
        return plain([*view.entry_head(self._entry, 120), (), *self.query_one("#lines", LineView).all_lines])

    def export_index(self) -> int | None:
        """Give the entry that `e` exports."""
        return self._entry.index

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
