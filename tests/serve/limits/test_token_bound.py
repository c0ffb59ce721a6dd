"""What a request may use at most: never less than it can, for any split of the context between prompt and answers."""

from typing import Any

import httpx
import orjson
import pytest

from feedback.access_keys import KeyStore, Scope
from feedback.connection import connect
from feedback.ids import TenantId
from feedback.quota import KeyLimits
from serve.limits.token_bound import most_tokens
from serve.requests.chat_request import Asked, Kind, Limits, parse_request
from tests.serve.access.test_doors import knows
from tests.serve.conftest import ask
from tests.serve.test_streams import CHAT
from tests.services import Gateway, wait_until

CONTEXT = 1000


def make_asked(body: dict[str, Any], kind: Kind = "chat") -> Asked:
    return parse_request(orjson.dumps(body), kind, Limits(max_n=16, max_tokens=CONTEXT))


def completion(prompt: Any, **fields: Any) -> Asked:
    return make_asked({"model": "burnish", "prompt": prompt, **fields}, "completion")


def test_a_chat_that_names_no_length_may_fill_the_context_with_each_answer() -> None:
    assert most_tokens(make_asked(ask()), CONTEXT) == CONTEXT
    assert most_tokens(make_asked(ask(n=3)), CONTEXT) == 3 * CONTEXT


def test_tokens_that_are_given_are_counted_as_they_are() -> None:
    assert most_tokens(completion([1] * 50, max_tokens=100), CONTEXT) == 150
    assert most_tokens(completion([1] * 50, max_tokens=100, n=4), CONTEXT) == 450
    assert most_tokens(completion([1] * 50), CONTEXT) == 66, "a completion writes 16 unless told otherwise"
    assert most_tokens(completion([1] * 950, max_tokens=100), CONTEXT) == CONTEXT


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("most", [1, 100, 600, 1000])
@pytest.mark.parametrize("text", ["hi", "x" * 300, "ü" * 300, "x" * 5000])
def test_no_real_prompt_could_use_more(text: str, most: int, n: int) -> None:
    asked = make_asked(ask(text, max_tokens=most, n=n))
    bound = most_tokens(asked, CONTEXT)
    longest = min(len(text.encode()) + 30, CONTEXT)
    assert bound >= max(prompt + n * min(most, CONTEXT - prompt) for prompt in range(1, longest + 1))


def test_a_counted_prompt_is_taken_at_its_word() -> None:
    assert most_tokens(make_asked(ask("x" * 900, max_tokens=50, n=2)), CONTEXT, 120) == 220


def test_tools_count_as_part_of_the_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 400}}]
    without, with_them = make_asked(ask(max_tokens=10)), make_asked(ask(max_tokens=10, tools=tools))
    assert most_tokens(with_them, CONTEXT) >= most_tokens(without, CONTEXT) + 400


HARD = ["hi", "🙂" * 60, "<|im_end|>" * 40, "\u0000\n\t" * 50, "a" * 300, "日本語" * 80, "ﷺ" * 40, "}{" * 90]


@pytest.mark.parametrize("text", HARD)
def test_the_engine_never_uses_more_than_was_reserved(text: str, real_gateway: Gateway, real_api: httpx.Client) -> None:
    """On the real tokenizer and template: also the engine's own count is that of the answer's usage."""
    for kind, body in (("chat", ask(text, max_tokens=3, n=2)), ("completion", {"prompt": text, "max_tokens": 3})):
        path = CHAT if kind == "chat" else "/v1/completions"
        usage = real_api.post(path, json={"model": "burnish", **body}).json()["usage"]
        asked = make_asked({"model": "burnish", **body}, "chat" if kind == "chat" else "completion")
        assert usage["total_tokens"] <= most_tokens(asked, 2048)


def test_the_engine_counts_as_it_reads(real_gateway: Gateway, real_api: httpx.Client) -> None:
    """A prompt that its bytes would shut out is let in, and is charged what it used."""
    store = KeyStore(connect(real_gateway.redis_url))
    limits = KeyLimits(None, 600)
    _, secret = store.make("limited", frozenset({Scope.chat}), TenantId("home"), limits)
    wait_until(lambda: knows(real_api, secret), within_s=2, what="the key is known")
    asked = ask("purple elephants dance quietly " * 25, max_tokens=5)
    answer = real_api.post(CHAT, json=asked, headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 200, answer.text
    reserved = 600 - int(answer.headers["x-ratelimit-remaining-tokens"])
    assert reserved == answer.json()["usage"]["prompt_tokens"] + 5
