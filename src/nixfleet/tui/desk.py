"""What every screen is handed: the store, the feed, who sits here, and the options; no Textual, no API."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from nixfleet.model.views import AccessView, DeviceView, EntryView
from nixfleet.tui.calls import Calls
from nixfleet.tui.feed import Feed
from nixfleet.tui.foreground import Foreground
from nixfleet.tui.intents import Standing
from nixfleet.tui.ports import Acts, Authority, Connect, Identity, Verifier
from nixfleet.tui.store import Store
from nixfleet.tui.view.access import NO_ACCESS
from nixfleet.tui.view.chrome import FRESH
from nixfleet.tui.view.log import Sight, sight_of
from nixfleet.tui.view.text import Line

Theme = Literal["nixfleet-dark", "nixfleet-light", "nixfleet-high-contrast", "nixfleet-terminal"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a console is to behave; `clock` gives unix seconds, `log_file` is where the program's own log goes."""

    clock: Callable[[], int]
    view: str = "devices"
    query: str = ""
    context: str = ""
    mark: str = ""
    """What the header warns of for as long as it runs, such as that the fleet is made up."""
    welcome: Sequence[Line] = ()
    """A page to begin with."""
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
    before_quit: Callable[[Sequence[str]], str] = lambda _running: ""
    """Gives a sentence to confirm before quitting from the releases that are being rolled out; empty asks nothing."""


class Desk:
    """The console's things in one place; made once, handed to every screen."""

    def __init__(self, connect: Connect, options: Options) -> None:
        self.options = options
        self.clock = options.clock
        self.store = Store()
        self.calls = Calls(options.clock)
        self.feed = Feed(connect, self.store, self.calls, clock=options.clock)
        self.paused = False

    @property
    def identity(self) -> Identity:
        """Who sits here; nobody yet before the console is connected."""
        return Identity() if self.feed.ports is None else self.feed.ports.acts.identity

    @property
    def entries(self) -> Sequence[EntryView]:
        """The entries of the log that we verified so far, by index."""
        return () if self.feed.ports is None else self.feed.ports.verifier.entries

    @property
    def acts(self) -> Acts:
        """What changes the fleet. Raises: Unreachable before the console is connected."""
        return self.feed.connected.acts

    @property
    def verifier(self) -> Verifier:
        """Our own verified replay of the log. Raises: Unreachable before the console is connected."""
        return self.feed.connected.verifier

    @property
    def access(self) -> AccessView:
        """Who may do what, as far as our replay knows by now."""
        return NO_ACCESS if self.feed.ports is None else self.feed.ports.authority.access()

    @property
    def authority(self) -> Authority:
        """Who answers questions about rights. Raises: Unreachable before the console is connected."""
        return self.feed.connected.authority

    @property
    def standing(self) -> Standing:
        """What plans ask about rights."""
        if self.feed.ports is None:
            return Standing()
        authority = self.feed.ports.authority
        return Standing(
            access=authority.access(),
            stops=lambda subject: authority.stops(subject, list(self.store.rollouts.values())),
            why_not_sign=authority.why_not_sign,
            why_not=authority.why_not,
            touches=authority.touches,
        )

    def sight(self, device: DeviceView) -> Sight:
        """Hold what a device saw of the log against our own."""
        ports = self.feed.ports
        return sight_of(device, self.feed.check, ports.verifier.root_at) if ports is not None else "unknown"

    @property
    def live(self) -> bool:
        """Whether what one sees is up to date."""
        return self.feed.link.state in FRESH
