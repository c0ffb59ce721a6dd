"""Keys with limits and a gateway with a capacity: who waits, what they are told, and what it costs them."""

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from feedback.access_keys import KeyStore, Scope
from feedback.connection import connect
from feedback.ids import TenantId
from feedback.quota import KeyLimits
from tests.fake_engine import MAX_MODEL_LEN, WORDS, FakeEngine
from tests.serve.access.test_doors import knows
from tests.serve.conftest import ask
from tests.serve.test_bad_input import error_of
from tests.serve.test_streams import CHAT, streamed
from tests.services import Gateway, start_gateway, wait_until

PROMPT_TOKENS = 3
USED = PROMPT_TOKENS + len(WORDS)


@contextmanager
def limited(gateway: Gateway, requests: int | None = None, tokens: int | None = None) -> Iterator[httpx.Client]:
    """A client with a key of such limits."""
    store = KeyStore(connect(gateway.redis_url))
    _, secret = store.make("limited", frozenset({Scope.chat}), TenantId("acme"), KeyLimits(requests, tokens))
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=60) as client:
        wait_until(lambda: knows(client, secret), within_s=2, what="the key is known")
        yield client


def left(answer: httpx.Response, kind: str) -> int:
    return int(answer.headers[f"x-ratelimit-remaining-{kind}"])


def test_the_request_after_the_last_one_waits_and_is_told_how_long(gateway: Gateway, fake: FakeEngine) -> None:
    with limited(gateway, requests=2) as client:
        for remaining in (1, 0):
            answer = client.post(CHAT, json=ask())
            assert answer.status_code == 200
            assert left(answer, "requests") == remaining
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            assert answer.headers["x-ratelimit-reset-requests"] == "1m0s"
            assert "x-ratelimit-limit-tokens" not in answer.headers
        asked = len(fake.bodies)
        for _ in range(3):
            refused = client.post(CHAT, json=ask(stream=True))
            error = error_of(refused, 429)
            assert (error["code"], error["type"]) == ("rate_limit_exceeded", "requests")
            assert "Limit 2, Used 2, Requested 1" in error["message"]
            assert 50 <= int(refused.headers["retry-after"]) <= 60
            assert left(refused, "requests") == 0
        assert len(fake.bodies) == asked, "the engine was not asked"
        assert client.get("/v1/models").status_code == 200, "only answers are limited"
    page = httpx.get(f"{gateway.url}/metrics").text
    assert 'burnish_refused_total{why="requests"} 3.0' in page


def test_tokens_are_reserved_in_full_and_settled_by_use(gateway: Gateway, fake: FakeEngine) -> None:
    with limited(gateway, tokens=1000) as client:
        first = client.post(CHAT, json=ask(max_tokens=500))
        assert 300 < left(first, "tokens") < 500, "500 and the prompt's bytes are held while it runs"
        second = streamed_answer(client, ask(max_tokens=10))
        assert 800 < left(second, "tokens") < 1000 - USED, "the first has been settled to what it used"
        assert second.headers["x-ratelimit-reset-tokens"] == "1m0s"
        wait_until(lambda: spent(gateway) == 2 * USED, within_s=5, what="both are settled")


def streamed_answer(client: httpx.Client, body: dict[str, Any]) -> httpx.Response:
    answer = client.post(CHAT, json={**body, "stream": True})
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")
    return answer


def spent(gateway: Gateway) -> int:
    """Tokens that count in the minute of the one key that has a limit."""
    client = connect(gateway.redis_url)
    (name,) = client.keys("burnish:quota:*") or [""]
    return int(client.hget(name, "sum") or 0) if name else 0


@pytest.mark.parametrize("kind", ["requests", "tokens"])
def test_requests_at_once_over_two_gateways_never_overshoot(
    kind: str, gateway: Gateway, fake: FakeEngine, tmp_path: Path, model_dir: Path
) -> None:
    """None of them ends before all were asked, so that what is admitted stands at once."""
    limits = {"requests": {"requests": 5}, "tokens": {"tokens": 5 * 500 + 499}}[kind]
    with (
        start_gateway(tmp_path / "second", gateway.redis_url, fake.url, model=model_dir) as second,
        limited(gateway, **limits) as client,
        httpx.Client(base_url=second.url) as there,
        ThreadPoolExecutor(24) as pool,
    ):
        key = {"authorization": client.headers["authorization"]}
        wait_until(lambda: knows(there, key["authorization"][7:]), within_s=2, what="the other knows the key")
        fake.held = True
        body = {"model": "burnish", "prompt": [1] * 200, "max_tokens": 300, "stream": True}
        asked = [
            pool.submit(httpx.post, url + "/v1/completions", json=body, headers=key, timeout=60)
            for url in [gateway.url, second.url] * 12
        ]
        wait_until(lambda: sum(answer.done() for answer in asked) >= 19, within_s=20, what="19 are refused")
        assert fake.running == 5
        fake.held = False
        assert sorted(answer.result().status_code for answer in asked) == [200] * 5 + [429] * 19
        assert "burnish_limits_alone 0.0" in client.get("/metrics").text


def test_a_request_that_can_never_fit_is_told_so_and_not_to_come_again(gateway: Gateway) -> None:
    with limited(gateway, tokens=1000) as client:
        for body in (ask(max_tokens=1200), ask(), ask(max_tokens=300, n=4)):
            refused = client.post(CHAT, json=body)
            error = error_of(refused, 429)
            assert (error["code"], error["type"]) == ("rate_limit_exceeded", "tokens")
            assert "too large" in error["message"]
            assert "max_tokens" in error["message"]
            assert "retry-after" not in refused.headers
            assert refused.headers["x-should-retry"] == "false"
            assert left(refused, "tokens") == 1000
        assert f"Requested {MAX_MODEL_LEN} at most" in error_of(client.post(CHAT, json=ask()), 429)["message"]
        assert client.post("/v1/completions", json={"model": "burnish", "prompt": "Once"}).status_code == 200


def test_a_prompt_is_shut_out_by_its_tokens_not_by_its_bytes(gateway: Gateway, fake: FakeEngine) -> None:
    with limited(gateway, tokens=1000) as client:
        answer = client.post(CHAT, json=ask("word " * 190, max_tokens=300))
        assert answer.status_code == 200
        assert left(answer, "tokens") == 1000 - 300 - PROMPT_TOKENS
        assert fake.counted == 1
        assert client.post(CHAT, json=ask("word " * 190, max_tokens=1000)).status_code == 429
        assert client.post(CHAT, json=ask(max_tokens=300)).status_code == 200
        assert fake.counted == 1, "it is asked only where that may help"


def test_what_fails_by_our_fault_is_given_back_and_what_is_refused_counts(gateway: Gateway, fake: FakeEngine) -> None:
    with limited(gateway, requests=10, tokens=1000) as client:
        fake.behave(status=500)
        assert client.post(CHAT, json=ask(max_tokens=100)).status_code == 502
        fake.behave(status=503)
        assert client.post(CHAT, json=ask(max_tokens=100)).status_code == 503
        fake.behave(status=400)
        assert client.post(CHAT, json=ask(max_tokens=100)).status_code == 400
        fake.behave(status=200)
        assert client.post(CHAT, json={"model": "burnish"}).status_code == 400, "malformed: never admitted"
        answer = client.post(CHAT, json=ask(max_tokens=100))
        assert left(answer, "requests") == 8
        wait_until(lambda: spent(gateway) == USED, within_s=5, what="only the answer's tokens count")


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_who_leaves_is_charged_for_what_was_computed(stream: bool, gateway: Gateway, fake: FakeEngine) -> None:
    with limited(gateway, tokens=1000) as client:
        fake.behave(delay_s=0.5)
        at = urlsplit(gateway.url)
        connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=10)
        headers = {"authorization": client.headers["authorization"], "content-type": "application/json"}
        connection.request("POST", CHAT, json.dumps(ask(stream=stream, max_tokens=100)), headers)
        wait_until(lambda: fake.running == 1, within_s=5, what="the engine is asked")
        reserved = spent(gateway)
        assert reserved > 100
        if stream:
            with connection.getresponse() as answer:
                wait_until(
                    lambda: WORDS[0].encode() in answer.readline(), within_s=10, what="the first word", every_s=0
                )
        connection.close()
        wait_until(lambda: fake.running == 0, within_s=4, what="the engine is left alone")
        if stream:
            wait_until(lambda: PROMPT_TOKENS < spent(gateway) < USED, within_s=4, what="what was seen is charged")
        else:
            fake.behave(delay_s=0)
            assert client.post(CHAT, json=ask(max_tokens=10)).status_code == 200
            wait_until(lambda: spent(gateway) == reserved + USED, within_s=4, what="all of it stays charged")


def test_a_key_without_limits_asks_redis_nothing(gateway: Gateway, api: httpx.Client) -> None:
    def scripts() -> int:
        stats = connect(gateway.redis_url).info("commandstats")
        return sum(row["calls"] for name, row in stats.items() if "evalsha" in name)

    before = scripts()
    answer = api.post(CHAT, json=ask(store=False))
    assert answer.status_code == 200
    assert not any(name.startswith("x-ratelimit") for name in answer.headers)
    assert scripts() == before
    with limited(gateway, requests=2) as client:
        client.post(CHAT, json=ask(store=False))
    assert scripts() > before, "the count would have been seen"


def test_beyond_its_capacity_a_gateway_says_so_at_once(
    tmp_path: Path, redis_url: str, fake: FakeEngine, model_dir: Path
) -> None:
    most = {"BURNISH_ENGINE_MAX_REQUESTS": "3"}
    with (
        start_gateway(tmp_path / "small", redis_url, fake.url, model=model_dir, **most) as gateway,
        limited(gateway, requests=10) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        fake.held = True
        running = [pool.submit(streamed, client, ask()), pool.submit(streamed, client, ask(n=2))]
        wait_until(lambda: fake.running == 2, within_s=5, what="both run")
        refused = client.post(CHAT, json=ask())
        assert error_of(refused, 503)["code"] == "at_capacity"
        assert int(refused.headers["retry-after"]) >= 1
        assert fake.running == 2
        fake.held = False
        assert all(future.result()[-1] == "[DONE]" for future in running)
        answer = client.post(CHAT, json=ask())
        assert answer.status_code == 200
        assert left(answer, "requests") == 7, "the refused one cost nothing"
        assert 'burnish_refused_total{why="capacity"} 1.0' in client.get("/metrics").text
