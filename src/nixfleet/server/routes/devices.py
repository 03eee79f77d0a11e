"""Routes that show devices to people."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated

import msgspec
from litestar import get
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.types import ControllerRouterHandler

from nixfleet.errors import UserError
from nixfleet.model.answers import DeviceReport, Devices, History, Lines, PastAttempt, Reports
from nixfleet.model.device import Attempt
from nixfleet.model.ids import MAX_INT, DeviceId
from nixfleet.model.text import clean
from nixfleet.model.views import DeviceView
from nixfleet.model.wire import Signed
from nixfleet.query import QueryError, compile_query, parse
from nixfleet.server.auth import AnyRequest, Auth, Reader
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.faults import Unknown
from nixfleet.server.routes.bodies import bounded
from nixfleet.server.store import AttemptRow

_QUERY_CHARS = 1_000
_HISTORY = 100
_REPORTS = 500
"""Rows of a page of reports: at most 64 KiB each, and some 2 KiB as devices write them."""
_REPORTS_BYTES = 4 << 20
_ID_CHARS = 32
Find = Callable[[AnyRequest, str, str], Awaitable[tuple[Reader, str]]]


def device_routes(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    """Make the routes."""
    return [*_lists(coordinator, auth), *_details(coordinator, auth), _reports(coordinator, auth)]


def _lists(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    views = coordinator.views.devices
    find = _finder(coordinator, auth)

    @get("/v1/devices")
    async def devices(request: AnyRequest, wanted: Annotated[str, QueryParameter(name="query")] = "") -> Devices:
        """List the devices that a query matches, of those that the caller may read of."""
        reader = await auth.reader(request, "list the devices")
        if len(wanted) > _QUERY_CHARS:
            raise UserError(f"a query is longer than {_QUERY_CHARS} characters")
        found = views.all(reader.reach)
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
        reader, found = await find(request, name, "read")
        return views.seen(found, reader.reach)

    return [devices, device]


def _finder(coordinator: Coordinator, auth: Auth) -> Find:
    views = coordinator.views.devices

    async def find(request: AnyRequest, name: str, verb: str) -> tuple[Reader, str]:
        """Find a device, by id or name, that the caller may read of. Raises: Untrusted, Refused, Unknown."""
        reader = await auth.reader(request, f"{verb} devices")
        device = await coordinator.known(partial(views.find, name))
        shown = coordinator.log.state.devices[device].statement.name
        await auth.over(reader, views.tags(device), f"{verb} device {shown}")
        return reader, device

    return find


def _details(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    find = _finder(coordinator, auth)

    @get("/v1/devices/{name:str}/lines")
    async def lines(request: AnyRequest, name: FromPath[str], after: FromQuery[int] = 0) -> Lines:
        """Give a device's output lines after a number."""
        _, device = await find(request, name, "read the output of")
        output = coordinator.live.get(device).output
        if output is None:
            return Lines(next=0, lines=())
        return Lines(next=output.next, lines=tuple(output.after(bounded(after, 0, MAX_INT, "after"))))

    @get("/v1/devices/{name:str}/history")
    async def history(request: AnyRequest, name: FromPath[str]) -> History:
        """List what a device has tried."""
        _, device = await find(request, name, "read the history of")
        rows = await coordinator.store.status.history(device, _HISTORY)
        return History(attempts=tuple(_past(row, coordinator) for row in rows))

    @get("/v1/devices/{name:str}/report")
    async def report(request: AnyRequest, name: FromPath[str]) -> Signed:
        """Give a device's newest report as it signed it, so that anyone can check it."""
        _, device = await find(request, name, "read the report of")
        row = await coordinator.store.status.device(device)
        if row is None:
            raise Unknown("the device has not reported yet")
        return Signed(payload=row.payload, signature=row.signature)

    return [lines, history, report]


def _reports(coordinator: Coordinator, auth: Auth) -> ControllerRouterHandler:
    @get("/v1/reports")
    async def reports(request: AnyRequest, after: FromQuery[str] = "") -> Reports:
        """Give the newest report of each unretired device that the caller may read of, as it signed it, in pages."""
        reader = await auth.reader(request, "read the reports of devices")
        devices, found, size = coordinator.log.state.devices, list[DeviceReport](), 0
        last = after[:_ID_CHARS]
        rows = await coordinator.store.status.reports(last, _REPORTS + 1)
        for place, row in enumerate(rows):
            if place == _REPORTS or (size := size + len(row.payload)) > _REPORTS_BYTES:
                return Reports(reports=tuple(found), next=last)
            last = row.device
            record = devices.get(DeviceId(row.device))
            if record is None or record.statement.state == "retired" or not reader.reach.over(record.statement.tags):
                continue
            signed = Signed(payload=row.payload, signature=row.signature)
            found.append(DeviceReport(device=row.device, report=signed))
        return Reports(reports=tuple(found))

    return reports


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
