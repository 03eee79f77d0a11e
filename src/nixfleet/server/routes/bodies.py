"""Bodies of requests, decoded strictly by type; their bounds; and the one answer that says nothing but "taken"."""

from typing import TypeVar

import msgspec
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from nixfleet.errors import UserError
from nixfleet.model.reading import UNREADABLE
from nixfleet.model.wire import ReportAnswer
from nixfleet.server.faults import Bound

T = TypeVar("T")


class Taken(ASGIResponse):
    """A small answer, by default ``{}``, made once: devices report thousands of times a second."""

    def __init__(self, body: bytes = b"{}") -> None:
        super().__init__()
        self._body = body
        self._head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's three
        """Send it."""
        await send({"type": "http.response.start", "status": 200, "headers": self._head})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


TAKEN = Taken()


def report_answer(held: int | None) -> Taken:
    """Answer a report: taken, or dropped for one with the number `held`."""
    return TAKEN if held is None else Taken(msgspec.json.encode(ReportAnswer(seq=held)))


SIGNED_BYTES = 98_304
"""A payload of 64 KiB and a signature as base64, and what stands around them."""
APPEND_BYTES = 64 << 20
"""1,000 statements, or a release with 100,000 lines."""
OPEN_APPEND_BYTES = 1 << 20
"""A larger append needs a signed request beside its signed statements."""
PROGRESS_BYTES = 524_288
"""200 lines of 500 characters, escaped."""


async def whole(receive: Receive, what: str) -> bytes | None:
    """Read the body of something signed, past the framework; None when its sender has gone. Raises: Bound."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message["body"])
        size += len(parts[-1])
        if size > SIGNED_BYTES:
            raise Bound(f"{what} is longer than {SIGNED_BYTES} bytes")
        if not message["more_body"]:
            return b"".join(parts)


def decoded(body: bytes, shape: type[T]) -> T:
    """Decode a JSON body. Raises: UserError with the field at fault."""
    try:
        return msgspec.json.decode(body, type=shape)
    except UNREADABLE as error:
        raise UserError(f"the body is not what this asks for: {error}") from error


def bounded(value: int, low: int, high: int, name: str) -> int:
    """Check a number of the query. Raises: UserError."""
    if not low <= value <= high:
        raise UserError(f"{name} is not between {low} and {high}")
    return value
