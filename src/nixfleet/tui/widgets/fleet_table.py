"""A table over records that draws only the lines one sees; the cursor stays on a record, not on a row number.

Only a cursor that nobody has moved yet stays at the top: there stands what needs a person first.

It must never keep rendered rows: 50,000 records cost what their ids cost.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import var
from textual.scroll_view import ScrollView
from textual.strip import Strip

from nixfleet.tui.columns import GAP, Column, Laid, lay_out
from nixfleet.tui.keys import bindings
from nixfleet.tui.listing import Listing
from nixfleet.tui.view.text import Line, Span, fit, wrap
from nixfleet.tui.widgets.paint import Painter

T = TypeVar("T")

MARGIN = 2
"""Cells before the first column: the cursor and the mark."""
EDGE = 1
"""Cells left free at the right."""


class FleetTable(Painter, ScrollView, Generic[T], can_focus=True):
    """A sorted and filtered table; `on_changes` takes in what changed, twice a tick at most redrawing what is seen."""

    BINDINGS = bindings("table")
    empty: var[str] = var("", init=False)

    class Highlighted(Message):
        """The cursor came to another record."""

        def __init__(self, table: "FleetTable[Any]", key: str) -> None:
            super().__init__()
            self.table = table
            self.key = key

    class Opened(Message):
        """A record is to be opened."""

        def __init__(self, table: "FleetTable[Any]", key: str) -> None:
            super().__init__()
            self.table = table
            self.key = key

    def __init__(
        self,
        columns: Sequence[Column[T]],
        records: Callable[[], Mapping[str, T]],
        *,
        name_of: Callable[[T], Any],
        clock: Callable[[], int],
        sort: Sequence[tuple[str, bool]] = (),
        marks: bool = True,
        id: str | None = None,  # noqa: A002 - Textual's name
    ) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.hidden: frozenset[str] = frozenset()
        self.listing = Listing(records, name_of)
        self.marks: set[str] = set()
        self._can_mark = marks
        self.sorting: list[tuple[str, bool]] = list(sort)
        self._records = records
        self._clock = clock
        self._cursor = ""
        self._row = 0
        self._moved = False
        """Whether a person put the cursor where it is; until then it stays at the top, whatever comes there."""
        self._layout_of: tuple[tuple[int, frozenset[str]], Laid[T]] | None = None
        self._apply_sort()

    # What is shown

    @property
    def cursor(self) -> str:
        """The id under the cursor, or an empty text."""
        return self._cursor

    @property
    def record(self) -> T | None:
        """The record under the cursor."""
        return self._records().get(self._cursor)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The marked ids that are shown, in order; without marks the one under the cursor."""
        marked = tuple(key for key in self.listing.ids if key in self.marks) if self.marks else ()
        return marked or ((self._cursor,) if self._cursor else ())

    def filter(self, keep: Callable[[T], bool] | None) -> None:
        """Show only what `keep` holds for."""
        self.listing.filter(keep)
        self.reload()

    def reload(self) -> None:
        """Judge and order all records again."""
        self.listing.rebuild()
        self.marks &= set(self._records())
        self._rows_changed()

    def on_changes(self, changed: Iterable[str], *, settle: bool) -> None:
        """Take in changed ids; the order is mended only when `settle` allows it."""
        ids = set(changed)
        came_or_went = self.listing.update(ids)
        if came_or_went:
            self.marks &= set(self._records())
        if settle and not self.listing.settled:
            self.listing.settle()
            self._rows_changed()
        elif came_or_went:
            self._rows_changed()
        else:
            self._redraw(ids)

    # Drawing

    def render_line(self, y: int) -> Strip:
        """Draw the head or the row at line `y` of the widget."""
        cells = self.scrollable_content_region.width
        if y == 0:
            return self.strip(self._head(cells), cells)
        ids = self.listing.ids
        if not ids:
            return self.strip(self._when_empty(y, cells), cells)
        row = self.scroll_offset.y + y - 1
        if row >= len(ids):
            return self.strip((), cells)
        record = self._records().get(ids[row])
        if record is None:
            return self.strip((), cells)
        under = None
        if row == self._row:
            under = self.style_of("row--cursor") if self.has_focus or self.app.screen is not self.screen else None
        mark = Span("▪ ", "accent") if ids[row] in self.marks else Span("  ")
        if row == self._row:
            mark = Span("▌" + ("▪" if ids[row] in self.marks else " "), "accent")
        return self.strip((mark, *self._row_of(record, cells)), cells, under=under)

    def _row_of(self, record: T, cells: int) -> Line:
        line: list[Span] = []
        now = self._clock()
        for column, width in self._laid(cells):
            line += fit(column.draw(record, width, now), width, right=column.right)
            line.append(Span(" " * GAP))
        return tuple(line[:-1])

    def all_lines(self) -> list[Line]:
        """Draw the head and all rows, seen or not, at the width the table has."""
        cells, records = self.scrollable_content_region.width, self._records()
        rows = (records[key] for key in self.listing.ids if key in records)
        return [self._head(cells)[1:], *(self._row_of(record, cells) for record in rows)]

    def _laid(self, cells: int) -> Laid[T]:
        """Lay the columns out, once for each width."""
        key = (cells, self.hidden)
        if self._layout_of is None or self._layout_of[0] != key:
            self._layout_of = (key, lay_out(self.columns, cells - MARGIN - EDGE, self.hidden))
        return self._layout_of[1]

    def _head(self, cells: int) -> Line:
        spans: list[Span] = [Span(" " * MARGIN)]
        order = dict(self.sorting)
        for column, width in self._laid(cells):
            arrow = "" if column.key not in order else " ▾" if order[column.key] else " ▴"
            spans += fit((Span(column.title + arrow, "head"),), width, right=column.right)
            spans.append(Span(" " * GAP))
        return tuple(spans[:-1])

    def _when_empty(self, y: int, cells: int) -> Line:
        lines = [line for part in self.empty.split("\n") for line in wrap(part, min(60, cells - 4), "dim")]
        top = max(1, self.size.height // 3 - len(lines) // 2)
        if not 0 <= y - top < len(lines):
            return ()
        text = lines[y - top]
        indent = max(0, (cells - max(len(line[0].text) for line in lines)) // 2)
        return (Span(" " * indent), *text)

    def watch_empty(self) -> None:
        """Draw again: the words of an empty table changed."""
        self.refresh()

    def _redraw(self, ids: set[str]) -> None:
        """Draw again the lines one sees whose records changed."""
        top = self.scroll_offset.y
        seen = self.listing.ids[top : top + self.size.height]
        for line, key in enumerate(seen, start=1):
            if key in ids:
                self.refresh(Region(0, line, self.size.width, 1))

    def _redraw_row(self, row: int) -> None:
        line = row - self.scroll_offset.y + 1
        if 1 <= line < self.size.height:
            self.refresh(Region(0, line, self.size.width, 1))

    def _rows_changed(self) -> None:
        """Keep the cursor on its record, and that record where it is on the screen."""
        ids = self.listing.ids
        offset = self._row - self.scroll_offset.y
        if not self._moved:
            row = 0
        elif self._cursor and self._row < len(ids) and ids[self._row] == self._cursor:
            row = self._row
        elif self._cursor in ids:
            row = ids.index(self._cursor)
        else:
            row = min(self._row, len(ids) - 1)
        moved = row != self._row
        self.virtual_size = Size(self.scrollable_content_region.width, len(ids) + 1)
        self._set_row(max(0, row), scroll=False)
        if moved:
            self.scroll_to(y=max(0, row - offset), animate=False, immediate=True)
        self.refresh()

    # Moving

    def _set_row(self, row: int, *, scroll: bool = True) -> None:
        ids = self.listing.ids
        before, self._row = self._row, max(0, min(row, len(ids) - 1))
        key = ids[self._row] if ids else ""
        if key != self._cursor:
            self._cursor = key
            self.post_message(self.Highlighted(self, key))
        if scroll:
            for moved in (before, self._row):
                self._redraw_row(moved)
            self._scroll_to_cursor()

    def _scroll_to_cursor(self) -> None:
        height = max(1, self.size.height - 1)
        top = self.scroll_offset.y
        if self._row < top:
            self.scroll_to(y=self._row, animate=False, immediate=True)
        elif self._row >= top + height:
            self.scroll_to(y=self._row - height + 1, animate=False, immediate=True)

    def on_resize(self) -> None:
        """Keep the scroll range right."""
        self.virtual_size = Size(self.scrollable_content_region.width, len(self.listing.ids) + 1)
        # Later: how far one can scroll is known once the new height is in force.
        self.call_after_refresh(self._scroll_to_cursor)

    def _go(self, row: int) -> None:
        """Put the cursor where a person wants it."""
        self._moved = True
        self._set_row(row)

    def action_row(self, step: int) -> None:
        """Move the cursor by rows."""
        self._go(self._row + step)

    def action_page(self, step: int) -> None:
        """Move the cursor by pages."""
        self._go(self._row + step * max(1, self.size.height - 2))

    def action_edge(self, last: bool) -> None:
        """Move the cursor to the first or last row."""
        self._go(len(self.listing.ids) - 1 if last else 0)

    def go_to(self, holds: Callable[[T], bool], step: int) -> bool:
        """Go to the next or previous row that holds, around the end; tells whether there is one."""
        ids, records = self.listing.ids, self._records()
        for distance in range(1, len(ids) + 1):
            row = (self._row + step * distance) % len(ids)
            record = records.get(ids[row])
            if record is not None and holds(record):
                self._go(row)
                return True
        return False

    def action_open(self) -> None:
        """Open the record under the cursor, and stay on it."""
        if self._cursor:
            self._moved = True
            self.post_message(self.Opened(self, self._cursor))

    def action_mark(self) -> None:
        """Mark or unmark the record under the cursor, and go on."""
        if self._cursor and self._can_mark:
            self.marks ^= {self._cursor}
            self._redraw_row(self._row)
            self._go(self._row + 1)

    def action_mark_all(self) -> None:
        """Mark everything that is shown."""
        if self._can_mark:
            self.marks |= set(self.listing.ids)
            self.refresh()

    def action_mark_none(self) -> None:
        """Take all marks away."""
        self.marks.clear()
        self.refresh()

    def action_sort(self, second: bool) -> None:
        """Go on to the next sort order: each column up, then down; `second` changes the second key."""
        choices = [(column.key, down) for column in self.columns if column.sort for down in (False, True)]
        place = min(1 if second else 0, len(self.sorting))
        now = self.sorting[place] if place < len(self.sorting) else None
        after = choices[(choices.index(now) + 1) % len(choices)] if now in choices else choices[0]
        self.sorting[place : place + 1] = [after]
        self.sorting = self.sorting[:2]
        self._apply_sort()
        self.reload()

    def sort_by(self, key: str) -> None:
        """Sort by a column; the one it was sorted by becomes the second key, the same one turns round."""
        first = self.sorting[0] if self.sorting else None
        if first is not None and first[0] == key:
            self.sorting[0] = (key, not first[1])
        else:
            self.sorting = [(key, False), *self.sorting[:1]]
        self._apply_sort()
        self.reload()

    def _apply_sort(self) -> None:
        by_key = {column.key: column.sort for column in self.columns}
        keys = [(sort, down) for key, down in self.sorting if (sort := by_key.get(key)) is not None]
        self.listing.sort(*keys)

    def on_click(self, event: events.Click) -> None:
        """Go to the row, open it on a second click; sort by a column's title."""
        if event.y == 0:
            at = MARGIN
            for column, width in self._laid(self.scrollable_content_region.width):
                if at <= event.x < at + width and column.sort:
                    self.sort_by(column.key)
                at += width + GAP
            return
        row = self.scroll_offset.y + event.y - 1
        if row < len(self.listing.ids):
            self._go(row)
            if event.chain > 1:
                self.action_open()
