"""Routes for people: sessions, and the devices that ask to be enrolled."""

from litestar import delete, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from nixfleet.model.answers import Requests
from nixfleet.model.wire import Signed
from nixfleet.server.auth import AnyRequest, Auth, Caller
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.routes.bodies import SIGNED_BYTES, decoded
from nixfleet.trust.replay.reach import may_enrol


def people_routes(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    """Make the routes."""

    @post("/v1/sessions", status_code=200, request_max_body_size=SIGNED_BYTES)
    async def open_session(request: AnyRequest) -> dict[str, str]:
        """Take a session key that a person signed, for at most 12 hours."""
        await coordinator.people.open_session(decoded(await request.body(), Signed))
        return {}

    @get("/v1/enroll")
    async def requests(request: AnyRequest) -> Requests:
        """List the devices that ask to be enrolled and that the caller could enrol, the oldest request first."""
        reader = await auth.reader(request, "list who asks to be enrolled")
        asking = coordinator.people.requests()
        return Requests(requests=tuple(view for view in asking if reader.reach.enrols(view.tags)))

    @delete("/v1/enroll/{device:str}", status_code=200)
    async def forget(request: AnyRequest, device: FromPath[str]) -> dict[str, str]:
        """Forget a request to be enrolled."""
        reader = await auth.reader(request, "forget a request to be enrolled")
        view = await coordinator.people.held(device)
        tags = view.tags if view is not None else {}
        if not may_enrol(coordinator.log.state, reader.key, tags, coordinator.wall_s()):
            named = view.name if view is not None else device[:12]
            what = f"forget the request of {named} to be enrolled"
            raise await auth.refuse(Caller(reader.key), what, f"to enroll {named}")
        await coordinator.forget_request(device)
        return {}

    return [open_session, requests, forget]
