"""Windows over a screen: confirm, menu, page of lines. Each gives back one value."""

import textwrap
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from nixfleet.errors import NixfleetError
from nixfleet.model.text import clean
from nixfleet.tui.confirm import Confirm
from nixfleet.tui.view.preview import shortened
from nixfleet.tui.view.text import Line, Span, fit
from nixfleet.tui.widgets.answer import Answer
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.lines import LineView

ROOMY_ROWS = 30
_AROUND_ROWS = 10
"""What stands around the lines of a question: frame, what to type, keys."""
_WHY_CELLS = 34
"""Of a reason beside an action of the menu, which is wrapped in its own column."""
GIVE_UP: list[BindingType] = [Binding("escape,ctrl+c", "give_up", priority=True, show=False)]
"""Escape is slow in tmux, so it is never the only way (console.md, Keys)."""


class ConfirmDialog(ModalScreen[bool]):
    """Asks before anything is signed; Enter alone never says yes (console.md, Keys)."""

    BINDINGS = GIVE_UP

    def __init__(self, confirm: Confirm, better: AsyncGenerator[Confirm, None] | None = None) -> None:
        """Ask `confirm`, and from then on what `better` gives, which knows more; it is closed with the dialog."""
        super().__init__()
        self.confirm = confirm
        self._better = better
        self._trouble: tuple[Line, ...] = ()

    def compose(self) -> ComposeResult:
        """Lay out question, what it touches, and how to answer."""
        with Vertical(classes="dialog" if self._better is None else "dialog -foreseen") as box:
            box.border_title = Content(clean(self.confirm.title))  # a str would be read as markup
            yield LinesPanel(self._touched, id="confirm-touched")
            yield LinesPanel(self._prompt, id="confirm-ask")
            yield Answer(id="confirm-input", compact=True, disabled=self.confirm.level == "yes")
            yield LinesPanel(self._keys, id="confirm-keys")

    def on_mount(self) -> None:
        """Set out how to answer, and begin to listen for what else is known."""
        self._fit_level()
        if self._better is not None:
            self._follow(self._better)

    def on_resize(self) -> None:
        """Make the lines anew for the room there is."""
        self.query_one("#confirm-touched", LinesPanel).redraw(layout=True)

    @work(exit_on_error=False, group="preview")
    async def _follow(self, better: AsyncGenerator[Confirm, None]) -> None:
        """Take each better question in; what keeps it from coming is said under the one there is."""
        try:
            async with aclosing(better):
                async for self.confirm in better:
                    self._fit_level()
        except NixfleetError as error:
            self._trouble = ((Span(f"the preview ends here: {clean(str(error))}", "bad"),),)
            self._fit_level()

    def _fit_level(self) -> None:
        """Show what answers the question: a key, or something to type. Which one may change meanwhile."""
        typed = self.confirm.level != "yes"
        self.query_one(".dialog").set_class(typed, "-serious")
        ask, field = self.query_one("#confirm-ask"), self.query_one("#confirm-input", Input)
        ask.display = field.display = typed
        field.disabled = not typed  # else it takes the keys that answer
        if typed and not field.has_focus:
            field.focus()
        for panel in self.query(LinesPanel):
            panel.redraw(layout=True)

    def on_key(self, event: events.Key) -> None:
        """Take y for yes and n for no."""
        if event.key == "n" and self.confirm.level == "yes":
            event.stop()
            self.dismiss(False)
        elif event.key == "y" and self.confirm.level == "yes":
            event.stop()
            self.dismiss(True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go on only when exactly what was asked for was typed; nothing typed is a no."""
        event.stop()
        if event.value.strip() in {"", self.confirm.expect}:
            self.dismiss(bool(event.value.strip()))
        else:
            event.input.add_class("-wrong")

    def action_give_up(self) -> None:
        """Say no."""
        self.dismiss(False)

    def _touched(self, cells: int) -> list[Line]:
        # 90 % of the screen is what a dialog may take (console.tcss).
        return shortened((*self.confirm.lines, *self._trouble), cells, self.app.size.height * 9 // 10 - _AROUND_ROWS)

    def _prompt(self, cells: int) -> list[Line]:
        what = "the number of devices" if self.confirm.level == "count" else "the name"
        return [(), fit((Span(f"Type {what}, "), Span(self.confirm.expect, "strong"), Span(", and Enter:")), cells)]

    def _keys(self, cells: int) -> list[Line]:
        if self.confirm.level != "yes":
            return [
                (),
                (Span("enter", "accent"), Span(" with nothing typed, or "), Span("esc", "accent"), Span("  no")),
            ]
        return [
            (),
            fit(
                (
                    Span("▌", "accent"),
                    Span("n", "accent"),
                    Span(" no    ", "strong"),
                    Span("y", "accent"),
                    Span(f" {self.confirm.verb}"),
                ),
                cells,
            ),
        ]


class MenuDialog(ModalScreen[str]):
    """A list to choose from; what is not possible is grey and says why. Gives the id, or an empty text."""

    BINDINGS = GIVE_UP

    def __init__(self, title: str, choices: Sequence[tuple[str, str, str, str]]) -> None:
        """Take the title and (id, key, label, why not)."""
        super().__init__()
        self._title = title
        self._choices = choices

    def compose(self) -> ComposeResult:
        """Lay out the list."""
        with Vertical(classes="dialog") as box:
            box.border_title = Content(clean(self._title))
            box.border_subtitle = "esc"
            yield OptionList(
                *(
                    Option(self._text(key, label, why), id=name, disabled=bool(why))
                    for name, key, label, why in self._choices
                ),
                markup=False,
                compact=True,
            )

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Give the choice back."""
        event.stop()
        self.dismiss(event.option_id or "")

    def on_key(self, event: events.Key) -> None:
        """Close, or choose by the action's own key."""
        if event.key in {"backspace", "q", "a"}:
            event.stop()
            self.action_give_up()
            return
        for name, key, _, why in self._choices:
            if key in {event.key, event.character} and not why:
                event.stop()
                self.dismiss(name)

    def action_give_up(self) -> None:
        """Choose nothing."""
        self.dismiss("")

    @staticmethod
    def _text(key: str, label: str, why: str) -> str:
        return f"{key or ' ':<2} {label:<28} " + f"\n{' ' * 32}".join(textwrap.wrap(clean(why), _WHY_CELLS))


class PageDialog(ModalScreen[None]):
    """A page of lines over the screen, for help and the command log."""

    BINDINGS = GIVE_UP

    def __init__(self, title: str, lines: Sequence[Line], *, end: bool = False) -> None:
        super().__init__()
        self._title = title
        self._lines = lines
        self._end = end

    def compose(self) -> ComposeResult:
        """Lay out the page."""
        with Vertical(classes="dialog -page") as box:
            box.border_title = self._title
            box.border_subtitle = "esc"
            yield LineView(self._lines, follow=self._end, empty="Nothing yet.")

    def on_key(self, event: events.Key) -> None:
        """Close on the keys that lead back."""
        if event.key in {"backspace", "q", "question_mark", "at"}:
            event.stop()
            self.action_give_up()

    def action_give_up(self) -> None:
        """Close."""
        self.dismiss()
