"""A preview, and a difference of systems, as lines of the console; pure."""

from collections.abc import Iterable, Sequence

from nixfleet.model.text import counted
from nixfleet.preview.plan import Preview
from nixfleet.preview.words import Said, said_of
from nixfleet.tui.view.text import Line, Span, reflow

_COUNT_CELLS = 5


def preview_lines(preview: Preview, now: int) -> tuple[Line, ...]:
    """Draw what is to be said of a preview."""
    return tuple(said_lines(said_of(preview, now)))


def said_lines(lines: Iterable[Said]) -> Iterable[Line]:
    """Draw lines of words, their counts in a column; the first, which sums up, stands without one."""
    for number, line in enumerate(lines):
        count = "" if line.count is None else f"{line.count:,}"
        lead = "" if number == 0 and not count else f"{count:>{_COUNT_CELLS}}  "
        yield (Span(lead, "strong"), Span(line.text, line.tone)) if lead else (Span(line.text, line.tone),)


def shortened(lines: Sequence[Line], cells: int, rows: int) -> list[Line]:
    """Break lines that are too long, and keep no more than there is room for; how many are missing is said.

    What is dim goes first, then what is plain, each from the end; a line is there whole or not at all.
    """
    broken = [reflow(line, cells) for line in lines]
    kept = set(range(len(lines)))
    for place in sorted(kept, key=lambda place: (-_weight(lines[place]), -place)):
        if len(kept) == 1 or sum(len(broken[one]) for one in kept) + (len(kept) < len(lines)) <= rows:
            break
        kept.discard(place)
    gone = len(lines) - len(kept)
    more: list[Line] = [(Span(f"… and {counted(gone, 'more line')}", "dim"),)] if gone else []
    return [*(part for place in sorted(kept) for part in broken[place]), *more]


def _weight(line: Line) -> int:
    order = ("bad", "strong", "warn", "plain", "dim")
    return order.index(line[-1].role) if line and line[-1].role in order else len(order)
