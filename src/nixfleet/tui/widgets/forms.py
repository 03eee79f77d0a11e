"""Forms over a screen: fields, and under them what they come to, worked out at every key; each gives back one value."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input

from nixfleet.errors import NixfleetError
from nixfleet.model.text import clean
from nixfleet.tui.forms import Reading
from nixfleet.tui.view.text import Line, Span, fit, joined, reflow
from nixfleet.tui.widgets.answer import Answer
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.dialogs import GIVE_UP, ROOMY_ROWS

T = TypeVar("T")
Field = tuple[str, str, str]
"""Name, label, and what stands in it while it is empty."""
Read = Callable[[Mapping[str, str]], Reading[T]]
"""What the fields come to, by their names. Raises: UserError while they cannot be read."""


class FormDialog(ModalScreen[T | None], Generic[T]):
    """A form; Enter gives its value, once there is one, and a form without one only tells something."""

    BINDINGS = GIVE_UP
    PLEASE: ClassVar = ((Span("fill in the fields", "dim"),),)

    def __init__(
        self, title: str, fields: Sequence[Field], first: Mapping[str, str], read: Read[T], *, gives: bool = True
    ) -> None:
        """Begin with `first` in the fields; `gives` is false for a form that has nothing to go on to."""
        super().__init__()
        self._title = title
        self._fields = fields
        self._first = first
        self._reads = read
        self._gives = gives
        self._value: T | None = None
        self._said: tuple[Line, ...] = self.PLEASE

    def compose(self) -> ComposeResult:
        """Lay out fields, what they come to, and keys."""
        with Vertical(classes="dialog -form") as box:
            box.border_title = Content(clean(self._title))
            for name, label, hint in self._fields:
                with Horizontal(classes="form-row"):
                    yield LinesPanel(_label(label))
                    yield Answer(self._first.get(name, ""), id=f"form-{name}", placeholder=hint, compact=True)
            yield LinesPanel(self._preview, id="form-preview")
            yield LinesPanel(self._keys, id="form-keys")

    def on_mount(self) -> None:
        """Begin at the first field that is still empty."""
        fields = list(self.query(Input))
        next((field for field in fields if not field.value), fields[0]).focus()
        self._work_out()

    def on_resize(self) -> None:
        """Give up the lines between the fields where there is no room for them."""
        self.set_class(self.app.size.height < ROOMY_ROWS, "-short")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Work it out again."""
        event.stop()
        self._work_out()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go on, if there is something to go on with: what stands in the fields now, however fast it was typed."""
        event.stop()
        self._work_out()
        if self._gives and self._value is not None:
            self.dismiss(self._value)

    def action_give_up(self) -> None:
        """Give nothing."""
        self.dismiss(None)

    def _work_out(self) -> None:
        texts = {name: self.query_one(f"#form-{name}", Input).value.strip() for name, _, _ in self._fields}
        try:
            answer = self._reads(texts)
        except NixfleetError as error:
            self._value, self._said = None, ((Span(clean(str(error)), "bad"),),)
        else:
            self._value, self._said = answer.value, answer.lines
        self.query_one("#form-preview", LinesPanel).redraw(layout=True)
        self.query_one("#form-keys", LinesPanel).redraw()

    def _preview(self, cells: int) -> list[Line]:
        return [(), *(part for line in self._said for part in reflow(line, cells))]

    def _keys(self, cells: int) -> list[Line]:
        possible = self._value is not None
        go_on = (Span("enter", "accent" if possible else "dim"), Span(" go on", "plain" if possible else "dim"))
        back = (Span("esc ^c", "accent"), Span(" no" if self._gives else " close"))
        field = (Span("↑ ↓", "accent"), Span(" field"))
        return [(), fit(joined((go_on, field, back) if self._gives else (field, back), "    "), cells)]


def _label(label: str) -> Callable[[int], list[Line]]:
    return lambda _: [(Span(label, "dim"),)]


class SecretDialog(ModalScreen[None]):
    """Shows a secret once; it is in no log, and gone when this closes."""

    BINDINGS = GIVE_UP

    def __init__(self, title: str, text: str, lines: Sequence[Line]) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._lines = lines

    def compose(self) -> ComposeResult:
        """Lay out the secret and what to do with it."""
        with Vertical(classes="dialog -serious") as box:
            box.border_title = Content(clean(self._title))
            yield LinesPanel(self._secret)

    def on_key(self, event: events.Key) -> None:
        """Copy it, or close."""
        if event.key == "y":
            event.stop()
            self.app.copy_to_clipboard(self._text)
            self.notify("Copied.", timeout=2)
        elif event.key in {"q", "backspace"}:
            event.stop()
            self.action_give_up()

    def action_give_up(self) -> None:
        """Close."""
        self.dismiss()

    def _secret(self, cells: int) -> list[Line]:
        text = clean(self._text)
        rows: list[Line] = [(Span(text[at : at + cells], "accent"),) for at in range(0, len(text), cells)]
        keys = joined(((Span("y", "accent"), Span(" copy")), (Span("q esc", "accent"), Span(" close"))), "    ")
        return [*(part for line in self._lines for part in reflow(line, cells)), (), *rows, (), fit(keys, cells)]
