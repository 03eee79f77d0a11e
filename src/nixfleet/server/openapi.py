"""The API's description where the framework cannot see it: raw request bodies, encoded answers, refusals.

Routes read bodies by themselves, for many are signed byte by byte. It describes what a route takes, and must never
decide it.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin

from nixfleet.model.answers import Audit
from nixfleet.model.device import Progress
from nixfleet.model.views import Delta
from nixfleet.model.wire import AppendRequest, CachePath, ErrorBody, LineAnswer, Missing, Offer, Signed, Sync

_REF: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"

Operation = tuple[str, str]
"""Method in lower case, and path."""


class Nothing(msgspec.Struct, frozen=True, kw_only=True):
    """An empty object: it was taken."""


BODIES: Final[Mapping[Operation, type[msgspec.Struct]]] = {
    ("post", "/v1/log"): AppendRequest,
    ("post", "/v1/log/offers"): Offer,
    ("post", "/v1/reports"): Signed,
    ("post", "/v1/progress"): Progress,
    ("post", "/v1/enroll"): Signed,
    ("post", "/v1/sessions"): Signed,
    ("post", "/v1/cache/missing"): Missing,
    ("post", "/v1/cache/paths"): CachePath,
}
_BYTES: Final[Mapping[Operation, str]] = {("put", "/v1/cache/uploads/{part}"): "application/zstd"}
_ANSWERS: Final[Mapping[Operation, type[msgspec.Struct]]] = {
    ("get", "/v1/sync"): Sync,
    ("get", "/v1/audit"): Audit,
    ("get", "/v1/rollouts/{rollout}/line"): LineAnswer,
    ("post", "/v1/reports"): Nothing,
    ("post", "/v1/progress"): Nothing,
    ("post", "/v1/enroll"): Nothing,
}
_EVENTS: Final[Mapping[Operation, type[msgspec.Struct]]] = {
    ("get", "/v1/agent/events"): Sync,
    ("get", "/v1/events"): Delta,
}
"""What the data of each event stream's events is."""


class Description(JsonRenderPlugin):
    """Renders the framework's description, completed."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002 - the base's
        """Give the whole description as JSON."""
        return msgspec.json.encode(completed(openapi_schema))


def completed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Add bodies, answers and refusals to an OpenAPI 3.1 document."""
    shapes = {*BODIES.values(), *_ANSWERS.values(), *_EVENTS.values(), ErrorBody}
    _, schemas = msgspec.json.schema_components(sorted(shapes, key=lambda one: one.__name__), ref_template=_REF)
    held = document["components"]["schemas"]
    paths = {
        path: {
            method: _operation((method, path), part) if isinstance(part, dict) else part
            for method, part in item.items()
        }
        for path, item in document["paths"].items()
    }
    return {**document, "paths": paths, "components": {**document["components"], "schemas": {**held, **schemas}}}


def _operation(name: Operation, held: Mapping[str, Any]) -> dict[str, Any]:
    whole = dict(held)
    if name in BODIES:
        whole["requestBody"] = {"required": True, "content": _content(BODIES[name])}
    if name in _BYTES:
        schema = {"type": "string", "format": "binary"}
        whole["requestBody"] = {"required": True, "content": {_BYTES[name]: {"schema": schema}}}
    good = {status: answer for status, answer in held["responses"].items() if status.startswith("2")}
    if name in _ANSWERS:
        good = {status: {**answer, "content": _content(_ANSWERS[name])} for status, answer in good.items()}
    if name in _EVENTS:
        text = f"Server-sent events; their data is the JSON of a {_EVENTS[name].__name__}."
        good = {status: {**answer, "description": text} for status, answer in good.items()}
    refused = {"description": "A refusal: one sentence, and who must act.", "content": _content(ErrorBody)}
    whole["responses"] = {**good, "default": refused}
    return whole


def _content(shape: type[msgspec.Struct]) -> dict[str, Any]:
    return {_JSON: {"schema": {"$ref": _REF.format(name=shape.__name__)}}}
