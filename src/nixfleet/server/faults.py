"""Errors that only exist at the HTTP edge, and how every error becomes a status and an `ErrorBody`."""

import logging
from http import HTTPStatus
from typing import assert_never

import msgspec

from nixfleet.errors import Conflict, NixfleetError, Refused, Unreachable, Untrusted, UserError
from nixfleet.model.wire import ErrorBody, ErrorKind
from nixfleet.trust.httpsig import Foreign, Skewed
from nixfleet.trust.statements import Malformed

_log = logging.getLogger(__name__)
_ERROR_CHARS = 2_000


class Unknown(UserError):
    """There is no such thing here."""


class Bound(UserError):
    """A size or a count is over its bound."""


class Busy(Unreachable):
    """Too many at once; come back in a moment."""


def status_of(error: NixfleetError) -> tuple[HTTPStatus, ErrorKind]:
    """Give the status and the `kind` of a refusal (docs/protocol.md)."""
    kind = _kind_of(error)
    return status_for(kind), kind


def _kind_of(error: NixfleetError) -> ErrorKind:  # noqa: C901 - one branch per error
    match error:
        case Unknown():
            return "unknown"
        case Bound():
            return "bound"
        case Busy():
            return "busy"
        case Malformed() | UserError():
            return "user"
        case Skewed():
            return "skewed"
        case Foreign():
            return "foreign"
        case Untrusted():
            return "untrusted"
        case Refused():
            return "refused"
        case Conflict():
            return "conflict"
        case Unreachable():
            return "unavailable"
        case _:
            return "internal"


def status_for(kind: ErrorKind) -> HTTPStatus:  # noqa: C901 - one branch per kind
    """Give the status that goes with a kind (docs/protocol.md)."""
    match kind:
        case "user":
            return HTTPStatus.BAD_REQUEST
        case "untrusted" | "skewed":
            return HTTPStatus.UNAUTHORIZED
        case "foreign":
            return HTTPStatus.MISDIRECTED_REQUEST
        case "refused":
            return HTTPStatus.FORBIDDEN
        case "unknown":
            return HTTPStatus.NOT_FOUND
        case "conflict":
            return HTTPStatus.CONFLICT
        case "bound":
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        case "busy":
            return HTTPStatus.TOO_MANY_REQUESTS
        case "unavailable":
            return HTTPStatus.SERVICE_UNAVAILABLE
        case "internal":
            return HTTPStatus.INTERNAL_SERVER_ERROR
        case _:
            assert_never(kind)


def refusal(error: Exception, request: str, now: int) -> tuple[HTTPStatus, bytes]:
    """Give the status and the encoded `ErrorBody` of what a request met; bugs are logged. `now` in unix seconds."""
    if isinstance(error, NixfleetError):
        status, kind = status_of(error)
        return status, error_body(kind, str(error), now)
    _log.error("%s failed", request, exc_info=error)
    text = "the coordinator failed on this request; its log says more"
    return HTTPStatus.INTERNAL_SERVER_ERROR, error_body("internal", text, now)


def error_body(kind: ErrorKind, text: str, now: int) -> bytes:
    """Encode an `ErrorBody`."""
    return msgspec.json.encode(ErrorBody(error=text[:_ERROR_CHARS], kind=kind, server_time=now))
