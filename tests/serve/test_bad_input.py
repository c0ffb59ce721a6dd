"""What bad input gets: OpenAI's error shape with the right status, and nothing recorded."""

from functools import reduce
from typing import Any

import httpx
import pytest

from feedback.connection import connect
from feedback.ids import LineName, TenantId
from feedback.ledger import Ledger
from tests.bench.mutated import announce
from tests.fake_engine import FakeEngine
from tests.serve.conftest import ask
from tests.services import Gateway

BAD_CHATS: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown model": (ask(model="gpt-9"), 404, "model"),
    "unknown version": (ask(model="burnish@v0099"), 404, "model"),
    "no model": ({"messages": [{"role": "user", "content": "hi"}]}, 400, "model"),
    "no messages": ({"model": "burnish"}, 400, "messages"),
    "empty messages": (ask() | {"messages": []}, 400, "messages"),
    "a message that is text": (ask() | {"messages": ["hi"]}, 400, "messages[0]"),
    "unknown role": (ask() | {"messages": [{"role": "boss", "content": "hi"}]}, 400, "messages[0].role"),
    "no content": (ask() | {"messages": [{"role": "user"}]}, 400, "messages[0].content"),
    "an image": (
        ask() | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
        400,
        "messages[0].content[0]",
    ),
    "n of 0": (ask(n=0), 400, "n"),
    "huge n": (ask(n=10_000), 400, "n"),
    "n of true": (ask(n=True), 400, "n"),
    "n as text": (ask(n="2"), 400, "n"),
    "max_tokens of 0": (ask(max_tokens=0), 400, "max_tokens"),
    "huge max_tokens": (ask(max_tokens=10**9), 400, "max_tokens"),
    "max_completion_tokens below 0": (ask(max_completion_tokens=-1), 400, "max_completion_tokens"),
    "hot": (ask(temperature=2.5), 400, "temperature"),
    "top_p of 0": (ask(top_p=0), 400, "top_p"),
    "a seed beyond 64 bits": (ask(seed=2**63), 400, "seed"),
    "a chat template": (ask(chat_template="{{ 1 }}"), 400, "chat_template"),
    "chat_template_kwargs": (ask(chat_template_kwargs={"a": 1}), 400, "chat_template_kwargs"),
    "prompt embeddings": (ask(prompt_embeds="AAAA"), 400, "prompt_embeds"),
    "a cache salt": (ask(cache_salt="x"), 400, "cache_salt"),
    "a priority before users'": (ask(priority=-1), 400, "priority"),
    "a huge priority": (ask(priority=101), 400, "priority"),
    "kv transfer": (ask(kv_transfer_params={}), 400, "kv_transfer_params"),
    "mm_processor_kwargs": (ask(mm_processor_kwargs={}), 400, "mm_processor_kwargs"),
    "an unknown field": (ask(frobnicate=1), 400, "frobnicate"),
    "too many stop strings": (ask(stop=["a"] * 17), 400, "stop"),
    "a schema that is nested too deep": (
        ask(response_format={"type": "json_schema", "json_schema": reduce(lambda inner, _: {"a": inner}, range(240))}),
        400,
        "response_format",
    ),
    "metadata of numbers": (ask(metadata={"session": 3}), 400, "metadata.session"),
    "compare_with nothing": (ask(metadata={"compare_with": "chatcmpl-none"}), 404, "metadata.compare_with"),
}


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error, after checking that it has OpenAI's shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["code"] is None or isinstance(error["code"], str)
    return error


def turns_in(gateway: Gateway) -> int:
    return len(Ledger(connect(gateway.redis_url), LineName("burnish")).turns_of(TenantId("home"), limit=1000))


@pytest.mark.parametrize("name", BAD_CHATS)
def test_a_bad_chat_names_its_field_and_is_not_recorded(
    name: str, shared_api: httpx.Client, shared_gateway: Gateway, shared_fake: FakeEngine
) -> None:
    body, status, param = BAD_CHATS[name]
    turns, bodies = turns_in(shared_gateway), len(shared_fake.bodies)
    for stream in (False, True):
        error = error_of(shared_api.post("/v1/chat/completions", json={**body, "stream": stream}), status)
        assert error["param"] == param
        assert error["type"] == "invalid_request_error"
    assert turns_in(shared_gateway) == turns
    assert len(shared_fake.bodies) == bodies, "the engine was asked"


NO_OBJECTS = (b"", b"{", b"[]", b'"hi"', b"null", b"\xff\xfe", b'{"model": "\\ud800"}', b"[" * 100_000)


@pytest.mark.parametrize("raw", NO_OBJECTS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/feedback", "/operator/rollback"])
def test_a_body_that_is_no_json_object_is_400(path: str, raw: bytes, shared_api: httpx.Client) -> None:
    error_of(shared_api.post(path, content=raw, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/operator/policies/v0000-base/promote", b'{"reason": "a test", "over": "\\ud800"}'),
        ("/operator/jobs", b'{"reason": "a test", "recipe": "\\udc00"}'),
        ("/operator/rollback", b'{"reason": "\\ud800"}'),
        ("/v1/feedback", b'{"kind": "edit", "turn_id": "\\ud800", "text": "x"}'),
    ],
)
def test_half_a_character_is_refused_and_no_fault_of_ours(
    path: str, raw: bytes, shared_gateway: Gateway, shared_api: httpx.Client
) -> None:
    announce(shared_gateway)
    answer = shared_api.post(path, content=raw, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    error_of(answer, answer.status_code)


def test_an_oversize_body_is_413_with_and_without_a_declared_length(shared_api: httpx.Client) -> None:
    huge = b'{"model": "' + b"x" * (2 * 1024 * 1024) + b'"}'
    for path in ("/v1/chat/completions", "/v1/feedback", "/operator/rollback"):
        assert error_of(shared_api.post(path, content=huge), 413)["code"] == "body_too_large"
        chunks = (huge[i : i + 65536] for i in range(0, len(huge), 65536))
        assert error_of(shared_api.post(path, content=chunks), 413)["code"] == "body_too_large"


def test_unknown_paths_and_methods_have_the_same_shape(shared_api: httpx.Client) -> None:
    error_of(shared_api.get("/v1/nothing"), 404)
    error_of(shared_api.get("/v1/chat/completions"), 405)
    error_of(shared_api.delete("/v1/models"), 405)
    error_of(shared_api.get("/docs"), 404)


def test_completions_refuse_several_prompts_and_token_ids_beyond_the_context(shared_api: httpx.Client) -> None:
    for prompt in (["a", "b"], [], [[1], [2]], [-1], [1.5], 3, None, [1] * 5000):
        body = {"model": "burnish", "prompt": prompt}
        assert error_of(shared_api.post("/v1/completions", json=body), 400)["param"] == "prompt"


BAD_VOTES: dict[str, tuple[dict[str, Any], int]] = {
    "unknown kind": ({"kind": "applause", "turn_id": "T"}, 400),
    "no kind": ({"turn_id": "T", "value": "up"}, 400),
    "unknown verdict": ({"kind": "comparison", "turn_ids": ["T", "U"], "verdict": "third"}, 400),
    "unknown value": ({"kind": "rating", "turn_id": "T", "value": "sideways"}, 400),
    "one turn twice": ({"kind": "comparison", "turn_ids": ["T", "T"], "verdict": "first"}, 400),
    "an extra field": ({"kind": "rating", "turn_id": "T", "value": "up", "weight": 9}, 400),
    "an empty edit": ({"kind": "edit", "turn_id": "T", "text": " "}, 400),
    "unknown turn": ({"kind": "rating", "turn_id": "chatcmpl-none", "value": "up"}, 404),
    "unknown second turn": ({"kind": "comparison", "turn_ids": ["T", "chatcmpl-none"], "verdict": "tie"}, 404),
    "unknown event": ({"kind": "retract", "event_id": "ev-none"}, 404),
    "another person's": ({"kind": "rating", "turn_id": "T", "value": "up", "user": "bob"}, 404),
}


@pytest.mark.parametrize("name", BAD_VOTES)
def test_a_bad_vote_is_refused_and_not_recorded(name: str, shared_api: httpx.Client, shared_gateway: Gateway) -> None:
    body, status = BAD_VOTES[name]
    ledger = Ledger(connect(shared_gateway.redis_url), LineName("burnish"))
    turns = [shared_api.post("/v1/chat/completions", json=ask(user="ann")).json()["id"] for _ in range(2)]
    named = dict(zip("TU", turns, strict=True))
    sent = {
        key: [named.get(v, v) for v in value] if isinstance(value, list) else named.get(value, value)
        for key, value in body.items()
    }
    before = ledger.last_ordinal()
    error_of(shared_api.post("/v1/feedback", json=sent), status)
    assert ledger.last_ordinal() == before


def test_a_bad_idempotency_key_is_400(shared_api: httpx.Client) -> None:
    vote = {"kind": "rating", "turn_id": "T", "value": "up"}
    error_of(shared_api.post("/v1/feedback", json=vote, headers={"Idempotency-Key": "k" * 300}), 400)


def test_operator_moves_that_make_no_sense_are_refused(shared_api: httpx.Client) -> None:
    why = {"reason": "a test"}
    error_of(shared_api.post("/operator/policies/v0099-aaaaaaaaaaaa/promote", json=why), 404)
    assert error_of(shared_api.post("/operator/rollback", json={}), 400)["param"] == "reason"
    assert error_of(shared_api.post("/operator/rollback", json={"reason": "  "}), 400)["param"] == "reason"
    assert error_of(shared_api.post("/operator/rollback", json=why), 409)["code"] == "move_refused"
    assert error_of(shared_api.post("/operator/policies/v0000-base/withdraw", json=why), 409)["code"] == "move_refused"
    assert error_of(shared_api.post("/operator/policies/v0000-base/promote", json=why), 409)["code"] == "move_refused"
    error_of(shared_api.get("/operator/policies/v0099"), 404)
    error_of(shared_api.get("/operator/jobs/job-none"), 404)
    error_of(shared_api.get("/v1/turns/none"), 404)
    error_of(shared_api.get("/v1/feedback?turn_id=none"), 404)
    error_of(shared_api.get("/v1/feedback"), 400)
    error_of(shared_api.get("/v1/turns?limit=0"), 400)
    error_of(shared_api.get("/v1/models/none"), 404)
