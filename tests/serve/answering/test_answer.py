"""Events renamed and stripped on their way, and remembered as turns."""

from typing import Any

import orjson

from feedback.ids import TenantId, TurnId, Version
from serve.answering.answer import Answer, Stamp
from serve.requests.chat_request import Limits, parse_request
from tests.serve.conftest import ask

NAME = "burnish@v0001-aaaaaaaaaaaa"
STAMP = Stamp(TurnId("t"), TenantId("home"), Version("v0001-aaaaaaaaaaaa"), NAME, response_id=TurnId("t"))


def make_answer(**fields: Any) -> Answer:
    return Answer(parse_request(orjson.dumps(ask(**fields)), "chat", Limits(8, 2048)), STAMP)


def chunk(index: int, text: str, token_ids: list[int], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish, "token_ids": token_ids}
    return {"id": "e", "model": "e", "system_fingerprint": "vllm", "choices": [{**choice, **more}]}


def test_interleaved_choices_become_turns_of_their_own() -> None:
    answer = make_answer(n=2)
    answer.edit_event({**chunk(0, "", []), "prompt_token_ids": [1, 2], "prompt_text": None})
    for part in (
        chunk(0, "a", [5]),
        chunk(1, "x", [7, 8]),
        chunk(0, "b", [6, 2], "stop"),
        chunk(1, "y", [9], "length"),
    ):
        answer.edit_event(part)
    assert answer.is_whole
    first, second = answer.turns()
    assert (first.id, first.answer, first.token_ids, first.finish_reason) == ("t", "ab", (5, 6, 2), "stop")
    assert (second.id, second.answer, second.token_ids, second.finish_reason) == ("t.1", "xy", (7, 8, 9), "length")
    assert first.prompt_token_ids == second.prompt_token_ids == (1, 2)
    assert (answer.prompt_tokens, answer.completion_tokens) == (2, 6)


def test_the_engines_names_and_ids_are_replaced_and_its_extras_dropped() -> None:
    answer = make_answer()
    event = answer.edit_event({**chunk(0, "a", [5]), "prompt_token_ids": [1], "prompt_text": None, "metrics": {}})
    assert event.pop("created") > 0
    assert event == {
        "id": "t",
        "model": "burnish@v0001-aaaaaaaaaaaa",
        "system_fingerprint": "v0001-aaaaaaaaaaaa",
        "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}],
    }


def test_token_ids_stay_where_they_were_asked_for() -> None:
    answer = make_answer(return_token_ids=True)
    event = answer.edit_event({**chunk(0, "a", [5]), "prompt_token_ids": [1]})
    assert event["prompt_token_ids"] == [1]
    assert event["choices"][0]["token_ids"] == [5]


def test_log_probs_are_kept_only_when_there_is_one_for_each_token() -> None:
    kept, lost = make_answer(), make_answer()
    for answer in (kept, lost):
        answer.edit_event(chunk(0, "a", [5], logprobs={"content": [{"token": "a", "logprob": -0.5}]}))
    lost.edit_event(chunk(0, "b", [6], "stop"))
    assert kept.turns()[0].logprobs == (-0.5,)
    assert lost.turns()[0].logprobs is None


def test_an_answer_that_was_cut_off_has_no_finish_reason_and_one_without_tokens_is_no_turn() -> None:
    answer = make_answer(n=2)
    answer.edit_event(chunk(0, "a", [5]))
    answer.edit_event(chunk(1, "", []))
    assert [turn.finish_reason for turn in answer.turns()] == [None]
    assert not answer.is_whole


def test_an_answer_is_created_once_whatever_its_engines_say() -> None:
    answer = make_answer()
    events = [answer.edit_event({**chunk(0, "a", [5]), "created": created}) for created in (7, 99)]
    assert events[0]["created"] == events[1]["created"] > 99
