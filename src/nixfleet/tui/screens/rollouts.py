"""The rollouts: a list, and one with its waves as bars, the gate's reason, and its devices, those that failed first."""

from collections.abc import Mapping

import msgspec
from textual import work
from textual.app import ComposeResult

from nixfleet.errors import NixfleetError
from nixfleet.model.views import DeviceView, MemberView, RolloutView
from nixfleet.tui.columns import Column
from nixfleet.tui.desk import Desk
from nixfleet.tui.intents import Scene
from nixfleet.tui.keys import bindings
from nixfleet.tui.screens.base import ConsoleScreen
from nixfleet.tui.store import Changes
from nixfleet.tui.view import rollouts as view
from nixfleet.tui.view.text import Line, Span, ago, clean, plain
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.fleet_table import FleetTable

COLUMNS: tuple[Column[RolloutView], ...] = (
    Column(
        key="state",
        title="state",
        cells=12,
        keep=10,
        draw=lambda r, _c, _n: view.state_cell(r),
        sort=lambda r: (view.RANKS.get(r.state, 0) if view.is_open(r) else len(view.RANKS), -r.index),
    ),
    Column(
        key="name",
        title="release",
        cells=16,
        keep=10,
        grow=1,
        most=28,
        draw=lambda r, _c, _n: (Span(view.title(r), "strong"),),
        sort=view.title,
    ),
    Column(key="bar", title="devices", cells=16, keep=9, grow=1, most=26, draw=lambda r, c, _n: view.bar_cell(r, c)),
    Column(key="why", title="why", cells=18, keep=8, grow=4, draw=lambda r, _c, _n: view.reason(r)),
    Column(
        key="by",
        title="by",
        cells=10,
        keep=6,
        grow=1,
        most=20,
        draw=lambda r, _c, _n: (Span(clean(r.principal), "dim"),),
        sort=lambda r: r.principal,
    ),
    Column(
        key="id",
        title="id",
        cells=8,
        keep=5,
        draw=lambda r, _c, _n: (Span(r.id[:8], "dim"),),
        sort=lambda r: r.id,
    ),
    Column(
        key="age",
        title="age",
        cells=4,
        keep=7,
        right=True,
        draw=lambda r, _c, n: (Span(ago(r.at, n), "dim"),),
        sort=lambda r: -r.at,
    ),
)

MEMBER_COLUMNS: tuple[Column[MemberView], ...] = (
    Column(
        key="state",
        title="state",
        cells=11,
        keep=10,
        draw=lambda m, _c, _n: view.member_cell(m),
        sort=view.member_rank,
    ),
    Column(
        key="name",
        title="device",
        cells=14,
        keep=10,
        grow=1,
        most=26,
        draw=lambda m, _c, _n: (Span(clean(m.name), "strong"),),
        sort=lambda m: m.name,
    ),
    Column(
        key="wave",
        title="wave",
        cells=4,
        keep=9,
        right=True,
        draw=lambda m, _c, _n: (Span(str(m.wave), "dim"),),
        sort=lambda m: m.wave,
    ),
    Column(key="what", title="what", cells=30, keep=9, grow=4, draw=lambda m, c, _n: view.member_phrase(m, c)),
)


class RolloutsScreen(ConsoleScreen):
    """All rollouts, open ones first."""

    scope = "rollouts"
    view = "rollouts"
    BINDINGS = bindings("rollouts")

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._find = ""

    def body(self) -> ComposeResult:
        """Give the table."""
        yield FleetTable(
            COLUMNS,
            lambda: self.desk.store.rollouts,
            name_of=lambda rollout: -rollout.index,
            clock=self.desk.clock,
            sort=[("state", False)],
            id="table",
        )

    @property
    def table(self) -> FleetTable[RolloutView]:
        """The table."""
        return self.query_one("#table", FleetTable)

    def on_mount(self) -> None:
        """Show what there is."""
        self.table.empty = "No rollouts yet.\n \nDeploy with:  nixfleet deploy  or press D once there is a release."
        self.table.focus()
        self.table.reload()

    def take_in(self, changes: Changes, settle: bool, /) -> None:
        """Redraw what changed."""
        if changes.everything:
            self.table.reload()
        else:
            self.table.on_changes(changes.of("rollout"), settle=settle)

    def scene(self) -> Scene:
        """Act on the rollout under the cursor."""
        return self.scene_of(rollout=self.table.cursor)

    def copy_text(self) -> str:
        """Copy the id."""
        return self.table.cursor

    def asked(self, _mode: str, /) -> str:
        """Give what the list is narrowed to."""
        return self._find

    def answer(self, _mode: str, text: str, /) -> bool:
        """Show only rollouts that hold the text."""
        self._find = text
        wanted = text.casefold()
        self.table.filter(
            (lambda r: wanted in f"{view.title(r)} {r.state} {r.principal} {r.id} {r.note}".casefold())
            if wanted
            else None
        )
        return True

    def on_fleet_table_opened(self, event: FleetTable.Opened) -> None:
        """Open the rollout."""
        event.stop()
        self.app.push_screen(RolloutScreen(self.desk, event.key))

    def on_fleet_table_highlighted(self, event: FleetTable.Highlighted) -> None:
        """Other keys may be possible now."""
        event.stop()
        self.refresh_chrome()


class RolloutScreen(ConsoleScreen):
    """One rollout, live: its members' phases come from the devices themselves."""

    scope = "rollout"
    view = "rollouts"
    BINDINGS = bindings("rollout")

    def __init__(self, desk: Desk, rollout: str) -> None:
        super().__init__(desk)
        self._key = rollout
        self._members: dict[str, MemberView] = {}
        self._asked_at = 0

    def body(self) -> ComposeResult:
        """Give the head with the waves, and the table of members."""
        yield LinesPanel(self._head, id="head")
        yield FleetTable(
            MEMBER_COLUMNS,
            lambda: self._members,
            name_of=lambda member: member.name,
            clock=self.desk.clock,
            sort=[("state", False)],
            id="table",
        )

    @property
    def table(self) -> FleetTable[MemberView]:
        """The table."""
        return self.query_one("#table", FleetTable)

    def on_mount(self) -> None:
        """Read its members."""
        self.table.empty = "Reading its devices …"
        self.table.focus()
        self._read()

    def take_in(self, changes: Changes, settle: bool, /) -> None:
        """Bring members up to date from their devices; read them again when the rollout moved."""
        if self._key in changes.of("rollout") or changes.everything:
            self.query_one("#head", LinesPanel).redraw(layout=True)
            self._read()
        changed = changes.of("device") & self._members.keys()
        for key in changed:
            device = self.desk.store.devices.get(key)
            if device is not None:
                self._members[key] = live_member(self._members[key], device, self._key)
        self.table.on_changes(changed, settle=settle)

    def grow_older(self) -> None:
        """Draw the ages again."""
        self.query_one("#head", LinesPanel).redraw()

    def scene(self) -> Scene:
        """Act on this rollout."""
        return self.scene_of(rollout=self._key)

    def copy_text(self) -> str:
        """Copy the head."""
        return plain(self._head(120))

    def asked(self, _mode: str, /) -> str:
        """Give nothing: there is no text in force here."""
        return ""

    def on_fleet_table_opened(self, event: FleetTable.Opened) -> None:
        """Open the device."""
        from nixfleet.tui.screens.device import DeviceScreen  # the two screens lead to each other

        event.stop()
        self.app.push_screen(DeviceScreen(self.desk, event.key))

    @work(exclusive=True, exit_on_error=False)
    async def _read(self) -> None:
        """Read the members; an error is said where they would stand, what was there stays."""
        try:
            detail = await self.desk.feed.rollout(self._key)
        except NixfleetError as error:
            self.table.empty = str(error)
            return
        devices: Mapping[str, DeviceView] = self.desk.store.devices
        self._members = {
            member.device: live_member(member, devices[member.device], self._key)
            if member.device in devices
            else member
            for member in detail.members
        }
        self.table.empty = "It covers no device yet."
        self.table.reload()

    def _head(self, cells: int) -> list[Line]:
        rollout = self.desk.store.rollouts.get(self._key)
        if rollout is None:
            return [(Span(" This rollout is gone.", "bad"),)]
        return [(Span(" "), *line) for line in view.head(rollout, self.desk.clock(), cells - 2)]


def live_member(member: MemberView, device: DeviceView, rollout: str) -> MemberView:
    """Bring a member up to date with what its device last said, if that was about this rollout."""
    if device.rollout != rollout:
        return member
    return msgspec.structs.replace(
        member,
        phase=device.phase,
        outcome=device.outcome or member.outcome,
        online=device.online,
        reason=device.reason or member.reason,
        waits=device.waits,
        transfer=device.transfer,
    )
