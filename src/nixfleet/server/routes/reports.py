"""Routes that devices speak on: sync, lines, reports, progress, and asking to be enrolled."""

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery
from litestar.types import ControllerRouterHandler

from nixfleet.model.device import Progress
from nixfleet.model.ids import MAX_INT
from nixfleet.model.wire import LineAnswer, Signed
from nixfleet.server.auth import AnyRequest, Auth
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.routes.bodies import PROGRESS_BYTES, SIGNED_BYTES, TAKEN, Taken, bounded, decoded, report_answer


def report_routes(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    """Make the routes."""

    @get("/v1/sync")
    async def sync(request: AnyRequest, size: FromQuery[int] = 0) -> Response[bytes]:
        """Give a device what is new since its log had `size` entries: a `Sync`."""
        caller = await auth.log_reader(request)
        device = caller.device
        body = await coordinator.presence.poll(device, bounded(size, 0, MAX_INT, "size"))
        return Response(body, media_type="application/json")

    @get("/v1/rollouts/{rollout:str}/line")
    async def line(request: AnyRequest, rollout: FromPath[str]) -> LineAnswer:
        """Prove to the calling device its own line of a rollout's release, or that it has none."""
        device, _ = await auth.device(request, "read a device's line of a rollout")
        return await coordinator.line(rollout, device)

    @post("/v1/reports", status_code=200, request_max_body_size=SIGNED_BYTES)
    async def report(request: AnyRequest) -> Taken:
        """Take a signed report; answered after a durable commit. A `seq` in the answer is why it was dropped."""
        return report_answer(await coordinator.report(decoded(await request.body(), Signed)))

    @post("/v1/progress", status_code=200, request_max_body_size=PROGRESS_BYTES)
    async def progress(request: AnyRequest) -> Taken:
        """Take live progress; it may be dropped."""
        device, body = await auth.device(request, "tell a device's progress")
        coordinator.progress(device, decoded(body, Progress))
        return TAKEN

    @post("/v1/enroll", status_code=200, request_max_body_size=SIGNED_BYTES)
    async def enroll(request: AnyRequest) -> Taken:
        """Take a signed request to be enrolled; it waits for an admin's device statement."""
        host = request.client.host if request.client is not None else None
        await coordinator.enroll(decoded(await request.body(), Signed), host)
        return TAKEN

    return [sync, line, report, progress, enroll]
