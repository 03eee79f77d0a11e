"""Routes for people: sessions, and the devices that ask to be enrolled."""

from litestar import delete, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from nixfleet.model.answers import Requests
from nixfleet.model.wire import Signed
from nixfleet.server.auth import AnyRequest, Auth
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.routes.bodies import SIGNED_BYTES, decoded


def people_routes(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    """Make the routes."""

    @post("/v1/sessions", status_code=200, request_max_body_size=SIGNED_BYTES)
    async def open_session(request: AnyRequest) -> dict[str, str]:
        """Take a session key that a person signed, for at most 12 hours."""
        await coordinator.people.open_session(decoded(await request.body(), Signed))
        return {}

    @get("/v1/enroll")
    async def requests(request: AnyRequest) -> Requests:
        """List the devices that ask to be enrolled, the oldest request first."""
        await auth.person(request)
        return Requests(requests=tuple(coordinator.people.requests()))

    @delete("/v1/enroll/{device:str}", status_code=200)
    async def forget(request: AnyRequest, device: FromPath[str]) -> dict[str, str]:
        """Forget a request to be enrolled."""
        await auth.person(request, "enroll")
        await coordinator.forget_request(device)
        return {}

    return [open_session, requests, forget]
