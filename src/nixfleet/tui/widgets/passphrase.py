"""A question for a secret over the screen: what is typed is not shown, and kept nowhere here."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input

from nixfleet.model.text import clean
from nixfleet.tui.view.text import Line, Span, joined
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.dialogs import GIVE_UP


class PassphraseDialog(ModalScreen[str]):
    """Asks for a passphrase; nothing typed is a no."""

    BINDINGS = GIVE_UP

    def __init__(self, text: str) -> None:
        """Ask by `text`."""
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Lay out the question."""
        with Vertical(classes="dialog -serious") as box:
            box.border_title = Content("Sign with a sealed key")
            yield LinesPanel(self._question)
            yield Input(password=True, id="passphrase", compact=True)
            yield LinesPanel(self._keys)

    def on_mount(self) -> None:
        """Begin to type at once."""
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Give what was typed."""
        event.stop()
        self.dismiss(event.value)

    def action_give_up(self) -> None:
        """Give nothing."""
        self.dismiss("")

    def _question(self, _cells: int) -> list[Line]:
        return [(Span(clean(self._text).rstrip(": ") + ":"),), ()]

    def _keys(self, _cells: int) -> list[Line]:
        keys = joined(((Span("enter", "accent"), Span(" sign")), (Span("esc ^c", "accent"), Span(" no"))), "    ")
        return [(), keys]
