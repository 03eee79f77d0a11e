"""The form one meets when there is no fleet yet: three answers, what `nixfleet init` needs; it makes nothing itself."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from textual import events
from textual.app import App, ComposeResult
from textual.containers import Vertical
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from nixfleet.errors import UserError
from nixfleet.model.ids import NAME, URL
from nixfleet.tui.driver import PatientDriver
from nixfleet.tui.themes import FALLBACKS, THEMES
from nixfleet.tui.view.text import Line, Span, clean, fit, wrap
from nixfleet.tui.widgets.chrome import LinesPanel

_NAME: Final = re.compile(NAME)
_URL: Final = re.compile(URL)


class KeyChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A key that may found the fleet: what `nixfleet init --key` takes, and what it is to a person."""

    value: str
    label: str


class FirstRun(msgspec.Struct, frozen=True, kw_only=True):
    """The three answers."""

    name: str
    url: str
    key: str


def read_answers(name: str, url: str, key: str) -> FirstRun:
    """Check the answers. Raises: UserError that names the first wrong one."""
    if not _NAME.match(name):
        raise UserError("a name has small letters, digits, dots and dashes, at most 63")
    if not _URL.match(url):
        raise UserError("an address starts with http:// or https://")
    if not key:
        raise UserError("choose the key that founds the fleet")
    return FirstRun(name=name, url=url, key=key)


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
            yield Input(self._first[0], id="name", placeholder="such as acme", compact=True)
            yield LinesPanel(lambda _: [(), (Span("Address that devices will reach", "dim"),)])
            yield Input(self._first[1], id="url", placeholder="http://this-machine.local:7070", compact=True)
            yield LinesPanel(lambda _: [(), (Span("Key that founds it", "dim"),)])
            yield OptionList(*(Option(clean(key.label)) for key in self._keys), markup=False, compact=True, id="key")
            yield LinesPanel(self._foot, id="first-foot")

    def on_mount(self) -> None:
        """Begin at the name."""
        keys = self.query_one("#key", OptionList)
        keys.highlighted = 0 if self._keys else None
        self.query_one("#name", Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go on to the next question."""
        event.stop()
        self.screen.focus_next()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take the answers once a key is chosen."""
        event.stop()
        try:
            answers = read_answers(
                self.query_one("#name", Input).value.strip(),
                self.query_one("#url", Input).value.strip(),
                self._keys[event.option_index].value,
            )
        except UserError as error:
            self._said = str(error)
            self.query_one("#first-foot", LinesPanel).redraw(layout=True)
        else:
            self.exit(answers)

    def on_key(self, event: events.Key) -> None:
        """Escape and Ctrl+C give up; arrows move between the questions, as Tab does."""
        if event.key in {"escape", "ctrl+c"}:
            event.stop()
            self.exit(None)
        elif event.key == "down" and isinstance(self.focused, Input):
            event.stop()
            self.screen.focus_next()
        elif event.key == "up" and isinstance(self.focused, Input):
            event.stop()
            self.screen.focus_previous()

    def _intro(self, cells: int) -> list[Line]:
        return wrap("There is no fleet here yet. Three answers make one; `nixfleet init` does the same.", cells)

    def _foot(self, cells: int) -> list[Line]:
        lines: list[Line] = [()]
        if self._said:
            lines += [*wrap(self._said, cells, "bad"), ()]
        keys = (Span("enter", "accent"), Span(" next    "), Span("tab", "accent"), Span(" field    "))
        return [*lines, fit((*keys, Span("esc", "accent"), Span(" not now")), cells)]


def run_first_form(*, name: str = "", url: str = "", keys: Sequence[KeyChoice], mouse: bool = True) -> FirstRun | None:
    """Ask for name, URL and key; None when the person gave up."""
    return FirstRunApp(name, url, keys, driver_class=PatientDriver).run(mouse=mouse)
