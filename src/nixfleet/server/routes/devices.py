"""Routes that show devices to people."""

from typing import Annotated

import msgspec
from litestar import get
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.types import ControllerRouterHandler

from nixfleet.errors import UserError
from nixfleet.model.answers import Devices, History, Lines, PastAttempt
from nixfleet.model.device import Attempt
from nixfleet.model.ids import MAX_INT
from nixfleet.model.text import clean
from nixfleet.model.views import DeviceView
from nixfleet.model.wire import Signed
from nixfleet.query import QueryError, compile_query, parse
from nixfleet.server.auth import AnyRequest, Auth
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.faults import Unknown
from nixfleet.server.routes.bodies import bounded
from nixfleet.server.store import AttemptRow

_QUERY_CHARS = 1_000
_HISTORY = 100


def device_routes(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    """Make the routes."""
    return [*_lists(coordinator, auth), *_details(coordinator, auth)]


def _lists(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    views = coordinator.views.devices

    @get("/v1/devices")
    async def devices(request: AnyRequest, wanted: Annotated[str, QueryParameter(name="query")] = "") -> Devices:
        """List the devices that a query matches."""
        await auth.person(request)
        if len(wanted) > _QUERY_CHARS:
            raise UserError(f"a query is longer than {_QUERY_CHARS} characters")
        found = views.all()
        if wanted.strip():
            try:
                predicate = compile_query(parse(wanted))
            except QueryError as error:
                raise UserError(str(error)) from error
            now = coordinator.wall_s()
            found = [view for view in found if predicate(view, now)]
        return Devices(devices=tuple(found))

    @get("/v1/devices/{name:str}")
    async def device(request: AnyRequest, name: FromPath[str]) -> DeviceView:
        """Show one device, by id or name."""
        await auth.person(request)
        return views.one(views.find(name))

    return [devices, device]


def _details(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    views = coordinator.views.devices

    @get("/v1/devices/{name:str}/lines")
    async def lines(request: AnyRequest, name: FromPath[str], after: FromQuery[int] = 0) -> Lines:
        """Give a device's output lines after a number."""
        await auth.person(request)
        output = coordinator.live.get(views.find(name)).output
        if output is None:
            return Lines(next=0, lines=())
        return Lines(next=output.next, lines=tuple(output.after(bounded(after, 0, MAX_INT, "after"))))

    @get("/v1/devices/{name:str}/history")
    async def history(request: AnyRequest, name: FromPath[str]) -> History:
        """List what a device has tried."""
        await auth.person(request)
        rows = await coordinator.store.status.history(views.find(name), _HISTORY)
        return History(attempts=tuple(_past(row, coordinator) for row in rows))

    @get("/v1/devices/{name:str}/report")
    async def report(request: AnyRequest, name: FromPath[str]) -> Signed:
        """Give a device's newest report as it signed it, so that anyone can check it."""
        await auth.person(request)
        row = await coordinator.store.status.device(views.find(name))
        if row is None:
            raise Unknown("the device has not reported yet")
        return Signed(payload=row.payload, signature=row.signature)

    return [lines, history, report]


def _past(row: AttemptRow, coordinator: Coordinator) -> PastAttempt:
    told = msgspec.json.decode(row.told, type=Attempt) if row.told else None
    work = coordinator.planner.works.get(row.rollout)
    return PastAttempt(
        rollout=row.rollout,
        release=coordinator.views.releases.name_of(work.logged.statement) if work else "",
        run=row.run,
        outcome=told.outcome.value if told and told.outcome else None,
        cause=told.cause.value if told and told.outcome else "",
        reason=clean(told.reason) if told else "",
        path=clean(told.path) if told else "",
        previous=clean(told.previous) if told else "",
        at=row.outcome_at or row.offered_at or row.changed_at,
        lines=tuple(map(clean, told.lines)) if told else (),
    )
