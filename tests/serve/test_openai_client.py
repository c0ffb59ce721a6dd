"""The `openai` client against the gateway on a real engine: answers, streams, models, and errors as its classes."""

from collections.abc import Iterator

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from tests.services import Engine, Gateway

QUESTION: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Name one fruit."}]


@pytest.fixture
def client(real_gateway: Gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{real_gateway.url}/v1", api_key=real_gateway.key("page"), max_retries=0) as made:
        yield made


def test_models_are_listed_and_found(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["burnish", "burnish@v0000-base"]
    assert client.models.retrieve("burnish").owned_by == "burnish"


def test_a_whole_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="burnish", messages=QUESTION, max_tokens=12, temperature=0)
    assert answer.model == "burnish@v0000-base"
    assert answer.system_fingerprint == "v0000-base"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 12
    assert answer.model_extra is not None
    assert "prompt_token_ids" not in answer.model_extra


def test_a_stream_says_the_same_as_the_whole_answer(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="burnish", messages=QUESTION, max_tokens=24, temperature=0)
    stream = client.chat.completions.create(
        model="burnish",
        messages=QUESTION,
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.model for chunk in chunks} == {"burnish@v0000-base"}


def test_n_stop_seed_and_logprobs(client: OpenAI, real_api: httpx.Client) -> None:
    answer = client.chat.completions.create(
        model="burnish", messages=QUESTION, max_tokens=8, n=3, seed=11, temperature=1, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert len(choice.logprobs.content[0].top_logprobs) == 2
        turn_id = answer.id if choice.index == 0 else f"{answer.id}.{choice.index}"
        turn = real_api.get(f"/v1/turns/{turn_id}").json()
        assert turn["answer"] == choice.message.content
        assert turn["logprobs"] == [row.logprob for row in choice.logprobs.content]
        assert len(turn["token_ids"]) == len(turn["logprobs"])
        assert turn["prompt_token_ids"]
        assert turn["sampling"]["seed"] == 11
    counting: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Count: one, two, three, four, five"}]
    stopped = client.chat.completions.create(model="burnish", messages=counting, stop=["three"], temperature=0)
    assert "three" not in (stopped.choices[0].message.content or "")
    assert stopped.choices[0].finish_reason == "stop"


def test_completions_too(client: OpenAI, real_api: httpx.Client) -> None:
    answer = client.completions.create(model="burnish", prompt="The sun is", max_tokens=6, temperature=0, logprobs=1)
    assert answer.choices[0].text
    turn = real_api.get(f"/v1/turns/{answer.id}").json()
    assert (turn["prompt"], turn["answer"], turn["kind"]) == ("The sun is", answer.choices[0].text, "completion")
    assert answer.choices[0].logprobs is not None
    assert turn["logprobs"] == answer.choices[0].logprobs.token_logprobs
    streamed = client.completions.create(model="burnish", prompt="The sun is", max_tokens=6, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def test_errors_come_as_the_clients_own_classes(client: OpenAI, real_gateway: Gateway) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="burnish", messages=QUESTION, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError) as unknown:
        client.with_options(api_key="bk-wrong").models.list()
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError):
        client.get("/../operator/policies", cast_to=httpx.Response)
    long: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "word " * 9000}]
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model="burnish", messages=long)
    assert "token" in too_long.value.message
    assert (too_long.value.code, too_long.value.param) == ("context_length_exceeded", "messages")


def test_greedy_answers_are_those_of_the_engine_itself(client: OpenAI, engine: Engine) -> None:
    with OpenAI(base_url=f"{engine.url}/v1", api_key="none", max_retries=0) as direct:
        for text in ("Why is the sky blue?", "Name a river.", "What is 2 + 3?"):
            asked: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": text}]
            ours = client.chat.completions.create(model="burnish", messages=asked, max_tokens=24, temperature=0)
            theirs = direct.chat.completions.create(model="v0000-base", messages=asked, max_tokens=24, temperature=0)
            assert ours.choices[0].message.content == theirs.choices[0].message.content
            assert ours.choices[0].finish_reason == theirs.choices[0].finish_reason
            assert ours.usage is not None
            assert theirs.usage is not None
            assert ours.usage.total_tokens == theirs.usage.total_tokens
