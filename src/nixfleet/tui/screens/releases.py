"""The releases, and who gets what of one."""

from collections.abc import Mapping

from textual import work
from textual.app import ComposeResult

from nixfleet.errors import NixfleetError
from nixfleet.model.text import clean
from nixfleet.model.views import ReleaseView
from nixfleet.tui.columns import Column, age_column, text_column
from nixfleet.tui.desk import Desk
from nixfleet.tui.intents import Scene
from nixfleet.tui.keys import bindings
from nixfleet.tui.screens.base import ConsoleScreen, OpenPage
from nixfleet.tui.screens.tables import TableScreen
from nixfleet.tui.store import Changes
from nixfleet.tui.view import records as view
from nixfleet.tui.view.text import Line, Span, fit, size
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.fleet_table import FleetTable
from nixfleet.tui.widgets.lines import LineView

RELEASE_COLUMNS: tuple[Column[ReleaseView], ...] = (
    text_column("name", "release", lambda r: r.name, cells=16, keep=10, role="strong", grow=2, most=40),
    text_column("for", "for", view.release_targets, cells=12, keep=9, role="plain", sort=False),
    text_column("by", "by", lambda r: r.principal, cells=12, keep=8, grow=1, most=22),
    text_column("source", "source", view.release_source, cells=20, keep=5, grow=3, sort=False),
    text_column("id", "id", lambda r: r.id[:8], cells=8, keep=6, sort=False),
    age_column("age", lambda r: r.at, cells=4, keep=7),
)


class ReleasesScreen(TableScreen[ReleaseView]):
    """All releases, newest first."""

    scope = "releases"
    view = "releases"
    kind = "release"
    page = "release"
    empty = "No releases yet.\n \nnixfleet release create NAME --device NAME=PATH  makes one."
    BINDINGS = bindings("releases")

    def make_table(self) -> FleetTable[ReleaseView]:
        """Make the table, newest first."""
        return self.table_of(
            RELEASE_COLUMNS, lambda: self.desk.store.releases, name_of=lambda r: -r.index, sort=("age", False)
        )

    def scene(self) -> Scene:
        """Act on the release under the cursor."""
        return self.scene_of(release=self.table.cursor)

    def action_diff(self) -> None:
        """Compare two marked releases, the older one first."""
        releases = self.desk.store.releases
        chosen = [key for key in self.table.chosen if key in releases]
        if len(chosen) != 2:
            self.notify("Mark two releases with space, then d shows what changes between them.", timeout=4)
            return
        older, newer = sorted(chosen, key=lambda key: releases[key].index)
        self.post_message(OpenPage("diff", f"{older} {newer}"))

    def words(self, record: ReleaseView) -> str:
        """Find a release by name, publisher, revision or id."""
        return f"{record.name} {record.principal} {record.source_rev} {record.id}"


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
