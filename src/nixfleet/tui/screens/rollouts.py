"""The rollouts: a list, and one with its waves as bars, the gate's reason, and its devices, those that failed first."""

from collections.abc import Mapping
from typing import Final

import msgspec
from textual import work
from textual.app import ComposeResult

from nixfleet.errors import NixfleetError
from nixfleet.model.device import Phase
from nixfleet.model.views import DeviceView, MemberView, RolloutView
from nixfleet.rollout.explaining import member_said
from nixfleet.tui.columns import Column, age_column, text_column
from nixfleet.tui.desk import Desk
from nixfleet.tui.intents import Scene
from nixfleet.tui.keys import bindings
from nixfleet.tui.screens.tables import TableScreen
from nixfleet.tui.store import Changes
from nixfleet.tui.view import rollouts as view
from nixfleet.tui.view.text import Line, Span, plain, wrap
from nixfleet.tui.view.timeline import timeline
from nixfleet.tui.widgets.chrome import LinesPanel
from nixfleet.tui.widgets.dialogs import PageDialog
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
    text_column("name", "release", view.title, cells=14, keep=10, role="strong", grow=1, most=28),
    Column(key="bar", title="devices", cells=18, keep=9, grow=1, most=26, draw=lambda r, c, _n: view.bar_cell(r, c)),
    Column(key="why", title="why", cells=18, keep=8, grow=6, draw=lambda r, _c, _n: view.reason(r)),
    text_column("took", "took", view.took, cells=5, keep=6, sort=False),
    text_column("by", "by", lambda r: r.principal, cells=8, keep=6, grow=1, most=20),
    text_column("id", "id", lambda r: r.id[:8], cells=8, keep=5),
    age_column("age", lambda r: r.at, cells=4, keep=7),
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
    text_column("name", "device", lambda m: m.name, cells=14, keep=10, role="strong", grow=1, most=22),
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

UNDER_WAY: Final = frozenset(Phase) - {Phase.IDLE, Phase.CONFIRMED, Phase.REVERTED, Phase.FAILED, Phase.REFUSED}
"""The phases of an update that has begun and has no outcome yet."""


class RolloutsScreen(TableScreen[RolloutView]):
    """All rollouts, open ones first."""

    scope = "rollouts"
    view = "rollouts"
    kind = "rollout"
    page = "rollout"
    empty = "No rollouts yet.\n \nDeploy with:  nixfleet deploy  or press D once there is a release."
    BINDINGS = bindings("rollouts")

    def body(self) -> ComposeResult:
        """Give the list, and under it the waves of the one under the cursor."""
        yield self.make_table()
        yield LinesPanel(self._chosen, id="below")

    def take_in(self, changes: Changes, settle: bool, /) -> None:
        """Redraw what changed, and the waves when they are among it."""
        super().take_in(changes, settle)
        if self.table.cursor in changes.of("rollout") or changes.everything:
            self.query_one("#below", LinesPanel).redraw(layout=True)

    def highlighted(self) -> None:
        """Show the waves of the rollout that the cursor came to."""
        self.query_one("#below", LinesPanel).redraw(layout=True)

    def make_table(self) -> FleetTable[RolloutView]:
        """Make the table, what is open first."""
        return self.table_of(
            COLUMNS, lambda: self.desk.store.rollouts, name_of=lambda r: -r.index, sort=("state", False)
        )

    def scene(self) -> Scene:
        """Act on the rollout under the cursor."""
        return self.scene_of(rollout=self.table.cursor)

    def words(self, record: RolloutView) -> str:
        """Find a rollout by release, state, who started it, id or note."""
        return f"{view.title(record)} {record.state} {record.principal} {record.id} {record.note}"

    def _chosen(self, cells: int) -> list[Line]:
        record = self.table.record
        return (
            [] if record is None else [(Span(" "), *line) for line in view.head(record, self.desk.clock(), cells - 2)]
        )


class RolloutScreen(TableScreen[MemberView]):
    """One rollout, live: its members' phases come from the devices themselves."""

    scope = "rollout"
    view = "rollouts"
    page = "device"
    empty = "Reading its devices …"
    BINDINGS = bindings("rollout")

    def __init__(self, desk: Desk, rollout: str) -> None:
        super().__init__(desk)
        self._key = rollout
        self._members: dict[str, MemberView] = {}

    def body(self) -> ComposeResult:
        """Give the head with the waves, and the table of members."""
        yield LinesPanel(self._head, id="head")
        yield self.make_table()
        yield LinesPanel(self._said, id="said")

    def make_table(self) -> FleetTable[MemberView]:
        """Make the table, those that failed first."""
        return self.table_of(
            MEMBER_COLUMNS, lambda: self._members, name_of=lambda member: member.name, sort=("state", False)
        )

    def begin(self) -> None:
        """Read its members."""
        super().begin()
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
        if self.table.cursor in changed:
            self.highlighted()

    def grow_older(self) -> None:
        """Draw the ages again."""
        self.query_one("#head", LinesPanel).redraw()

    def scene(self) -> Scene:
        """Act on this rollout, or on its devices that are marked, or the one under the cursor."""
        return self.scene_of(rollout=self._key, members=self.table.chosen if self.complete else ())

    def highlighted(self) -> None:
        """Say of the device that the cursor came to, in a sentence, why it stands where it stands."""
        self.query_one("#said", LinesPanel).redraw(layout=True)

    def action_timeline(self) -> None:
        """Show the rollout's course in time."""
        rollout = self.desk.store.rollouts.get(self._key)
        if rollout is not None:
            self.app.push_screen(PageDialog("Timeline (UTC)", timeline(rollout, self.desk.clock())))

    def _said(self, cells: int) -> list[Line]:
        member = self.table.record
        if member is None:
            return []
        return [(Span(" "), *line) for line in wrap(member_said(member).said, cells - 2, "dim", most=2)]

    def copy_text(self) -> str:
        """Copy the head."""
        return plain(self._head(120))

    def words(self, record: MemberView) -> str:
        """Find a member by name, by what became of it, or by why."""
        outcome = record.outcome.value if record.outcome else ""
        return f"{record.name} {record.phase.value} {outcome} {record.reason} {record.waits}"

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
            member.device: live_member(member, devices.get(member.device), self._key) for member in detail.members
        }
        self.table.empty = "It covers no device yet."
        self.table.reload()
        self.highlighted()

    def _head(self, cells: int) -> list[Line]:
        rollout = self.desk.store.rollouts.get(self._key)
        if rollout is None:
            return [(Span(" This rollout is gone.", "bad"),)]
        return [(Span(" "), *line) for line in view.head(rollout, self.desk.clock(), cells - 2)]


def live_member(member: MemberView, device: DeviceView | None, rollout: str) -> MemberView:
    """Bring a member up to date with what of its device is live and certain.

    A device's outcome, reason and final phase may be those of an earlier rollout than the one intended for it; only
    the coordinator's record of the member says what became of it in this one.
    """
    waits = "" if member.outcome is not None else member.waits
    if device is None or device.rollout != rollout:
        online = member.online if device is None else device.online
        return msgspec.structs.replace(member, online=online, waits=waits)
    is_busy = member.outcome is None and member.phase in UNDER_WAY
    return msgspec.structs.replace(
        member,
        phase=device.phase if is_busy and device.phase in UNDER_WAY else member.phase,
        online=device.online,
        waits=device.waits if member.outcome is None else "",
        transfer=device.transfer if is_busy or (device.transfer and device.transfer.ahead) else None,
    )
