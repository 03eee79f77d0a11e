"""The form one meets when there is no fleet yet: three answers, what `nixfleet init` needs; it makes nothing itself."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec
from textual import events
from textual.app import App, ComposeResult
from textual.containers import Vertical
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from nixfleet.errors import UserError
from nixfleet.model.text import clean
from nixfleet.model.typed import check_name, checked_url
from nixfleet.tui.themes import FALLBACKS, THEMES
from nixfleet.tui.view.text import Line, Span, fit, wrap
from nixfleet.tui.widgets.answer import Answer
from nixfleet.tui.widgets.chrome import LinesPanel

_CHECKS: Final[dict[str, Callable[[str], object]]] = {"name": partial(check_name, what="fleet"), "url": checked_url}
"""What is asked in a field of text, in the order of the form, and the rule that `nixfleet init` has for it."""


class KeyChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A key that may found the fleet: what `nixfleet init --key` takes, and what it is to a person."""

    value: str
    label: str


class FirstRun(msgspec.Struct, frozen=True, kw_only=True):
    """The three answers."""

    name: str
    url: str
    key: str


class Question(Answer):
    """A field that one leaves only by the app, which looks at the answer first."""

    def moved(self, key: str) -> bool:
        """Let the app go on."""
        if key not in {"enter", "down"} or not isinstance(self.app, FirstRunApp):
            return False
        self.app.action_focus_next()
        return True


class FirstRunApp(App[FirstRun | None], inherit_bindings=False):
    """The form."""

    CSS_PATH = "nixfleet.tcss"
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, name: str, url: str, keys: Sequence[KeyChoice], driver_class: type | None = None) -> None:
        super().__init__(driver_class=driver_class)
        self._first = (name, url)
        self._keys = tuple(keys)
        self._said = ""
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = "nixfleet-dark"

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Give the colours that only our themes name."""
        return dict(FALLBACKS)

    def compose(self) -> ComposeResult:
        """Lay out the three questions."""
        with Vertical(id="first-run"), Vertical(classes="dialog -form") as box:
            box.border_title = "A new fleet"
            yield LinesPanel(self._intro)
            yield LinesPanel(lambda _: [(), (Span("Name", "dim"),)])
            yield Question(self._first[0], id="name", placeholder="such as acme", compact=True)
            yield LinesPanel(lambda _: [(), (Span("Address that devices will reach", "dim"),)])
            yield Question(self._first[1], id="url", placeholder="http://this-machine.local:7070", compact=True)
            yield LinesPanel(lambda _: [(), (Span("Key that founds it", "dim"),)])
            yield OptionList(*(Option(clean(key.label)) for key in self._keys), markup=False, compact=True, id="key")
            yield LinesPanel(self._foot, id="first-foot")

    def on_mount(self) -> None:
        """Begin at the name."""
        keys = self.query_one("#key", OptionList)
        keys.highlighted = 0 if self._keys else None
        self.query_one("#name", Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Take back what was said of a field once it is being mended."""
        event.stop()
        self._say("")

    def on_input_blurred(self, event: Input.Blurred) -> None:
        """Say what is wrong with a field that was left by whatever way; not when it was the terminal that was left."""
        event.stop()
        if self.app_focus:
            self._say(self._fault(event.input))

    def action_focus_next(self) -> None:
        """Go on to the next question, but not from a wrong answer; back one may always go."""
        fault = self._fault(self.focused) if isinstance(self.focused, Input) else ""
        self._say(fault)
        if not fault:
            self.screen.focus_next()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take the answers once a key is chosen; a wrong one is gone back to."""
        event.stop()
        fields = [self.query_one(f"#{asked}", Input) for asked in _CHECKS]
        for field in fields:
            fault = self._fault(field)
            if fault:
                field.focus()
                self._say(fault)
                return
        name, url = (field.value.strip() for field in fields)
        self.exit(FirstRun(name=name, url=url, key=self._keys[event.option_index].value))

    def on_key(self, event: events.Key) -> None:
        """Escape and Ctrl+C give up; arrows move between the questions, as Tab does."""
        if event.key in {"escape", "ctrl+c"}:
            event.stop()
            self.exit(None)
        elif event.key == "up" and isinstance(self.focused, Input):
            event.stop()
            self.screen.focus_previous()

    @staticmethod
    def _fault(field: Input) -> str:
        """Say what is wrong with an answer; nothing when it is right."""
        try:
            _CHECKS[field.id or ""](field.value.strip())
        except UserError as error:
            return str(error)
        return ""

    def _say(self, said: str) -> None:
        if said != self._said:
            self._said = said
            self.query_one("#first-foot", LinesPanel).redraw(layout=True)

    def _intro(self, cells: int) -> list[Line]:
        return wrap("There is no fleet here yet. Three answers make one; `nixfleet init` does the same.", cells)

    def _foot(self, cells: int) -> list[Line]:
        lines: list[Line] = [()]
        if self._said:
            lines += [*wrap(self._said, cells, "bad"), ()]
        keys = (Span("enter", "accent"), Span(" next    "), Span("tab", "accent"), Span(" field    "))
        return [*lines, fit((*keys, Span("esc", "accent"), Span(" not now")), cells)]
