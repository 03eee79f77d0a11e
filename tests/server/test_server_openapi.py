"""The API's description is whole: every body, answer and refusal has a shape that is in the document."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.factories import Fleet
from tests.server.harness import Rig

from nixfleet.server.openapi import BODIES


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Give the document that a coordinator serves."""
    one = Rig(Path(tmp_path_factory.mktemp("openapi")) / "data", Fleet())
    one.create()
    one.server.start()
    try:
        answer = httpx.get(f"{one.server.address}/schema/openapi.json", trust_env=False)
    finally:
        one.server.stop()
    assert (answer.status_code, answer.json()["openapi"]) == (200, "3.1.0")
    whole: dict[str, Any] = answer.json()
    return whole


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def _refs(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for value in part.values():
            yield from _refs(value)
    elif isinstance(part, list):
        for value in part:
            yield from _refs(value)


def test_every_body_is_described(document: dict[str, Any]) -> None:
    """What takes a body says its shape, or its kind of bytes; nothing else has one."""
    found = {(method, path): one["requestBody"] for method, path, one in _operations(document) if "requestBody" in one}
    taking = {(method, path) for method, path, _ in _operations(document) if method in {"post", "put"}}
    assert set(found) == taking
    for operation, shape in BODIES.items():
        schema = found[operation]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{shape.__name__}"}
    assert list(found[("put", "/v1/cache/uploads/{part}")]["content"]) == ["application/zstd"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """No shape is named that the document lacks."""
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(_refs(document)) <= names


def test_every_operation_tells_its_answer_and_its_refusals(document: dict[str, Any]) -> None:
    """Each has a good answer with content and the one shape of refusals, and words on what it does."""
    refused = {"$ref": "#/components/schemas/ErrorBody"}
    for method, path, operation in _operations(document):
        good = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
        assert [bool(answer["content"]) for answer in good] == [True], (method, path)
        assert operation["responses"]["default"]["content"]["application/json"]["schema"] == refused
        assert operation["description"].endswith("."), (method, path)


def test_bounds_of_signed_things_are_told(document: dict[str, Any]) -> None:
    """Limits of the wire's types are part of the document."""
    limits = document["components"]["schemas"]["AppendRequest"]["properties"]["statements"]
    assert (limits["minItems"], limits["maxItems"]) == (1, 1_000)
