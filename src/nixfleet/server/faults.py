"""Errors that only exist at the HTTP edge, and how every error becomes a status and an `ErrorBody`."""

from http import HTTPStatus

from nixfleet.errors import Conflict, NixfleetError, Refused, Unreachable, Untrusted, UserError
from nixfleet.trust.httpsig import Skewed
from nixfleet.trust.statements import Malformed


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
