"""A view of many lines that draws only what one sees: follow the end, find, filter; for logs, pages and payloads."""

from collections.abc import Sequence

from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from nixfleet.tui.keys import bindings
from nixfleet.tui.view.text import Line, Span, width, wrap
from nixfleet.tui.widgets.paint import Painter


class LineView(Painter, ScrollView, can_focus=True):
    """Lines with roles; `follow` keeps the newest in sight until one scrolls up."""

    BINDINGS = bindings("lines")

    def __init__(
        self,
        lines: Sequence[Line] = (),
        *,
        follow: bool = False,
        empty: str = "",
        id: str | None = None,  # noqa: A002 - Textual's name
    ) -> None:
        super().__init__(id=id)
        self.follow = follow
        self.wanted = ""
        self.only = ""
        self._empty = empty
        self._lines: list[Line] = list(lines)
        self._shown: list[int] = list(range(len(self._lines)))
        self._hit = -1

    @property
    def all_lines(self) -> Sequence[Line]:
        """What was put in, unfiltered."""
        return self._lines

    @property
    def hits(self) -> int:
        """How many of the shown lines hold what is searched for."""
        return sum(1 for index in self._shown if self._holds(self._lines[index], self.wanted)) if self.wanted else 0

    def show(self, lines: Sequence[Line]) -> None:
        """Show other lines; where one has scrolled to is kept, but for `follow`."""
        self._lines = list(lines)
        self._choose()

    def find(self, text: str) -> None:
        """Go to the first line from here on that holds the text, without regard to case."""
        self.wanted = text.casefold()
        self._hit = self.scroll_offset.y - 1
        if text:
            self.action_next(1)
        self.refresh()

    def filter(self, text: str) -> None:
        """Show only lines that hold the text; none shows all."""
        self.only = text.casefold()
        self._choose()

    def render_line(self, y: int) -> Strip:
        """Draw one line; what is searched for is marked by a bar at the edge, and not by colour alone."""
        cells = self.scrollable_content_region.width
        if not self._shown:
            said = wrap(self._empty, max(4, cells - 2), "dim")
            return self.strip((Span(" "), *said[y]) if y < len(said) and self._empty else (), cells)
        row = self.scroll_offset.y + y
        if row >= len(self._shown):
            return self.strip((), cells)
        line = self._lines[self._shown[row]]
        if self.wanted and self._holds(line, self.wanted):
            under = self.style_of("row--cursor") if row == self._hit else self.style_of("row--marked")
            return self.strip((Span("▌", "accent"), *line), cells, under=under)
        return self.strip((Span(" "), *self._scrolled(line)), cells)

    def on_resize(self) -> None:
        """Keep the scroll range right."""
        self._measure()

    def action_scroll_by(self, step: int) -> None:
        """Scroll by lines; going up stops following."""
        self._scroll(self.scroll_offset.y + step)

    def action_page(self, step: int) -> None:
        """Scroll by pages."""
        self._scroll(self.scroll_offset.y + step * max(1, self.size.height - 1))

    def action_edge(self, last: bool) -> None:
        """Scroll to the first or the last line."""
        self._scroll(len(self._shown) if last else 0)

    def action_follow(self) -> None:
        """Follow the newest line, or stop."""
        self.follow = not self.follow
        if self.follow:
            self._measure()

    def action_next(self, step: int) -> None:
        """Go to the next or previous line that holds what is searched for, around the end."""
        count = len(self._shown)
        for distance in range(1, count + 1):
            row = (self._hit + step * distance) % count
            if self.wanted and self._holds(self._lines[self._shown[row]], self.wanted):
                self._hit = row
                self._scroll(row - self.size.height // 3)
                break
        self.refresh()

    def _scroll(self, y: int) -> None:
        bottom = max(0, len(self._shown) - self.size.height)
        self.follow = self.follow and y >= bottom
        self.scroll_to(y=max(0, min(y, bottom)), animate=False, immediate=True)

    def _scrolled(self, line: Line) -> Line:
        """Leave out what is scrolled off to the left."""
        left = self.scroll_offset.x
        if not left:
            return line
        text = "".join(span.text for span in line)[left:]
        return (Span(text, line[0].role if line else "plain"),)

    def _choose(self) -> None:
        self._shown = [index for index, line in enumerate(self._lines) if self._holds(line, self.only)]
        self._measure()

    def _measure(self) -> None:
        widest = max((width(self._lines[index]) for index in self._shown[-500:]), default=0)
        self.virtual_size = Size(max(self.size.width, widest + 1) if widest > self.size.width else 0, len(self._shown))
        if self.follow:
            self.scroll_to(y=max(0, len(self._shown) - self.size.height), animate=False, immediate=True)
        self.refresh()

    @staticmethod
    def _holds(line: Line, wanted: str) -> bool:
        return not wanted or wanted in "".join(span.text for span in line).casefold()
