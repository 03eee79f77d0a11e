"""Which columns fit, and how wide each is; pure arithmetic."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from nixfleet.model.text import clean
from nixfleet.tui.view.text import Line, Role, Span, ago

T = TypeVar("T")
Draw = Callable[[T, int, int], Line]
"""A record, the cells there are, and the time → what stands in the column."""

GAP = 2


class Column(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A column: at least `cells` wide, at most `most`; the lowest `keep` goes first where there is no room."""

    key: str
    title: str
    cells: int
    draw: Draw[T]
    sort: Callable[[T], Any] | None = None
    keep: int = 9
    grow: int = 0
    most: int = 200
    right: bool = False


def text_column(
    key: str,
    title: str,
    of: Callable[[T], str],
    *,
    cells: int,
    keep: int,
    role: Role = "dim",
    grow: int = 0,
    most: int = 200,
    sort: bool = True,
) -> Column[T]:
    """Make a column of plain words, made harmless; unless `sort` is false it is sorted by the words themselves."""
    return Column(
        key=key,
        title=title,
        cells=cells,
        keep=keep,
        grow=grow,
        most=most,
        draw=lambda record, _cells, _now: (Span(clean(of(record)), role),),
        sort=of if sort else None,
    )


def age_column(title: str, at: Callable[[T], int], *, cells: int, keep: int) -> Column[T]:
    """Make a column of how long ago something was (`at` in unix seconds), the newest first."""
    return Column(
        key="age",
        title=title,
        cells=cells,
        keep=keep,
        right=True,
        draw=lambda record, _cells, now: (Span(ago(at(record), now), "dim"),),
        sort=lambda record: -at(record),
    )


Laid = tuple[tuple[Column[T], int], ...]


def lay_out(columns: Sequence[Column[T]], width: int, hidden: frozenset[str] = frozenset()) -> Laid[T]:
    """Choose columns that fit in so many cells, those to keep first, and share out what is left over."""
    room = width
    chosen: set[str] = set()
    for column in sorted(columns, key=lambda column: -column.keep):
        needs = _least(column) + (GAP if chosen else 0)
        if column.key in hidden:
            continue
        if needs > room and chosen:
            break
        chosen.add(column.key)
        room -= needs
    shown = [column for column in columns if column.key in chosen]
    widths = {column.key: _least(column) for column in shown}
    growing = [column for column in shown if column.grow]
    while room > 0 and growing:
        unit = max(1, room // sum(column.grow for column in growing))
        for column in tuple(growing):
            more = min(room, unit * column.grow, column.most - widths[column.key])
            widths[column.key] += more
            room -= more
            if widths[column.key] >= column.most:
                growing.remove(column)
            if room <= 0:
                break
    return tuple((column, widths[column.key]) for column in shown)


def _least(column: Column[T]) -> int:
    """Give the least width: a sorted column's title has an arrow beside it."""
    return max(column.cells, len(column.title) + (2 if column.sort else 0))
