"""Bodies of requests: decoded strictly by type; their bounds stand beside each route."""

from typing import TypeVar

import msgspec

from nixfleet.errors import UserError

T = TypeVar("T")

SIGNED_BYTES = 98_304
"""A payload of 64 KiB and a signature as base64, and what stands around them."""
APPEND_BYTES = 64 << 20
"""1,000 statements, or a release with 100,000 lines."""
OPEN_APPEND_BYTES = 1 << 20
"""A larger append needs a signed request beside its signed statements."""
PROGRESS_BYTES = 524_288
"""200 lines of 500 characters, escaped."""


def decoded(body: bytes, shape: type[T]) -> T:
    """Decode a JSON body. Raises: UserError with the field at fault."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"the body is not what this asks for: {error}") from error


def bounded(value: int, low: int, high: int, name: str) -> int:
    """Check a number of the query. Raises: UserError."""
    if not low <= value <= high:
        raise UserError(f"{name} is not between {low} and {high}")
    return value
