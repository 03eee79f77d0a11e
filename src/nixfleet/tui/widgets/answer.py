"""A field of text in a form: keys typed ahead go to the field that is next by then."""

from typing import Final

from textual import events
from textual.binding import Binding
from textual.widgets import Input

_EDITS: Final = {binding.key: binding.action for binding in Binding.make_bindings(Input.BINDINGS)}


class Answer(Input):
    """A field of text among others; `moved` says which keys lead away from it."""

    async def on_key(self, event: events.Key) -> None:
        """Act on a key at once; pass on what came for another field.

        Textual looks for a binding only once a key has come up to the app: keys typed behind it would overtake it.
        """
        focused = self.screen.focused
        if focused is not None and focused is not self:
            event.stop()
            event.prevent_default()
            focused.post_message(events.Key(event.key, event.character))
        elif self.moved(event.key):
            event.stop()
            event.prevent_default()
        elif event.key in _EDITS:
            event.stop()
            event.prevent_default()
            await self.run_action(_EDITS[event.key])

    def moved(self, key: str) -> bool:
        """Go to the next or the previous field; tells whether the key leads there."""
        if key in {"down", "tab"}:
            self.screen.focus_next()
        elif key in {"up", "shift+tab"}:
            self.screen.focus_previous()
        else:
            return False
        return True
