"""The releases, and who gets what of one."""

from collections.abc import Mapping

from textual import work
from textual.app import ComposeResult

from nixfleet.errors import NixfleetError
from nixfleet.model.views import ReleaseView
from nixfleet.tui.columns import Column
from nixfleet.tui.desk import Desk
from nixfleet.tui.intents import Scene
from nixfleet.tui.keys import bindings
from nixfleet.tui.screens.base import ConsoleScreen
from nixfleet.tui.store import Changes
from nixfleet.tui.view import records as view
from nixfleet.tui.view.text import Line, Span, ago, clean, fit, size
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.fleet_table import FleetTable
from nixfleet.tui.widgets.lines import LineView

RELEASE_COLUMNS: tuple[Column[ReleaseView], ...] = (
    Column(
        key="name",
        title="release",
        cells=16,
        keep=10,
        grow=2,
        most=40,
        draw=lambda r, _c, _n: (Span(clean(r.name), "strong"),),
        sort=lambda r: r.name,
    ),
    Column(key="for", title="for", cells=12, keep=9, draw=lambda r, _c, _n: (Span(view.release_targets(r)),)),
    Column(
        key="by",
        title="by",
        cells=12,
        keep=8,
        grow=1,
        most=22,
        draw=lambda r, _c, _n: (Span(clean(r.principal), "dim"),),
        sort=lambda r: r.principal,
    ),
    Column(
        key="source",
        title="source",
        cells=20,
        keep=5,
        grow=3,
        draw=lambda r, _c, _n: (Span(clean(f"{r.source_url} {r.source_rev[:12]}".strip() or r.note), "dim"),),
    ),
    Column(key="id", title="id", cells=8, keep=6, draw=lambda r, _c, _n: (Span(r.id[:8], "dim"),)),
    Column(
        key="age",
        title="age",
        cells=4,
        keep=7,
        right=True,
        draw=lambda r, _c, n: (Span(ago(r.at, n), "dim"),),
        sort=lambda r: -r.at,
    ),
)


class ReleasesScreen(ConsoleScreen):
    """All releases, newest first."""

    scope = "releases"
    view = "releases"
    BINDINGS = bindings("releases")

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._find = ""

    def body(self) -> ComposeResult:
        """Give the table."""
        yield FleetTable(
            RELEASE_COLUMNS,
            lambda: self.desk.store.releases,
            name_of=lambda release: -release.index,
            clock=self.desk.clock,
            sort=[("age", False)],
            id="table",
        )

    @property
    def table(self) -> FleetTable[ReleaseView]:
        """The table."""
        return self.query_one("#table", FleetTable)

    def on_mount(self) -> None:
        """Show what there is."""
        self.table.empty = "No releases yet.\n \nnixfleet release create NAME --device NAME=PATH  makes one."
        self.table.focus()
        self.table.reload()

    def take_in(self, changes: Changes, settle: bool, /) -> None:
        """Redraw what changed."""
        if changes.everything:
            self.table.reload()
        else:
            self.table.on_changes(changes.of("release"), settle=settle)

    def scene(self) -> Scene:
        """Act on the release under the cursor."""
        return self.scene_of(release=self.table.cursor)

    def copy_text(self) -> str:
        """Copy the id."""
        return self.table.cursor

    def asked(self, _mode: str, /) -> str:
        """Give what the list is narrowed to."""
        return self._find

    def answer(self, _mode: str, text: str, /) -> bool:
        """Show only releases that hold the text."""
        self._find = text
        wanted = text.casefold()
        self.table.filter(
            (lambda r: wanted in f"{r.name} {r.principal} {r.source_rev} {r.id}".casefold()) if wanted else None
        )
        return True

    def on_fleet_table_opened(self, event: FleetTable.Opened) -> None:
        """Open the release."""
        event.stop()
        self.app.push_screen(ReleaseScreen(self.desk, event.key))


class ReleaseScreen(ConsoleScreen):
    """One release: who gets what."""

    scope = "lines"
    view = "releases"

    def __init__(self, desk: Desk, release: str) -> None:
        super().__init__(desk)
        self._key = release

    def body(self) -> ComposeResult:
        """Give the head and the lines."""
        yield LinesPanel(self._head, id="head")
        yield LineView(empty="Reading its lines …", id="lines")

    def on_mount(self) -> None:
        """Read its lines."""
        self.query_one("#lines", LineView).focus()
        self._read()

    def take_in(self, changes: Changes, _settle: bool, /) -> None:
        """Do nothing: a release never changes."""

    @work(exclusive=True, exit_on_error=False)
    async def _read(self) -> None:
        """Read its lines; an error is said in their place."""
        lines = self.query_one("#lines", LineView)
        try:
            release = await self.desk.feed.release(self._key)
        except NixfleetError as error:
            lines.show([(Span(clean(str(error)), "bad"),)])
            return
        lines.show(
            [
                (*fit(view.line_for(line), 26), Span(f"  {size(line.nar_size):>8}  ", "dim"), *view.line_path(line))
                for line in release.lines
            ]
        )

    def _head(self, cells: int) -> list[Line]:
        release: Mapping[str, ReleaseView] = self.desk.store.releases
        found = release.get(self._key)
        lines = view.release_head(found, self.desk.clock(), cells - 2) if found else [(Span("It is gone.", "bad"),)]
        return [(Span(" "), *line) for line in lines]
