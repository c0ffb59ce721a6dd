"""Answers that go wrong on their way: cuts, errors in mid-stream, callers who leave, engines that fail."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fake_engine import WORDS, FakeEngine
from tests.serve.conftest import ask
from tests.serve.test_bad_input import error_of
from tests.services import Gateway, wait_until

CHAT = "/v1/chat/completions"


def events_of(raw: str) -> list[Any]:
    """The payloads of a stream, `[DONE]` as text; checks the framing on the way."""
    assert raw.endswith("\n\n")
    payloads = []
    for block in raw[:-2].split("\n\n"):
        assert block.startswith("data: ")
        assert "\n" not in block
        payload = block[len("data: ") :]
        payloads.append(payload if payload == "[DONE]" else json.loads(payload))
    return payloads


def streamed(client: httpx.Client, body: dict[str, Any], path: str = CHAT) -> list[Any]:
    answer = client.post(path, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events_of(answer.text)


def text_of(events: list[Any], index: int = 0) -> str:
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices if c["index"] == index)


def test_a_stream_carries_one_id_one_version_and_ends_with_done(shared_api: httpx.Client) -> None:
    events = streamed(shared_api, ask(n=2))
    assert events[-1] == "[DONE]"
    assert events.count("[DONE]") == 1
    parts = events[:-1]
    assert len({part["id"] for part in parts}) == 1
    assert {part["model"] for part in parts} == {"burnish@v0000-base"}
    assert {part["system_fingerprint"] for part in parts} == {"v0000-base"}
    assert not any("usage" in part for part in parts)
    assert "token_ids" not in json.dumps(parts)
    assert [text_of(events, index) for index in (0, 1)] == ["".join(WORDS)] * 2


def test_usage_and_token_ids_come_when_asked_for(shared_api: httpx.Client) -> None:
    parts = streamed(shared_api, ask(stream_options={"include_usage": True}, return_token_ids=True))[:-1]
    assert [part["choices"] for part in parts if part["usage"] is not None] == [[]]
    assert parts[-1]["usage"]["completion_tokens"] == len(WORDS)
    assert parts[0]["prompt_token_ids"] == [1, 2, 3]
    assert [token for part in parts for c in part["choices"] for token in c.get("token_ids", ())] == list(range(10))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_each_choice_is_a_turn_that_holds_what_was_sent(path: str, stream: bool, shared_api: httpx.Client) -> None:
    extra: dict[str, Any] = {
        "n": 2,
        "seed": 7,
        "temperature": 0.5,
        "user": "ann",
        "metadata": {"session": "s9"},
        "stream": stream,
    }
    body = ask(**extra) if path == CHAT else {"model": "burnish", "prompt": "Once", **extra}
    answer = shared_api.post(path, json=body)
    first = events_of(answer.text)[0]["id"] if stream else answer.json()["id"]
    for turn_id in (first, f"{first}.1"):
        turn = shared_api.get(f"/v1/turns/{turn_id}").json()
        assert turn["answer"] == "".join(WORDS)
        assert turn["prompt_token_ids"] == [1, 2, 3]
        assert turn["token_ids"] == list(range(10))
        assert (turn["user"], turn["session"], turn["model"]) == ("ann", "s9", "v0000-base")
        assert turn["sampling"] == {"seed": 7, "temperature": 0.5}
        assert turn["finish_reason"] == "length"
        assert (turn["first_token_ms"] is not None) == stream
    for limit in (1, 2):
        page = shared_api.get(f"/v1/turns?session=s9&limit={limit}").json()["data"]
        assert [turn["id"] for turn in page] == [f"{first}.1", first][:limit], "the newest come first"


def test_store_false_keeps_no_turn(shared_api: httpx.Client) -> None:
    answer = shared_api.post(CHAT, json=ask(store=False)).json()
    assert shared_api.get(f"/v1/turns/{answer['id']}").status_code == 404


def test_an_error_in_mid_stream_is_an_event_and_no_done_follows(api: httpx.Client, fake: FakeEngine) -> None:
    fake.behave(error_after=4)
    events = streamed(api, ask())
    assert events[-1]["error"]["type"] == "server_error"
    assert events[-1]["error"].keys() == {"message", "type", "param", "code"}
    assert "[DONE]" not in events
    assert len(events) == 5
    assert api.get(f"/v1/turns/{events[0]['id']}").status_code == 404


def test_a_cut_in_mid_stream_is_told_and_no_done_follows(api: httpx.Client, fake: FakeEngine) -> None:
    fake.behave(cut_after=4, delay_s=0.02)
    events = streamed(api, ask())
    assert events[-1]["error"]["code"] == "engine_unavailable"
    assert "[DONE]" not in events


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_before_the_first_event_is_a_status(stream: bool, api: httpx.Client, fake: FakeEngine) -> None:
    fake.behave(cut_after=0, error_after=None)
    if stream:
        answer = api.post(CHAT, json=ask(stream=True))
        assert error_of(answer, 503)["code"] == "engine_unavailable"
        assert answer.headers["retry-after"]
        fake.behave(cut_after=None, error_after=0)
        assert error_of(api.post(CHAT, json=ask(stream=True)), 502)["code"] == "engine_failed"
    fake.behave(cut_after=None, error_after=None, status=500)
    assert error_of(api.post(CHAT, json=ask(stream=stream)), 502)["code"] == "engine_failed"
    fake.behave(status=503)
    assert error_of(api.post(CHAT, json=ask(stream=stream)), 503)["code"] == "engine_unavailable"
    fake.behave(status=400)
    assert error_of(api.post(CHAT, json=ask(stream=stream)), 400)["type"] == "invalid_request_error"
    fake.behave(status=200)
    assert api.post(CHAT, json=ask(stream=stream)).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_who_leaves_stops_the_engine_at_once(
    stream: bool, gateway: Gateway, api: httpx.Client, fake: FakeEngine
) -> None:
    fake.behave(delay_s=2)
    at = urlsplit(gateway.url)
    connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=10)
    headers = {**gateway.headers(), "content-type": "application/json"}
    connection.request("POST", CHAT, json.dumps(ask(stream=stream, metadata={"session": "left"})), headers)
    wait_until(lambda: fake.running == 1, within_s=5, what="the engine is asked")
    if stream:
        with connection.getresponse() as answer:
            wait_until(lambda: WORDS[0].encode() in answer.readline(), within_s=10, what="the first word", every_s=0)
    connection.close()
    wait_until(lambda: fake.running == 0, within_s=4, what="the engine is left alone")
    assert fake.aborted == 1
    if stream:
        wait_until(lambda: len(turns_of(api, "left")) == 1, within_s=10, what="what they saw is kept")
        turn = turns_of(api, "left")[0]
        assert turn["finish_reason"] is None
        assert "".join(WORDS).startswith(turn["answer"])
        assert turn["answer"]


def turns_of(client: httpx.Client, session: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/v1/turns?session={session}").json()["data"]
    return found


def test_many_streams_at_once_stay_apart(shared_api: httpx.Client) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: streamed(shared_api, ask(f"question {i}")), range(64)))
    assert len({events[0]["id"] for events in answers}) == 64
    for i, events in enumerate(answers):
        assert text_of(events) == "".join(WORDS)
        turn = shared_api.get(f"/v1/turns/{events[0]['id']}").json()
        assert turn["messages"][0]["content"] == f"question {i}"
