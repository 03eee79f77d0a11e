"""Header, footer, a panel of lines, and the line one types queries into."""

from collections.abc import Callable

from rich.highlighter import Highlighter
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input

from nixfleet.tui.view.chrome import footer
from nixfleet.tui.view.text import Line, Span, clip, fit, wrap
from nixfleet.tui.widgets.paint import Panel


class LinesPanel(Panel):
    """A panel whose lines a function gives for a width."""

    def __init__(self, lines: Callable[[int], list[Line]], *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._lines_of = lines

    def lines(self, cells: int) -> list[Line]:
        """Give what to draw."""
        return self._lines_of(cells)


class Footer(Panel):
    """The keys of the screen, at most eight; a click presses one."""

    def __init__(self, keys: Callable[[], list[tuple[str, str, bool]]]) -> None:
        super().__init__(id="footer")
        self._keys = keys

    def lines(self, cells: int) -> list[Line]:
        """Give the one line."""
        return [footer(self._keys(), cells)]


class TooSmall(Panel):
    """What stands on the screen when the terminal is too small to be of use."""

    def lines(self, cells: int) -> list[Line]:
        """Ask for a larger terminal."""
        width, height = self.app.size
        text = ("Please make the terminal larger.", f"It is {width} by {height}; the console needs 80 by 20.")
        lines = [line for part in text for line in wrap(part, cells)]
        return [fit((Span(" " * max(0, (cells - len(line[0].text)) // 2)), *line), cells) for line in lines]


class _Underline(Highlighter):
    """Underlines the part of the input that is wrong."""

    def __init__(self) -> None:
        self.place: tuple[int, int] | None = None

    def highlight(self, text: Text) -> None:
        """Mark the place, if there is one."""
        if self.place is not None:
            text.stylize("underline bold", self.place[0], self.place[0] + self.place[1])


class Prompt(Vertical):
    """One line at the foot of a screen: a query, or what to find or to filter by."""

    class Changed(Message):
        """The text was edited; `mode` is what it is for."""

        def __init__(self, mode: str, text: str) -> None:
            super().__init__()
            self.mode = mode
            self.text = text

    class Closed(Message):
        """Editing ended; `kept` is false when it was given up."""

        def __init__(self, mode: str, *, kept: bool) -> None:
            super().__init__()
            self.mode = mode
            self.kept = kept

    def __init__(self) -> None:
        super().__init__(id="prompt")
        self.mode = ""
        self._underline = _Underline()
        self._said = ""
        self._bad = False
        self.display = False

    def compose(self) -> ComposeResult:
        """Lay out sign, input and what is said about it."""
        yield LinesPanel(self._fault, id="prompt-fault")
        with Horizontal():
            yield LinesPanel(lambda cells: [fit((Span(f" {self.sign} ", "accent"),), cells)], id="prompt-sign")
            yield Input(id="prompt-input", compact=True, highlighter=self._underline, select_on_focus=False)
            yield LinesPanel(self._notes, id="prompt-note")

    @property
    def sign(self) -> str:
        """The key that opened it."""
        return {"filter": "&"}.get(self.mode, "/")

    @property
    def text(self) -> str:
        """What was typed."""
        return self.query_one(Input).value

    @text.setter
    def text(self, text: str) -> None:
        self.query_one(Input).value = text

    def open(self, mode: str, text: str) -> None:
        """Start editing."""
        self.mode = mode
        self.display = True
        field = self.query_one(Input)
        with field.prevent(Input.Changed):
            field.value = text
        field.cursor_position = len(text)
        field.focus()
        self.query_one("#prompt-sign", LinesPanel).redraw()

    def close(self) -> None:
        """Go away."""
        self.display = False
        self.say("")

    def say(self, text: str, *, bad: bool = False, place: tuple[int, int] | None = None) -> None:
        """Tell the number of matches, or what is wrong and where."""
        self._said, self._bad = text, bad
        self._underline.place = place
        self.query_one(Input).refresh()
        self.query_one("#prompt-note", LinesPanel).redraw()
        self.query_one("#prompt-fault", LinesPanel).redraw(layout=True)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Pass the text on while it is typed."""
        event.stop()
        self.post_message(self.Changed(self.mode, event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep it."""
        event.stop()
        self.post_message(self.Closed(self.mode, kept=True))

    def on_key(self, event: events.Key) -> None:
        """Give it up on escape, and on backspace where there is nothing left to take away."""
        if event.key == "escape" or (event.key == "backspace" and not self.text):
            event.stop()
            event.prevent_default()
            self.post_message(self.Closed(self.mode, kept=False))

    def _notes(self, cells: int) -> list[Line]:
        text = "" if self._bad else clip(self._said, cells - 1)
        return [fit((Span(" " * max(0, cells - len(text) - 1)), Span(text, "dim")), cells)]

    def _fault(self, cells: int) -> list[Line]:
        """Say what is wrong in full, above the line it is wrong in."""
        return [(Span("   "), *line) for line in wrap(self._said, cells - 4, "bad", most=3)] if self._bad else []
