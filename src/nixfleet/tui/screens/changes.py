"""What changes between two releases, or on one device: by package, devices that change alike together."""

from collections.abc import Sequence

from textual import work
from textual.app import ComposeResult

from nixfleet.errors import NixfleetError
from nixfleet.model.text import clean
from nixfleet.preview.words import changes_lines
from nixfleet.tui.desk import Desk
from nixfleet.tui.preview import line_for
from nixfleet.tui.screens.base import ConsoleScreen
from nixfleet.tui.store import Changes
from nixfleet.tui.view.preview import said_lines
from nixfleet.tui.view.text import Line, Span, reflow
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.lines import LineView


class DifferenceScreen(ConsoleScreen):
    """A page of differences; what it compares is another's."""

    scope = "lines"

    def __init__(self, desk: Desk, key: str) -> None:
        super().__init__(desk)
        self._key = key

    def body(self) -> ComposeResult:
        """Give the head and the lines."""
        yield LinesPanel(lambda _: [(Span(f" {self.heading()}", "strong"),)], id="head")
        yield LineView(empty="Reading what the caches say of both …", id="lines")

    def on_mount(self) -> None:
        """Read, and show."""
        self.query_one("#lines", LineView).focus()
        self._read()

    def take_in(self, changes: Changes, _settle: bool, /) -> None:
        """Do nothing: what was compared stands."""

    def heading(self) -> str:
        """Say what is compared."""
        raise NotImplementedError

    async def named(self) -> tuple[Sequence[tuple[str, str, str]], str]:
        """Give (device's name, before, after) of all that is compared, and the command that does the same."""
        raise NotImplementedError

    @work(exclusive=True, exit_on_error=False)
    async def _read(self) -> None:
        """Compare; an error is said in its place."""
        lines = self.query_one("#lines", LineView)
        try:
            named, cli = await self.named()
            found = await self.desk.feed.changes(named, cli)
        except NixfleetError as error:
            lines.show([(Span(clean(str(error)), "bad"),)])
            return
        said = said_lines(changes_lines(found.changes, found.notes))
        cells = max(40, self.size.width - 2)
        shown: list[Line] = [part for line in said for part in reflow(line, cells)]
        lines.show(shown or [(Span("No device has a line in both.", "dim"),)])


class DiffScreen(DifferenceScreen):
    """Two releases, the older one first; the key is both ids."""

    view = "releases"

    def heading(self) -> str:
        """Name both."""
        return " → ".join(self._title_of(key) for key in self._key.split())

    def _title_of(self, key: str) -> str:
        release = self.desk.store.releases.get(key)
        return f"{clean(release.name)} ({key[:8]})" if release is not None else key[:8]

    async def named(self) -> tuple[Sequence[tuple[str, str, str]], str]:
        """Give what each device that both have a line for gets of them."""
        first, second = self._key.split()
        old, new = await self.desk.feed.release(first), await self.desk.feed.release(second)
        found: list[tuple[str, str, str]] = []
        for device in sorted(self.desk.store.devices.values(), key=lambda one: one.name):
            before = line_for(old.lines, device.id, device.tags)
            after = line_for(new.lines, device.id, device.tags)
            if before is not None and after is not None:
                found.append((device.name, before.path, after.path))
        return found, f"nixfleet release diff {first[:12]} {second[:12]}"


class ChangeScreen(DifferenceScreen):
    """One device: the system it runs, and the one it should run; the key is its id."""

    view = "devices"

    def heading(self) -> str:
        """Name it."""
        device = self.desk.store.devices.get(self._key)
        return f"What would change on {clean(device.name)}" if device is not None else "It is gone from the fleet."

    async def named(self) -> tuple[Sequence[tuple[str, str, str]], str]:
        """Give its two systems."""
        device = self.desk.store.devices.get(self._key)
        if device is None:
            return [], ""
        return [(device.name, device.system, device.intended)], f"nixfleet device show {clean(device.name)}"
