"""What the screens around a table share: taking in changes, narrowing by a text, opening what the cursor is on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from textual.app import ComposeResult

from nixfleet.tui.columns import Column
from nixfleet.tui.desk import Desk
from nixfleet.tui.keys import MARKING
from nixfleet.tui.screens.base import ConsoleScreen, OpenPage, Page
from nixfleet.tui.store import Changes, Kind
from nixfleet.tui.widgets.fleet_table import FleetTable

T = TypeVar("T")


class TableScreen(ConsoleScreen, Generic[T]):
    """A screen around one table: it follows records of `kind`, Enter opens `page`, and without rows it says `empty`."""

    kind: ClassVar[Kind | None] = None
    page: ClassVar[Page | None] = None
    empty: ClassVar[str] = ""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._find = ""

    def make_table(self) -> FleetTable[T]:
        """Make the screen's table."""
        raise NotImplementedError

    def table_of(
        self,
        columns: Sequence[Column[T]],
        records: Callable[[], Mapping[str, T]],
        *,
        name_of: Callable[[T], Any],
        sort: tuple[str, bool],
    ) -> FleetTable[T]:
        """Make a table that `table` finds; `name_of` breaks ties, `sort` is a column and whether it is reversed."""
        marks = self.scope in MARKING
        return FleetTable(
            columns, records, name_of=name_of, clock=self.desk.clock, sort=[sort], marks=marks, id="table"
        )

    def body(self) -> ComposeResult:
        """Give the table and nothing else."""
        yield self.make_table()

    @property
    def table(self) -> FleetTable[T]:
        """The table."""
        return self.query_one("#table", FleetTable)

    def on_mount(self) -> None:
        """Give the table the keys."""
        self.table.focus()
        self.begin()

    def begin(self) -> None:
        """Show what there is; Textual calls every class's `on_mount`, so pages that do more than this override it."""
        self.table.empty = self.empty
        self.table.reload()

    def take_in(self, changes: Changes, settle: bool, /) -> None:
        """Redraw what changed."""
        if changes.everything:
            self.table.reload()
        elif self.kind is not None:
            self.table.on_changes(changes.of(self.kind), settle=settle)

    def copy_text(self) -> str:
        """Copy the id under the cursor."""
        return self.table.cursor

    # Narrowing

    def words(self, record: T, /) -> str:
        """Give what of a record the text one asks for is looked for in."""
        raise NotImplementedError

    def asked(self, _mode: str, /) -> str:
        """Give what the list is narrowed to."""
        return self._find

    def answer(self, _mode: str, text: str, /) -> bool:
        """Show only records that hold the text, without regard to case."""
        self._find = text
        self.narrow()
        return True

    def judge(self) -> Callable[[T], bool] | None:
        """Give what tells whether a record is shown; None shows all."""
        wanted = self._find.casefold()
        return (lambda record: wanted in self.words(record).casefold()) if wanted else None

    def narrow(self) -> None:
        """Judge all records again."""
        holds = self.judge()
        self.table.empty = self.empty if holds is None else "Nothing matches."
        self.table.filter(holds)

    # Opening

    def highlighted(self) -> None:
        """Show what goes with the record that the cursor came to."""

    def on_fleet_table_opened(self, event: FleetTable.Opened) -> None:
        """Open the record's page."""
        event.stop()
        if self.page is not None:
            self.post_message(OpenPage(self.page, event.key))

    def on_fleet_table_highlighted(self, event: FleetTable.Highlighted) -> None:
        """Draw what depends on the cursor; other keys may be possible now, too."""
        event.stop()
        self.highlighted()
        self.refresh_chrome()
