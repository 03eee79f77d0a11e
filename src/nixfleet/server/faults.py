"""Errors that only exist at the HTTP edge, and how every error becomes a status and an `ErrorBody`."""

import logging
from http import HTTPStatus

import msgspec

from nixfleet.errors import Conflict, NixfleetError, Refused, Unreachable, Untrusted, UserError
from nixfleet.model.wire import ErrorBody
from nixfleet.trust.httpsig import Skewed
from nixfleet.trust.statements import Malformed

_log = logging.getLogger(__name__)
_ERROR_CHARS = 2_000


class Unknown(UserError):
    """There is no such thing here."""


class Bound(UserError):
    """A size or a count is over its bound."""


class Busy(Unreachable):
    """Too many at once; come back in a moment."""


def status_of(error: NixfleetError) -> tuple[HTTPStatus, str]:
    """Give the status and the `kind` of a refusal (docs/protocol.md)."""
    match error:
        case Unknown():
            return HTTPStatus.NOT_FOUND, "unknown"
        case Bound():
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "bound"
        case Busy():
            return HTTPStatus.TOO_MANY_REQUESTS, "busy"
        case Malformed() | UserError():
            return HTTPStatus.BAD_REQUEST, "user"
        case Skewed():
            return HTTPStatus.UNAUTHORIZED, "skewed"
        case Untrusted():
            return HTTPStatus.UNAUTHORIZED, "untrusted"
        case Refused():
            return HTTPStatus.FORBIDDEN, "refused"
        case Conflict():
            return HTTPStatus.CONFLICT, "conflict"
        case Unreachable():
            return HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"
        case _:
            return HTTPStatus.INTERNAL_SERVER_ERROR, "internal"


def refusal(error: Exception, request: str, now: int) -> tuple[HTTPStatus, bytes]:
    """Give the status and the encoded `ErrorBody` of what a request met; bugs are logged. `now` in unix seconds."""
    if isinstance(error, NixfleetError):
        status, kind = status_of(error)
        return status, error_body(kind, str(error), now)
    _log.error("%s failed", request, exc_info=error)
    text = "the coordinator failed on this request; its log says more"
    return HTTPStatus.INTERNAL_SERVER_ERROR, error_body("internal", text, now)


def error_body(kind: str, text: str, now: int) -> bytes:
    """Encode an `ErrorBody`."""
    return msgspec.json.encode(ErrorBody(error=text[:_ERROR_CHARS], kind=kind, server_time=now))
