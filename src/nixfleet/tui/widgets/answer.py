"""Fields of a form: text, a choice of a few words, a section to unfold; keys typed ahead go where they are meant."""

from typing import Final

from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input

from nixfleet.tui.view.text import Line, Span, fit
from nixfleet.tui.widgets.paint import Panel

_EDITS: Final = {binding.key: binding.action for binding in Binding.make_bindings(Input.BINDINGS)}


def passed_on(field: Widget, event: events.Key) -> bool:
    """Pass on a key that came for another field, as keys do that are typed ahead; tells whether it was one."""
    focused = field.screen.focused
    if focused is None or focused is field:
        return False
    event.stop()
    event.prevent_default()
    focused.post_message(events.Key(event.key, event.character))
    return True


def moved_from(field: Widget, key: str) -> bool:
    """Go to the next or the previous field; tells whether the key leads there."""
    if key in {"down", "tab"}:
        field.screen.focus_next()
    elif key in {"up", "shift+tab"}:
        field.screen.focus_previous()
    else:
        return False
    return True


class Answer(Input):
    """A field of text among others; `moved` says which keys lead away from it."""

    async def on_key(self, event: events.Key) -> None:
        """Act on a key at once; pass on what came for another field.

        Textual looks for a binding only once a key has come up to the app: keys typed behind it would overtake it.
        """
        if passed_on(self, event):
            return
        if self.moved(event.key):
            event.stop()
            event.prevent_default()
        elif event.key in _EDITS:
            event.stop()
            event.prevent_default()
            await self.run_action(_EDITS[event.key])

    def moved(self, key: str) -> bool:
        """Go to the next or the previous field; tells whether the key leads there."""
        return moved_from(self, key)


class Turned(Message):
    """A choice was made, or a section folded or unfolded; `control` is what the person turned."""

    def __init__(self, turned: "Pick | Fold") -> None:
        super().__init__()
        self.turned = turned

    @property
    def control(self) -> "Pick | Fold":
        """The field."""
        return self.turned


class Pick(Panel, can_focus=True):
    """A choice of one among a few words, all of which stand there."""

    class Submitted(Message):
        """Enter: the form is to go on."""

    def __init__(self, options: tuple[str, ...], value: str, hint: str, *, id: str) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.options, self.value, self.hint = options, value, hint

    def lines(self, cells: int) -> list[Line]:
        """Draw the words, the chosen one marked by a glyph as well."""
        words: list[Span] = []
        for option in self.options:
            here = option == self.value
            words.append(Span(f" {'●' if here else '○'} {option} ", "strong" if here else "dim"))
        return [fit((*words, Span(f"  {self.hint}", "dim")), cells)]

    def on_key(self, event: events.Key) -> None:
        """Choose the next or the previous word; Enter goes on with the form."""
        if passed_on(self, event):
            return
        steps = {"right": 1, "space": 1, "left": -1}
        if event.key in steps:
            self._turn(steps[event.key])
        elif event.key == "enter":
            self.post_message(self.Submitted())
        elif not moved_from(self, event.key):
            return
        event.stop()
        event.prevent_default()

    def on_click(self) -> None:
        """Choose the next word."""
        self._turn(1)

    def _turn(self, step: int) -> None:
        self.value = self.options[(self.options.index(self.value) + step) % len(self.options)]
        self.redraw()
        self.post_message(Turned(self))


class Fold(Panel, can_focus=True):
    """The line of a section: what its fields come to, and whether they are shown."""

    def __init__(self, section: str, label: str) -> None:
        super().__init__(id=f"fold-{section}")
        self.section, self.label = section, label
        self.unfolded = False
        self.words: Line = ()

    def lines(self, cells: int) -> list[Line]:
        """Draw a triangle, the section's name and its words."""
        sign = "▾" if self.unfolded else "▸"
        return [fit((Span(f"{sign} ", "accent"), Span(f"{self.label:<13}", "strong"), *self.words), cells)]

    def say(self, words: Line) -> None:
        """Show other words."""
        self.words = words
        self.redraw()

    def on_key(self, event: events.Key) -> None:
        """Fold or unfold."""
        if passed_on(self, event):
            return
        turns = {"enter": True, "space": True, "right": not self.unfolded, "left": self.unfolded}
        if turns.get(event.key):
            self._turn()
        elif event.key not in turns and not moved_from(self, event.key):
            return
        event.stop()
        event.prevent_default()

    def on_click(self) -> None:
        """Fold or unfold."""
        self._turn()

    def _turn(self) -> None:
        self.unfolded = not self.unfolded
        self.redraw()
        self.post_message(Turned(self))
