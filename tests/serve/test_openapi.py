"""openapi.json: frozen, whole, and true to the field table; every answer carries an id."""

import json
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from serve.requests.fields import CHAT_FIELDS, COMPLETION_FIELDS
from tests.fake_engine import MAX_MODEL_LEN
from tests.serve.conftest import ask
from tests.serve.openapi_file import FILE, described
from tests.serve.requests.test_fields import BESIDE, CHAT, COMPLETION, LOGPROBS, MISFITS, SAMPLES
from tests.services import Gateway


def test_the_api_has_changed_only_on_purpose() -> None:
    frozen = json.loads(FILE.read_text(encoding="utf-8"))
    assert described() == frozen, "if it was meant: `make docs`, and name it in CHANGELOG.md"


def test_it_is_served_to_everybody_and_knows_the_engines_context(shared_gateway: Gateway) -> None:
    served = httpx.get(f"{shared_gateway.url}/openapi.json").json()
    frozen = described()
    assert served["paths"] == frozen["paths"]
    assert served["components"]["schemas"]["ChatRequest"]["properties"]["max_tokens"]["maximum"] == MAX_MODEL_LEN


def test_every_operation_says_who_may_and_what_can_happen() -> None:
    document = described()
    names = document["components"]["schemas"].keys()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            public = path in ("/healthz", "/readyz", "/metrics", "/openapi.json")
            assert operation["security"] == ([] if public else [{"key": []}]), where
            assert public or {"401", "403"} <= operation["responses"].keys(), where
            assert "422" not in operation["responses"], where
            for status, response in operation["responses"].items():
                assert response["content"], f"{where} {status}"
                assert "x-request-id" in response["headers"], f"{where} {status}"
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in names


def _references(node: Any) -> set[str]:
    if isinstance(node, list):
        return {found for item in node for found in _references(item)}
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
    return own | {found for item in node.values() for found in _references(item)}


def validator(path: str) -> Draft202012Validator:
    schema = described()["components"]["schemas"]["ChatRequest" if path == CHAT else "CompletionRequest"]
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def body_of(path: str) -> dict[str, Any]:
    return ask() if path == CHAT else {"model": "burnish", "prompt": "hi"}


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
def test_the_schema_takes_what_the_gateway_takes(path: str) -> None:
    fits = validator(path)
    for name, field in (CHAT_FIELDS if path == CHAT else COMPLETION_FIELDS).items():
        value = LOGPROBS[path] if name == "logprobs" else SAMPLES.get(name, "x")
        body = {**body_of(path), **BESIDE.get(name, {}), name: value}
        assert fits.is_valid(body) == (field.treatment != "refused"), name
    assert not fits.is_valid({**body_of(path), "frobnicate": 1})


def test_the_schema_refuses_what_does_not_fit() -> None:
    fits = validator(CHAT)
    # What JSON Schema cannot say: that one field names what another one holds.
    unsayable = {"a choice that is no tool", "a call in a format"}
    for name, (_, fields) in MISFITS.items():
        assert fits.is_valid(ask() | fields) == (name in unsayable), name


def test_every_answer_carries_an_id_of_its_own(shared_gateway: Gateway, shared_api: httpx.Client) -> None:
    mine = {"X-Client-Request-Id": "mine", "X-Request-Id": "mine"}
    answers = [
        shared_api.post(CHAT, json=ask(), headers=mine),
        shared_api.post(CHAT, json=ask(stream=True), headers=mine),
        shared_api.post(CHAT, json=ask(n=0), headers=mine),
        shared_api.post(CHAT, content=b"x" * 3_000_000, headers=mine),
        shared_api.get("/v1/nothing", headers=mine),
        shared_api.get("/v1/models", headers=mine),
        httpx.get(f"{shared_gateway.url}/v1/models", headers=mine),
        httpx.get(f"{shared_gateway.url}/healthz", headers=mine),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 413, 404, 200, 401, 200]
    named = [answer.headers.get_list("x-request-id") for answer in answers]
    assert all(len(ids) == 1 and ids[0].startswith("req_") for ids in named)
    assert len({ids[0] for ids in named}) == len(answers)
