"""What others say of the log: which one each device saw, and what the coordinator kept out of it."""

from collections.abc import Callable

from textual import work
from textual.app import ComposeResult

from nixfleet.errors import NixfleetError
from nixfleet.model.text import clean
from nixfleet.model.views import DeviceView
from nixfleet.tui.columns import Column, age_column, text_column
from nixfleet.tui.desk import Desk
from nixfleet.tui.keys import bindings
from nixfleet.tui.screens.base import ConsoleScreen
from nixfleet.tui.screens.tables import TableScreen
from nixfleet.tui.store import Changes
from nixfleet.tui.view import log as view
from nixfleet.tui.view.text import Line, Span, clip, plain
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.fleet_table import FleetTable
from nixfleet.tui.widgets.lines import LineView


class WitnessesScreen(TableScreen[DeviceView]):
    """Which log each device signed for in its last report, held against our own; what differs first."""

    scope = "witnesses"
    view = "audit"
    kind = "device"
    page = "device"
    empty = "No device has reported yet."
    BINDINGS = bindings("witnesses")

    def __init__(self, desk: Desk, _key: str = "") -> None:
        super().__init__(desk)

    def body(self) -> ComposeResult:
        """Give how the log stands, and the table."""
        yield LinesPanel(self._head, id="head")
        yield self.make_table()

    def make_table(self) -> FleetTable[DeviceView]:
        """Make the table, another log first."""
        columns: tuple[Column[DeviceView], ...] = (
            Column(
                key="sight",
                title="its log",
                cells=17,
                keep=10,
                draw=lambda d, _c, _n: view.sight_cell(self.desk.sight(d), self.desk.feed.check.size - d.log_size),
                sort=lambda d: view.SIGHTS.index(self.desk.sight(d)),
            ),
            text_column("name", "device", lambda d: d.name, cells=14, keep=10, role="strong", grow=1, most=30),
            Column(
                key="size",
                title="entries",
                cells=9,
                keep=9,
                right=True,
                draw=lambda d, _c, _n: (Span(f"{d.log_size:,}" if d.log_size else "", "plain"),),
                sort=lambda d: -d.log_size,
            ),
            text_column("root", "root", lambda d: d.log_root[:16], cells=16, keep=8, sort=False),
            age_column("reported", lambda d: d.reported_at, cells=5, keep=7),
        )
        return self.table_of(columns, lambda: self.desk.store.devices, name_of=lambda d: d.name, sort=("sight", False))

    def judge(self) -> Callable[[DeviceView], bool]:
        """Leave out the retired, who see nothing any more."""
        holds = super().judge()
        return lambda device: device.state != "retired" and (holds is None or holds(device))

    def begin(self) -> None:
        """Show who is not retired."""
        self.table.empty = self.empty
        self.table.filter(self.judge())

    def words(self, record: DeviceView) -> str:
        """Find a device by its name, or by what it saw."""
        return f"{record.name} {self.desk.sight(record)} {record.log_root}"

    def refresh_chrome(self) -> None:
        """Draw the state of the log again, too."""
        super().refresh_chrome()
        self.query_one("#head", LinesPanel).redraw(layout=True)

    def _head(self, cells: int) -> list[Line]:
        unretired = (device for device in self.desk.store.devices.values() if device.state != "retired")
        lines = view.log_head(self.desk.feed.check, map(self.desk.sight, unretired), cells - 2)
        lines.append((Span("What each device signed for in its last report, held against our own copy.", "dim"),))
        return [(Span(" "), *line) for line in lines]


class RefusedScreen(ConsoleScreen):
    """What the coordinator refused; it is its word alone, for none of it is in the log."""

    scope = "page"
    view = "audit"
    BINDINGS = bindings("page")

    def __init__(self, desk: Desk, _key: str = "") -> None:
        super().__init__(desk)

    def body(self) -> ComposeResult:
        """Give a word on what this is, and the lines."""
        yield LinesPanel(self._head, id="head")
        yield LineView(empty="Asking the coordinator …", id="lines")

    def on_mount(self) -> None:
        """Ask."""
        self.query_one("#lines", LineView).focus()
        self._read()

    def take_in(self, _changes: Changes, _settle: bool, /) -> None:
        """Do nothing: it is asked for when the page opens."""

    def copy_text(self) -> str:
        """Copy everything that is shown."""
        return plain(self.query_one("#lines", LineView).all_lines)

    @work(exclusive=True, exit_on_error=False)
    async def _read(self) -> None:
        """Read the list; an error is said in its place."""
        lines = self.query_one("#lines", LineView)
        try:
            refused = await self.desk.feed.refused()
        except NixfleetError as error:
            lines.show([(Span(clean(str(error)), "bad"),)])
            return
        lines.show(view.refused_lines(refused, self.desk.clock()) or [(Span("Nothing was refused.", "dim"),)])

    def _head(self, cells: int) -> list[Line]:
        said = "Refused; none of this is in the log: it is the coordinator's word alone."
        return [(Span(" "), Span(clip(said, cells - 2), "dim"))]
