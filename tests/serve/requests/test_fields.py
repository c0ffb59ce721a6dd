"""Every request field is treated on purpose: the table against OpenAI's and vLLM's own, and each field sent once."""

import importlib.util
import json
import subprocess
import sys
from typing import Any, get_type_hints

import httpx
import pytest

from serve.requests.field_docs import PAGE, page
from serve.requests.fields import CHAT_FIELDS, COMPLETION_FIELDS, Treatment
from tests.fake_engine import FakeEngine
from tests.serve.conftest import ask
from tests.serve.test_bad_input import error_of
from tests.services import ROOT, missing

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
TABLES = {CHAT: CHAT_FIELDS, COMPLETION: COMPLETION_FIELDS}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}

# A value that passes, and what must be sent beside it.
SAMPLES: dict[str, Any] = {
    "bad_words": ["ugly"],
    "echo": True,
    "frequency_penalty": 0.5,
    "ignore_eos": True,
    "include_stop_str_in_output": True,
    "logit_bias": {"42": -3.5},
    "max_completion_tokens": 7,
    "max_tokens": 6,
    "messages": [{"role": "user", "content": "hello"}],
    "metadata": {"session": "s"},
    "min_p": 0.1,
    "min_tokens": 2,
    "model": "burnish",
    "modalities": ["text"],
    "n": 2,
    "parallel_tool_calls": False,
    "presence_penalty": -0.5,
    "priority": 3,
    "prompt": "Once",
    "prompt_logprobs": 1,
    "repetition_penalty": 1.1,
    "response_format": SCHEMA,
    "return_token_ids": True,
    "safety_identifier": "eve",
    "seed": 7,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "stop": ["a", "b"],
    "stop_token_ids": [3],
    "store": False,
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.3,
    "tool_choice": "required",
    "tools": [TOOL],
    "top_k": 5,
    "top_logprobs": 2,
    "top_p": 0.9,
    "user": "ann",
}
BESIDE: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "tool_choice": {"tools": [TOOL]},
    "top_logprobs": {"logprobs": True},
}
VLLM_FIELDS = {
    path: f"import json; from vllm.entrypoints.openai.{kind} import {model} as m; print(json.dumps([*m.model_fields]))"
    for path, kind, model in (
        (CHAT, "chat_completion.protocol", "ChatCompletionRequest"),
        (COMPLETION, "completion.protocol", "CompletionRequest"),
    )
}
LOGPROBS = {CHAT: True, COMPLETION: 2}


def names_of(typed: Any) -> set[str]:
    return set(get_type_hints(typed))


@pytest.mark.parametrize("path", TABLES)
def test_every_field_of_openais_requests_is_in_the_table(path: str) -> None:
    from openai.types import completion_create_params as completion
    from openai.types.chat import completion_create_params as chat

    params = chat if path == CHAT else completion
    theirs = names_of(params.CompletionCreateParamsNonStreaming) | names_of(params.CompletionCreateParamsStreaming)
    assert "temperature" in theirs
    assert theirs - TABLES[path].keys() == set()


@pytest.mark.parametrize("path", TABLES)
def test_every_field_of_vllms_requests_is_in_the_table(path: str) -> None:
    if importlib.util.find_spec("vllm") is None:
        missing("vLLM is not installed")
    # In a process of its own: importing vLLM warns of much and changes much.
    done = subprocess.run(
        [sys.executable, "-c", VLLM_FIELDS[path]], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = set(json.loads(done.stdout.splitlines()[-1]))
    assert "temperature" in theirs
    assert theirs - TABLES[path].keys() == set()


def test_the_page_is_what_the_table_gives() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


CASES = [(path, name) for path, table in TABLES.items() for name in table]


@pytest.mark.parametrize(("path", "name"), CASES)
def test_each_field_is_treated_as_the_table_says(
    path: str, name: str, shared_api: httpx.Client, shared_fake: FakeEngine
) -> None:
    treatment = TABLES[path][name].treatment
    value = LOGPROBS[path] if name == "logprobs" else SAMPLES.get(name, "x")
    body = ask() if path == CHAT else {"model": "burnish", "prompt": "hi"}
    asked = len(shared_fake.bodies)
    answer = shared_api.post(path, json={**body, **BESIDE.get(name, {}), name: value})
    if treatment is Treatment.refused:
        error = error_of(answer, 400)
        assert (error["param"], error["code"]) == (name, "unsupported_parameter")
        assert len(shared_fake.bodies) == asked, "the engine was asked"
        return
    assert answer.status_code == 200, answer.text
    (sent,) = shared_fake.bodies[asked:]
    if treatment is Treatment.sent:
        assert sent[name] == value
    elif treatment is Treatment.ignored:
        assert name not in sent


@pytest.mark.parametrize(("path", "name"), CASES)
def test_null_is_the_same_as_left_out(path: str, name: str, shared_api: httpx.Client) -> None:
    body: dict[str, Any] = ask() if path == CHAT else {"model": "burnish", "prompt": "hi"}
    answer = shared_api.post(path, json={**body, name: None})
    if name in body:
        assert error_of(answer, 400)["param"] == name
    else:
        assert answer.status_code == 200, answer.text


def test_fields_that_are_read_have_the_effect_that_the_table_tells(
    shared_api: httpx.Client, shared_fake: FakeEngine
) -> None:
    said = {"user": "ann", "metadata": {"session": "read"}, "n": 2, "max_tokens": 6, "max_completion_tokens": 7}
    answer = shared_api.post(CHAT, json=ask(**said, return_token_ids=True)).json()
    assert [len(choice["token_ids"]) for choice in answer["choices"]] == [7, 7]
    assert (shared_fake.bodies[-1]["n"], shared_fake.bodies[-1]["max_tokens"]) == (2, 7)
    turn = shared_api.get(f"/v1/turns/{answer['id']}").json()
    assert (turn["user"], turn["session"]) == ("ann", "read")
    unkept = shared_api.post(CHAT, json=ask(store=False, safety_identifier="eve")).json()
    assert shared_api.get(f"/v1/turns/{unkept['id']}").status_code == 404


def test_several_greedy_choices_are_asked_for_in_the_engines_way(
    shared_api: httpx.Client, shared_fake: FakeEngine
) -> None:
    answer = shared_api.post(CHAT, json=ask(n=2, temperature=0)).json()
    sent = shared_fake.bodies[-1]
    assert (sent["temperature"], sent["top_k"]) == (1, 1)
    assert shared_api.get(f"/v1/turns/{answer['id']}").json()["sampling"] == {"temperature": 0}


MISFITS: dict[str, tuple[str, dict[str, Any]]] = {
    "options of a stream that is none": ("stream_options", {"stream_options": {"include_usage": True}}),
    "prompt_logprobs of a stream": ("prompt_logprobs", {"prompt_logprobs": 1, "stream": True}),
    "top_logprobs without logprobs": ("top_logprobs", {"top_logprobs": 2}),
    "tool_choice without tools": ("tool_choice", {"tool_choice": "auto"}),
    "a choice that is no tool": (
        "tool_choice",
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}},
    ),
    "a call in a format": (
        "response_format",
        {"tools": [TOOL], "tool_choice": "required", "response_format": SCHEMA},
    ),
    "no tokens at all": ("max_tokens", {"max_tokens": 0}),
    "five stop strings": ("stop", {"stop": list("abcde")}),
    "no tools": ("tools", {"tools": []}),
    "a tool of another kind": ("tools[0]", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}),
    "a tool with a bad name": (
        "tools[0].function.name",
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
    ),
    "a call without arguments": (
        "messages[0].tool_calls[0].function.arguments",
        {"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": {"name": "add"}}]}]},
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_fields_that_do_not_fit_are_refused_before_the_engine_is_asked(
    name: str, shared_api: httpx.Client, shared_fake: FakeEngine
) -> None:
    param, fields = MISFITS[name]
    asked = len(shared_fake.bodies)
    assert error_of(shared_api.post(CHAT, json=ask() | fields), 400)["param"] == param
    assert len(shared_fake.bodies) == asked
