"""What every screen is handed: the store, the feed, who sits here, and the options; no Textual, no API."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from nixfleet.tui.calls import Calls
from nixfleet.tui.feed import Feed
from nixfleet.tui.foreground import Foreground
from nixfleet.tui.ports import Acts, Identity, Source, Verifier
from nixfleet.tui.store import Store
from nixfleet.tui.view.chrome import FRESH

Theme = Literal["nixfleet-dark", "nixfleet-light", "nixfleet-high-contrast", "nixfleet-terminal"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a console is to behave; `clock` gives unix seconds, `log_file` is where the program's own log goes."""

    clock: Callable[[], int]
    view: str = "devices"
    query: str = ""
    context: str = ""
    theme: Theme = "nixfleet-dark"
    mouse: bool = True
    refresh_hz: int = 5
    keys: Mapping[str, str] = {}
    log_file: Path | None = None
    foreground: Foreground | None = None
    """Lends the terminal to a signer that asks on it; None where none does."""
    pager: Callable[[str], None] | None = None
    """Shows a text to the person and returns when they are done; None takes the one of pydoc (``$PAGER``, less)."""
    stays: str = ""
    """A sentence why the program must not be suspended, such as that it serves devices; empty where it may."""
    before_quit: Callable[[], str] = str
    """A sentence to confirm before quitting, such as that a rollout is under way here; empty asks nothing."""


class Desk:
    """The console's things in one place; made once, handed to every screen."""

    def __init__(self, source: Source, acts: Acts, verifier: Verifier, options: Options) -> None:
        self.options = options
        self.clock = options.clock
        self.store = Store()
        self.calls = Calls(options.clock)
        self.acts = acts
        self.verifier = verifier
        self.feed = Feed(source, self.store, verifier, self.calls, clock=options.clock)
        self.paused = False

    @property
    def identity(self) -> Identity:
        """Who sits here."""
        return self.acts.identity

    @property
    def live(self) -> bool:
        """Whether what one sees is up to date."""
        return self.feed.link.state in FRESH
