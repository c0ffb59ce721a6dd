"""The features of OpenAI's API that a caller relies on, through the `openai` client on a real engine."""

import json
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from openai.types.chat import (
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionUserMessageParam,
)

from tests.services import Gateway

QUESTION: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Name one fruit."}]


@pytest.fixture
def client(real_gateway: Gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{real_gateway.url}/v1", api_key=real_gateway.key("page"), max_retries=0) as made:
        yield made


def test_usage_comes_last_and_is_null_before(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="burnish", messages=QUESTION, max_tokens=6, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["length"]


def test_the_same_seed_gives_the_same_answer(client: OpenAI) -> None:
    def told(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="burnish", messages=QUESTION, max_tokens=16, temperature=1, seed=seed
        )
        return answer.choices[0].message.content

    assert told(5) == told(5)
    assert len({told(seed) for seed in range(5, 9)}) > 1


def test_several_greedy_choices_are_the_greedy_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="burnish", messages=QUESTION, max_tokens=6, temperature=0, n=2)
    alone = client.chat.completions.create(model="burnish", messages=QUESTION, max_tokens=6, temperature=0)
    first, second = (choice.message.content for choice in answer.choices)
    assert first == second
    assert (first or "")[:3] == (alone.choices[0].message.content or "")[:3]


def test_developer_messages_and_content_parts_are_read(client: OpenAI) -> None:
    as_parts = client.chat.completions.create(
        model="burnish",
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "Answer in French."}]},
            {"role": "user", "content": [{"type": "text", "text": "Name one fruit."}]},
        ],
        max_completion_tokens=8,
        temperature=0,
    )
    as_text = client.chat.completions.create(
        model="burnish",
        messages=[{"role": "system", "content": "Answer in French."}, {"role": "user", "content": "Name one fruit."}],
        max_tokens=8,
        temperature=0,
    )
    assert as_parts.choices[0].message.content == as_text.choices[0].message.content
    assert as_parts.usage == as_text.usage


def test_log_probs_carry_tokens_and_their_bytes(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="burnish", messages=QUESTION, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    rows = choice.logprobs.content or []
    assert len(rows) == answer.usage.completion_tokens if answer.usage else False
    spelt = b"".join(bytes(row.bytes or []) for row in rows).decode()
    assert spelt.startswith(choice.message.content or "?")
    for row in rows:
        assert [top.logprob for top in row.top_logprobs] == sorted((t.logprob for t in row.top_logprobs), reverse=True)
        assert row.token == row.top_logprobs[0].token, "greedy"


def test_answers_keep_a_json_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"fruit": {"enum": ["apple", "pear"]}, "ripe": {"type": "boolean"}},
        "required": ["fruit", "ripe"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="burnish",
        messages=QUESTION,
        max_tokens=80,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "fruit", "schema": schema, "strict": True}},
    )
    told = json.loads(answer.choices[0].message.content or "")
    assert told.keys() == {"fruit", "ripe"}
    assert told["fruit"] in ("apple", "pear")
    plain = client.chat.completions.create(
        model="burnish", messages=QUESTION, max_tokens=80, temperature=0, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(plain.choices[0].message.content or ""), dict)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="burnish",
            messages=QUESTION,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "frob"}}},
        )
    assert refused.value.param == "response_format"


WEATHER: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Bern", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def test_a_tool_is_called_where_the_caller_says_so(client: OpenAI) -> None:
    named: ChatCompletionNamedToolChoiceParam = {"type": "function", "function": {"name": "weather"}}
    required = client.chat.completions.create(
        model="burnish", messages=QUESTION, tools=[WEATHER], tool_choice="required", max_tokens=80, temperature=0
    )
    chosen = client.chat.completions.create(
        model="burnish", messages=QUESTION, tools=[WEATHER], tool_choice=named, max_tokens=80, temperature=0
    )
    assert required.choices[0].finish_reason == "tool_calls"
    assert chosen.choices[0].finish_reason == "stop", "as OpenAI says of a named function"
    for answer in (required, chosen):
        (call,) = answer.choices[0].message.tool_calls or ()
        assert isinstance(call, ChatCompletionMessageFunctionToolCall)
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in ("Bern", "Rome")


def test_a_tools_call_and_its_result_are_read_back(client: OpenAI) -> None:
    call: ChatCompletionMessageFunctionToolCallParam = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Bern"}'},
    }
    answer = client.chat.completions.create(
        model="burnish",
        messages=[
            {"role": "user", "content": "How is the weather?"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."},
        ],
        tools=[WEATHER],
        max_tokens=8,
    )
    assert answer.choices[0].message.content


def test_every_answer_can_be_named_by_its_id(client: OpenAI) -> None:
    first, second = (client.models.with_raw_response.list() for _ in range(2))
    assert first.request_id
    assert first.request_id != second.request_id
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert (missing.value.request_id or "").startswith("req_")
