"""The short way for signed reports, the one request that a fleet makes thousands of times a second.

It answers as the route in `routes.reports` does, without the framework's work for each request; what is not plainly
such a report it hands on untouched. It must never judge a report: the coordinator does.
"""

from litestar.types import ASGIApp, Receive, Scope, Send

from nixfleet.model.wire import Signed
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.faults import refusal
from nixfleet.server.routes.bodies import decoded, report_answer, whole

PATH = "/v1/reports"


class Express:
    """An application in front of the application."""

    def __init__(self, app: ASGIApp, coordinator: Coordinator) -> None:
        self._app = app
        self._coordinator = coordinator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a report, or hand the request on."""
        mine = scope["path"] == PATH and scope.get("method") == "POST" and not scope["query_string"]
        if not mine or not self._coordinator.ready:
            await self._app(scope, receive, send)
            return
        try:
            body = await whole(receive, "a signed report")
            if body is None:
                return
            held = await self._coordinator.report(decoded(body, Signed))
        except Exception as error:  # noqa: BLE001 - every failure is answered, as in `app`
            status, text = refusal(error, f"POST {PATH}", self._coordinator.wall_s())
            head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
            await send({"type": "http.response.start", "status": status, "headers": head})
            await send({"type": "http.response.body", "body": text, "more_body": False})
        else:
            await report_answer(held)(scope, receive, send)
