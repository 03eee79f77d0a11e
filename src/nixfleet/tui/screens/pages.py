"""Every screen by name: the views that the number keys lead to, and the pages that records open."""

from collections.abc import Callable
from typing import Final

from textual.screen import Screen

from nixfleet.tui.desk import Desk
from nixfleet.tui.screens.access import AccessScreen, RightScreen
from nixfleet.tui.screens.audit import AuditScreen, EntryScreen
from nixfleet.tui.screens.base import Page
from nixfleet.tui.screens.changes import ChangeScreen, DiffScreen
from nixfleet.tui.screens.device import DeviceScreen
from nixfleet.tui.screens.devices import DevicesScreen
from nixfleet.tui.screens.enroll import EnrollScreen
from nixfleet.tui.screens.log import RefusedScreen, WitnessesScreen
from nixfleet.tui.screens.releases import ReleaseScreen, ReleasesScreen
from nixfleet.tui.screens.rollouts import RolloutScreen, RolloutsScreen

VIEWS: Final[dict[str, Callable[[Desk], Screen[None]]]] = {
    "devices": DevicesScreen,
    "rollouts": RolloutsScreen,
    "enroll": EnrollScreen,
    "audit": AuditScreen,
    "releases": ReleasesScreen,
    "access": AccessScreen,
}
PAGES: Final[dict[Page, Callable[[Desk, str], Screen[None]]]] = {
    "device": DeviceScreen,
    "rollout": RolloutScreen,
    "release": ReleaseScreen,
    "entry": EntryScreen,
    "right": RightScreen,
    "witnesses": WitnessesScreen,
    "refused": RefusedScreen,
    "diff": DiffScreen,
    "change": ChangeScreen,
}
