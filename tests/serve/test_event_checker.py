"""The checker of streamed answers finds what it is there to find. Pure."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.serve.event_checker import Asked, check_stream

Events = list[dict[str, Any]]
DONE = b"data: [DONE]\n\n"
HEAD = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m", "system_fingerprint": "v"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def part(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {**HEAD, "usage": None, "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def good() -> Events:
    return [
        part(role="assistant", content=""),
        part(1, role="assistant", content=""),
        part(content="é"),
        part(1, content="b"),
        part(1, "length"),
        part(0, "stop"),
        {**HEAD, "choices": [], "usage": USAGE},
    ]


def sent(events: Events) -> bytes:
    return b"".join(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n" for event in events)


ASKED = Asked(n=2, usage=True)


def test_a_good_stream_has_no_breach_and_is_read() -> None:
    seen = check_stream(sent(good()) + DONE, ASKED)
    assert seen.breaches == []
    assert (seen.ending, seen.texts, seen.finishes) == ("whole", {0: "é", 1: "b"}, {0: "stop", 1: "length"})
    assert seen.usage == USAGE


def changed(place: int, change: Callable[[dict[str, Any]], object]) -> bytes:
    events = good()
    change(events[place])
    return sent(events) + DONE


def of_choice(place: int, **changes: Any) -> bytes:
    return changed(place, lambda event: event["choices"][0].update(changes))


BAD: dict[str, bytes] = {
    "no end": sent(good()),
    "done twice": sent(good()) + DONE + DONE,
    "an event after the end": sent(good()) + DONE + sent([part(content="x")]),
    "done and error": sent(good()[:3])
    + sent([{"error": dict.fromkeys(("message", "type", "param", "code"), "x")}])
    + DONE,
    "an error without a code": sent(good()[:3]) + sent([{"error": {"message": "x"}}]),
    "bytes after the end": sent(good()) + DONE + b"data",
    "no data": b"event: x\n\n" + sent(good()) + DONE,
    "two lines": sent(good())[:-1] + b"data: {}\n\n" + DONE,
    "a split character": sent(good()).replace("é".encode(), "é".encode()[:1]) + DONE,
    "no JSON": b"data: {\n\n" + sent(good()) + DONE,
    "not a number": sent(good()).replace(b'"created": 1,', b'"created": NaN,') + DONE,
    "a list": b"data: []\n\n" + sent(good()) + DONE,
    "another id": changed(3, lambda event: event.update(id="b")),
    "another model": changed(3, lambda event: event.update(model="n")),
    "another fingerprint": changed(3, lambda event: event.update(system_fingerprint="w")),
    "no fingerprint": changed(3, lambda event: event.pop("system_fingerprint")),
    "the engine's own key": changed(3, lambda event: event.update(metrics=None)),
    "another object": changed(3, lambda event: event.update(object="text_completion")),
    "token ids": of_choice(3, token_ids=[1]),
    "an unknown choice key": of_choice(3, routed_experts=None),
    "no role": of_choice(0, delta={"content": ""}),
    "a role again": of_choice(2, delta={"role": "assistant", "content": "x"}),
    "another role": of_choice(0, delta={"role": "user", "content": ""}),
    "an unknown delta key": of_choice(2, delta={"content": "x", "reasoning": None}),
    "a choice too many": of_choice(2, index=2),
    "finish twice": sent([*good()[:6], part(0, "stop"), good()[6]]) + DONE,
    "text after finish": sent([*good()[:6], part(content="x"), good()[6]]) + DONE,
    "no finish": sent([*good()[:5], good()[6]]) + DONE,
    "an unknown finish": of_choice(5, finish_reason="abort"),
    "finish left out": changed(2, lambda event: event["choices"][0].pop("finish_reason")),
    "no usage": sent(good()[:6]) + DONE,
    "usage left out of one": changed(3, lambda event: event.pop("usage")),
    "usage with choices": changed(3, lambda event: event.update(usage=USAGE)),
    "usage that does not add up": changed(6, lambda event: event.update(usage={**USAGE, "total_tokens": 6})),
    "an event after usage": sent([*good()[:5], good()[6], good()[5]]) + DONE,
    "choices out of order": changed(3, lambda event: event["choices"].append(part(content="x")["choices"][0])),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_stream_is_found_out(name: str) -> None:
    assert check_stream(BAD[name], ASKED).breaches


def test_what_was_not_asked_for_is_a_breach() -> None:
    assert check_stream(sent(good()) + DONE, Asked(n=2)).breaches
    assert check_stream(sent(good()) + DONE, Asked(n=3, usage=True)).breaches
    assert check_stream(sent(good()) + DONE, Asked(n=2, usage=True, logprobs=True)).breaches
    assert check_stream(sent(good()) + DONE, Asked(n=2, usage=True, chat=False)).breaches


def test_a_cut_stream_may_end_anywhere_if_that_was_expected() -> None:
    raw = sent(good()) + DONE
    cut = Asked(n=2, usage=True, endings=frozenset({"cut", "whole"}))
    for length in range(len(raw)):
        assert check_stream(raw[:length], cut).breaches == []
        assert check_stream(raw[:length], ASKED).breaches


def test_completions_have_their_own_format() -> None:
    head = {**HEAD, "object": "text_completion"}
    logprobs = {"tokens": ["x"], "token_logprobs": [-1.0], "text_offset": [0], "top_logprobs": [{}]}
    event = {**head, "choices": [{"index": 0, "text": "x", "logprobs": logprobs, "finish_reason": "stop"}]}
    asked = Asked(chat=False, logprobs=True)
    assert check_stream(sent([event]) + DONE, asked).breaches == []
    event["choices"][0]["logprobs"] = {**logprobs, "tokens": []}
    assert check_stream(sent([event]) + DONE, asked).breaches
