"""Lines with roles become strips with styles; the one place where a role meets a colour."""

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from nixfleet.model.text import clean
from nixfleet.tui.view.text import ROLES, Line, Span, fit


class Painter(Widget):
    """A widget that draws lines with roles; colours come from the component classes ``role--NAME``."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"role--{role}" for role in ROLES} | {"row--cursor", "row--marked"}

    _palette: dict[str, Style] | None = None

    def notify_style_update(self) -> None:
        """Forget the colours when the theme or the state of the widget changes."""
        super().notify_style_update()
        self._palette = None

    def style_of(self, name: str) -> Style:
        """Find the style of a component class, without its background; an empty name is the widget's own style."""
        if self._palette is None:
            self._palette = {}
        found = self._palette.get(name)
        if found is None:
            found = self.get_component_rich_style(name, partial=name.startswith("role--")) if name else self.rich_style
            self._palette[name] = found
        return found

    def strip(self, line: Line, cells: int, *, under: Style | None = None, right: bool = False) -> Strip:
        """Draw a line over exactly so many cells; neighbours of the same style become one segment."""
        base = self.style_of("")
        if under is not None:
            base += under
        # Cleaned where it is drawn, too: nothing foreign may reach the terminal, whatever a view forgot.
        safe = tuple(Span(clean(span.text), span.role) for span in line)
        # Where a row is inverted, colours would become patches behind its words.
        plain = bool(base.reverse)
        segments = [
            Segment(span.text, base if plain else base + self.style_of(f"role--{span.role}"))
            for span in fit(safe, cells, right=right)
        ]
        return Strip(segments, cells).simplify()


class Panel(Painter):
    """A widget whose whole content is a function of its width."""

    DEFAULT_CSS = "Panel { height: auto; width: 1fr; }"

    def lines(self, cells: int) -> list[Line]:
        """Give what to draw, each line at most so many cells."""
        raise NotImplementedError

    def get_content_height(self, container: object, viewport: object, width: int) -> int:  # noqa: ARG002 - the hook's signature
        """Say how many lines there are at a width."""
        return len(self._cached(width))

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        cells = self.size.width
        lines = self._cached(cells)
        return self.strip(lines[y] if y < len(lines) else (), cells)

    def redraw(self, *, layout: bool = False) -> None:
        """Draw again if what it shows has changed; `layout` when its height may have."""
        held, self._held = self._held, None
        if held is None or self._cached(held[0]) != held[1]:
            self.refresh(layout=layout and (held is None or len(self._cached(held[0])) != len(held[1])))

    _held: tuple[int, list[Line]] | None = None

    def _cached(self, cells: int) -> list[Line]:
        if self._held is None or self._held[0] != cells:
            self._held = (cells, self.lines(cells))
        return self._held[1]
