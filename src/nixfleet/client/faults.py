"""Translate what goes wrong on the way to a coordinator: httpx exceptions and error answers become our errors.

It must never let an exception of httpx through, nor show a person a page of HTML.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, assert_never

import msgspec

from nixfleet.errors import Conflict, NixfleetError, Refused, Unreachable, Untrusted, UserError
from nixfleet.model.reading import UNREADABLE
from nixfleet.model.text import one_line
from nixfleet.model.wire import ErrorBody, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SENTENCE_CHARS: Final = 500


class Unknown(UserError):
    """The coordinator answers, but has no such thing (404)."""


class Skewed(Untrusted):
    """The clocks differ by more than a signed request allows; `server_time` is the other side's, in unix seconds."""

    def __init__(self, text: str, server_time: int) -> None:
        """Keep the server's time beside the sentence."""
        super().__init__(text)
        self.server_time = server_time


def from_answer(url: str, status: int, content_type: str, body: bytes) -> NixfleetError:
    """Say what an answer that is no success means (docs/protocol.md, ErrorBody)."""
    if 300 <= status < 400:
        return Unreachable(
            f"{url} sends its callers elsewhere (HTTP {status}): a login page of the network or another server is in"
            " between; open the address in a browser, or correct it"
        )
    if not _is_json(content_type):
        return not_ours(url, status, content_type)
    try:
        told = msgspec.json.decode(body, type=ErrorBody)
    except UNREADABLE:
        return not_ours(url, status, content_type)
    sentence = one_line(told.error, _SENTENCE_CHARS) or f"{url} refused without a reason (HTTP {status})"
    try:
        kind: ErrorKind = msgspec.convert(told.kind, ErrorKind)
    except msgspec.ValidationError:
        return Unreachable(sentence)  # a newer coordinator's kind: its sentence says what there is to know
    return _error_of(url, kind, sentence, told.server_time)


def _error_of(url: str, kind: ErrorKind, sentence: str, server_time: int) -> NixfleetError:
    match kind:
        case "user" | "bound":
            return UserError(sentence)
        case "untrusted":
            return Untrusted(sentence)
        case "skewed":
            return Skewed(sentence, server_time)
        case "refused":
            return Refused(sentence)
        case "unknown":
            return Unknown(sentence)
        case "conflict":
            return Conflict(sentence)
        case "busy" | "unavailable" | "internal":
            return Unreachable(sentence)
        case "foreign":
            # Nobody of ours is there; another address may lead on.
            return Unreachable(f"{url} serves another fleet")
        case _:
            assert_never(kind)


def not_ours(url: str, status: int, content_type: str) -> NixfleetError:
    """Say that whoever answered does not speak our protocol: a captive portal, a proxy, another server."""
    if "html" in content_type.lower():
        return Unreachable(
            f"{url} answered with a web page (HTTP {status}), not as a coordinator: a login page of the network, a"
            " proxy or another server is in between"
        )
    return Unreachable(f"{url} did not answer as a coordinator does (HTTP {status}); is the address right?")


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def exceptions() -> dict[type[Exception], Callable[[str, str], NixfleetError]]:
    """List each family of httpx exceptions with the error it becomes, given URL and detail; first match wins."""
    import httpx

    return {
        httpx.ConnectTimeout: lambda url, _: Unreachable(f"{url} does not answer: no connection in time"),
        httpx.PoolTimeout: lambda url, _: Unreachable(f"{url}: too many requests at once from this program"),
        httpx.ReadTimeout: lambda url, _: Unreachable(f"{url} went silent in the middle of an answer"),
        httpx.WriteTimeout: lambda url, _: Unreachable(f"{url} takes no more data"),
        httpx.ProxyError: lambda url, why: Unreachable(f"{url}: the proxy refuses: {why}"),
        httpx.ConnectError: _no_connection,
        httpx.NetworkError: lambda url, why: Unreachable(f"{url}: the connection broke{_because(why)}"),
        httpx.ProtocolError: lambda url, why: Unreachable(f"{url}: the connection broke{_because(why)}"),
        httpx.UnsupportedProtocol: lambda url, _: UserError(f"{url} is no address; it needs http:// or https://"),
        httpx.TransportError: lambda url, why: Unreachable(f"{url} cannot be reached{_because(why)}"),
        httpx.DecodingError: lambda url, _: Unreachable(f"{url} sent an answer that cannot be unpacked"),
        httpx.HTTPError: lambda url, why: Unreachable(f"{url} cannot be reached{_because(why)}"),
        httpx.InvalidURL: lambda url, why: UserError(f"{url} is no address{_because(why)}"),
        httpx.CookieConflict: lambda url, _: Unreachable(f"{url} did not answer as a coordinator does"),
        httpx.StreamError: lambda url, _: Unreachable(f"{url}: the answer was cut off"),
    }


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn what httpx raises in the block into our errors; anything else is a fault of this program and passes."""
    families = exceptions()
    try:
        yield
    except tuple(families) as error:
        make = next(make for family, make in families.items() if isinstance(error, family))
        raise make(url, one_line(str(error), _SENTENCE_CHARS)) from error


def _no_connection(url: str, why: str) -> NixfleetError:
    """Tell a certificate that does not hold from a host that is not there."""
    if "certificate" in why.lower():
        return Unreachable(
            f"{url} shows a certificate that this machine does not accept ({why}); for an authority of your own, set"
            " SSL_CERT_FILE"
        )
    return Unreachable(f"{url} cannot be reached{_because(why)}; is the coordinator running, and the network up?")


def _because(why: str) -> str:
    return f" ({why})" if why else ""
