"""The web application: routes put together, errors turned into answers; it holds no rule of its own."""

from http import HTTPStatus
from typing import Any

from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.types import ASGIApp, ControllerRouterHandler, Receive, Scope, Send

import nixfleet
from nixfleet.errors import Unreachable, UserError
from nixfleet.model.wire import ErrorKind
from nixfleet.server.auth import Auth
from nixfleet.server.cache import BinaryCache
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.express import Express
from nixfleet.server.faults import Bound, Unknown, error_body, refusal
from nixfleet.server.openapi import Description
from nixfleet.server.routes.cache import cache_routes
from nixfleet.server.routes.devices import device_routes
from nixfleet.server.routes.health import ALWAYS, health_routes
from nixfleet.server.routes.log import log_routes
from nixfleet.server.routes.people import people_routes
from nixfleet.server.routes.reports import report_routes
from nixfleet.server.routes.streams import stream_routes
from nixfleet.server.routes.views import view_routes
from nixfleet.server.settings import CACHE, CACHE_KEY, ServerSettings
from nixfleet.trust.narinfo import CacheKey

_QUERY_CHARS = 4_096


def make_app(coordinator: Coordinator, settings: ServerSettings) -> ASGIApp:
    """Put the application together; it answers 503 until the coordinator has started."""

    def entrance(app: ASGIApp) -> ASGIApp:
        async def checked(scope: Scope, receive: Receive, send: Send) -> None:
            if len(scope["query_string"]) > _QUERY_CHARS:
                raise Bound(f"a query is longer than {_QUERY_CHARS} characters")
            if "\0" in scope["path"]:
                # No name has it, and neither PostgreSQL nor a file system takes it.
                raise Unknown("there is nothing under a name with a NUL character")
            if not coordinator.ready and not scope["route_handler"].opt.get(ALWAYS):
                raise Unreachable("the coordinator is starting; try again in a moment")
            await app(scope, receive, send)

        return checked

    def ours(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        status, body = refusal(error, f"{request.method} {request.url.path}", coordinator.wall_s())
        return Response(body, status_code=status, media_type="application/json")

    def litestars(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
        status = HTTPStatus(error.status_code)
        kind = _KINDS.get(status, "user" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "internal")
        return _answer(status, kind, _in_words(error), coordinator)

    app = Litestar(
        route_handlers=_routes(coordinator, settings),
        # Not a guard: Litestar copies the handler for each guard and request.
        middleware=[entrance],
        exception_handlers={HTTPException: litestars, Exception: ours},
        openapi_config=OpenAPIConfig(
            title="nixfleet coordinator",
            version=nixfleet.__version__,
            path="/schema",
            use_handler_docstrings=True,
            render_plugins=[Description(path="/openapi.json")],
        ),
        logging_config=None,
        debug=False,
    )
    return Express(app, coordinator)


def _routes(coordinator: Coordinator, settings: ServerSettings) -> list[ControllerRouterHandler]:
    """Make all routes, with one judge of who asks."""
    auth = Auth(coordinator)
    return [
        *health_routes(coordinator, settings),
        *log_routes(coordinator, auth),
        *report_routes(coordinator, auth),
        *stream_routes(coordinator, auth),
        *device_routes(coordinator, auth),
        *view_routes(coordinator, auth),
        *people_routes(coordinator, auth),
        *cache_routes(_cache(coordinator, settings), auth.releaser),
    ]


_KINDS: dict[HTTPStatus, ErrorKind] = {HTTPStatus.NOT_FOUND: "unknown", HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "bound"}


def _cache(coordinator: Coordinator, settings: ServerSettings) -> BinaryCache:
    """Open the built-in cache. Raises: UserError."""
    path = settings.data_dir / CACHE_KEY
    try:
        key = CacheKey.parse(path.read_text())
        return BinaryCache(settings.data_dir / CACHE, key, clock=coordinator.wall_s, goes_on=lambda: coordinator.ready)
    except FileNotFoundError as error:
        raise UserError(f"{path} is gone, and devices trust no other key for this cache: bring it back") from error
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"{path}: {error}") from error


def _in_words(error: HTTPException) -> str:
    """Make one sentence of a validation error: where, and what."""
    extra = error.extra if isinstance(error.extra, list) else []
    for item in extra:
        if isinstance(item, dict) and item.get("message"):
            return f"{item.get('key') or 'body'}: {item['message']}"
    return error.detail or HTTPStatus(error.status_code).phrase.lower()


def _answer(status: HTTPStatus, kind: ErrorKind, text: str, coordinator: Coordinator) -> Response[bytes]:
    body = error_body(kind, text, coordinator.wall_s())
    return Response(body, status_code=status, media_type="application/json")
