"""Records for console and command line, made from log, reports and plans; nothing of them is signed."""

from urllib.parse import urlsplit

import nixfleet
from nixfleet.model.views import FleetView
from nixfleet.server.coordinator.clock import RunClock
from nixfleet.server.coordinator.device_views import DeviceViews
from nixfleet.server.coordinator.live import LiveDevices
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.planner import Planner
from nixfleet.server.coordinator.release_views import ReleaseViews
from nixfleet.server.coordinator.releases import Releases
from nixfleet.server.coordinator.rollout_views import RolloutViews
from nixfleet.server.coordinator.twins import Twins


class Views:
    """Views of everything, by kind."""

    def __init__(
        self,
        log: LogKeeper,
        live: LiveDevices,
        planner: Planner,
        releases: Releases,
        clock: RunClock,
        twins: Twins,
    ) -> None:
        self._log = log
        self._clock = clock
        self.releases = ReleaseViews(log, releases)
        self.devices = DeviceViews(log, live, planner, self.releases, clock, twins)
        self.rollouts = RolloutViews(log, live, planner, self.releases, clock)
        self.devices.partial = self.rollouts.partial

    def fleet(self) -> FleetView:
        """Show the fleet at a glance."""
        root = self._log.root_statement()
        return FleetView(
            id=self._log.fleet,
            name=self._log.name or urlsplit(root.urls[0]).hostname or "",
            urls=root.urls,
            log_size=self._log.size,
            log_root=self._log.state.tree.root().hex(),
            epoch=root.log.epoch,
            root_keys=len(self._log.state.root_keys.keys() - self._log.state.revoked_keys.keys()),
            protocol=root.protocol,
            server_time=self._clock.wall_s(),
            version=nixfleet.__version__,
        )
