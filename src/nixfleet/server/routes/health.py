"""Routes for whoever watches the coordinator itself: health, metrics, and the fleet at a glance; unsigned."""

from collections.abc import Iterator
from typing import Any

from litestar import Request, Response, get
from litestar.types import ControllerRouterHandler
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import nixfleet
from nixfleet.errors import Refused, Unreachable
from nixfleet.model.views import FleetView
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.settings import ServerSettings

ALWAYS = "always"
"""Mark (`opt`) of routes that answer before the coordinator is ready."""
_LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
_FORWARDED = frozenset({"forwarded", "via", "x-forwarded-for", "x-real-ip"})
"""What a proxy adds: RFC 7239, RFC 9110 (Via), and the two names in use before."""


def health_routes(coordinator: Coordinator, settings: ServerSettings) -> list[ControllerRouterHandler]:
    """Make the routes."""
    registry = CollectorRegistry()
    registry.register(_Gauges(coordinator))

    @get("/healthz", opt={ALWAYS: True})
    async def healthz() -> dict[str, str | int]:
        """Tell whether the coordinator serves with all its parts, and its database answers."""
        if not coordinator.ready:
            raise Unreachable("the coordinator is starting")
        if coordinator.failed:
            raise Unreachable("a part of the coordinator has failed; its journal says why: restart it")
        await coordinator.store.log.size()
        return {"status": "ok", "version": nixfleet.__version__, "log_size": coordinator.log.size}

    @get("/v1/fleet")
    async def fleet() -> FleetView:
        """Show the fleet at a glance; trust nothing of it."""
        return coordinator.views.fleet()

    @get("/v1/checkpoint", media_type="text/plain")
    async def checkpoint() -> bytes:
        """Give the newest checkpoint, a C2SP signed note."""
        return coordinator.log.checkpoint()

    @get("/metrics", media_type="text/plain")
    async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Give Prometheus metrics, to this machine only unless configured."""
        if not settings.metrics_anywhere and not _is_from_here(request):
            raise Refused("metrics are for this machine only")
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return [healthz, fleet, checkpoint, metrics]


def _is_from_here(request: Request[Any, Any, Any]) -> bool:
    """Tell whether a caller is on this machine, and not a proxy there that asks for somebody else."""
    here = request.client is not None and request.client.host in _LOOPBACK
    return here and not _FORWARDED & {name.lower() for name in request.headers}


class _Gauges(Collector):
    """Reads the coordinator's counts when asked; nothing is kept."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def collect(self) -> Iterator[Metric]:
        """Give the numbers."""
        one = self._coordinator
        for name, text, value in (
            ("log_entries", "Entries of the log", one.log.size),
            ("devices", "Devices enrolled, retired ones too", len(one.log.state.devices)),
            ("agent_streams", "Event streams of agents", len(one.agents)),
            ("console_streams", "Event streams of consoles", len(one.consoles)),
            ("open_rollouts", "Rollouts under way or standing", len(one.planner.open())),
            ("run_seconds", "Seconds a coordinator has run for this fleet", one.clock.now().run_s),
        ):
            yield GaugeMetricFamily(f"nixfleet_{name}", text, value=value)
