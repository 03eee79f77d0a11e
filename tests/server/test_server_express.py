"""The short way for reports answers what the application would, whatever happens."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from nixfleet.errors import Unreachable
from nixfleet.model.wire import ErrorBody, Signed
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.express import PATH, Express
from nixfleet.server.routes.bodies import SIGNED_BYTES

BODY = msgspec.json.encode(Signed(payload=b"p", signature=b"s"))


class _Coordinator:
    """Takes reports, or fails as it is told."""

    def __init__(self, error: Exception | None = None, *, ready: bool = True) -> None:
        self.error = error
        self.ready = ready
        self.taken: list[Signed] = []
        self.held: int | None = None

    def wall_s(self) -> int:
        return 7

    async def report(self, signed: Signed) -> int | None:
        if self.error is not None:
            raise self.error
        self.taken.append(signed)
        return self.held


async def _ask(coordinator: _Coordinator, *messages: dict[str, Any], **scope: Any) -> list[Any]:
    """Send a request; `onward` stands for what was handed on."""
    sent: list[Any] = []
    waiting = list(messages) or [_part(BODY)]

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(*_parts: object) -> None:
        sent.append("onward")

    whole = {"type": "http", "path": PATH, "method": "POST", "query_string": b"", **scope}
    await Express(cast("Any", app), cast("Coordinator", coordinator))(cast("Any", whole), receive, send)
    return sent


def _part(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


def _refused(sent: Sequence[Any]) -> tuple[int, str]:
    body = msgspec.json.decode(sent[1]["body"], type=ErrorBody)
    assert body.server_time == 7
    assert dict(sent[0]["headers"])[b"content-length"] == b"%d" % len(sent[1]["body"])
    return sent[0]["status"], body.kind


async def test_dropped_report_is_answered_with_the_number_that_is_held() -> None:
    """The device learns from it that its numbers are behind."""
    coordinator = _Coordinator()
    coordinator.held = 41
    sent = await _ask(coordinator)
    assert (sent[0]["status"], sent[1]["body"]) == (200, b'{"seq":41}')
    assert dict(sent[0]["headers"])[b"content-length"] == b"10"


async def test_report_in_pieces_is_taken_whole() -> None:
    """However its body arrives, a report is taken once and answered with an empty object."""
    coordinator = _Coordinator()
    sent = await _ask(coordinator, _part(BODY[:9], more=True), _part(BODY[9:], more=True), _part(b""))
    assert (sent[0]["status"], sent[1]["body"]) == (200, b"{}")
    assert coordinator.taken == [Signed(payload=b"p", signature=b"s")]


@pytest.mark.parametrize("scope", [{"method": "GET"}, {"path": "/v1/report"}, {"query_string": b"a=b"}])
async def test_other_requests_are_handed_on(scope: dict[str, Any]) -> None:
    """What is not plainly a report is not looked at."""
    assert await _ask(_Coordinator(), **scope) == ["onward"]


async def test_coordinator_that_starts_is_the_applications_to_tell() -> None:
    """Before the coordinator is ready, the application says so."""
    assert await _ask(_Coordinator(ready=False)) == ["onward"]


@pytest.mark.parametrize(
    ("error", "body", "answer"),
    [
        (Unreachable("the database refuses"), BODY, (503, "unavailable")),
        (None, b"{", (400, "user")),
        (None, b"x" * (SIGNED_BYTES + 1), (413, "bound")),
        (RuntimeError("a bug"), BODY, (500, "internal")),
    ],
)
async def test_failures_are_answered_in_words(error: Exception | None, body: bytes, answer: tuple[int, str]) -> None:
    """A refusal, a body that is none or too large, and a bug each get their status and kind."""
    assert _refused(await _ask(_Coordinator(error), _part(body))) == answer


async def test_sender_that_has_gone_gets_no_answer() -> None:
    """A body that breaks off is no report."""
    coordinator = _Coordinator()
    assert await _ask(coordinator, _part(BODY[:9], more=True), {"type": "http.disconnect"}) == []
    assert coordinator.taken == []
