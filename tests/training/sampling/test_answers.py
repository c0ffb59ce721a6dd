"""Sampling through the gateway: pinned versions, kept answers, what is asked again and what is not."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedback.connection import connect
from feedback.ids import BASE_VERSION, LineName, Version
from feedback.registry import Registry
from tests.training.stand_in_gateway import logprob_at, stand_in_gateway
from training.errors import GatewayRefused, GatewayUnavailable, NotThere, Stopped
from training.sampling.answers import Question, SampleStore
from training.sampling.gateway import Ask, Gateway, Patience, Sample, SamplingSettings

LINE = LineName("burnish")
SETTINGS = SamplingSettings(temperature=0.7, max_tokens=32, concurrency=4)
WITH_LOGPROBS = replace(SETTINGS, logprobs=True)
QUESTIONS = [Question(({"role": "user", "content": f"Question {n}"},)) for n in range(10)]


def make_gateway(url: str) -> Gateway:
    return Gateway(url, "bk-test", LINE, Patience(total_s=30, pause_s=0.05))


def ignore(*_: object) -> None:
    pass


def test_every_prompt_is_answered_once_and_kept(redis_url: str, tmp_path: Path) -> None:
    Registry(connect(redis_url), LINE).ensure_base("ba5e")
    told: list[int] = []
    with stand_in_gateway(redis_url) as url:
        store = SampleStore(tmp_path, SETTINGS)
        first = store.collect(make_gateway(url), BASE_VERSION, QUESTIONS, ignore)
        again = store.collect(make_gateway(url), BASE_VERSION, QUESTIONS, lambda place, _: told.append(place))
    assert first == again
    assert told == list(range(len(QUESTIONS))), "kept answers are told too"
    assert len(tmp_path.joinpath(f"{BASE_VERSION}-t0.7-m32.jsonl").read_text().splitlines()) == 1 + len(QUESTIONS)
    assert all(sample.text and sample.token_ids and sample.finish_reason == "stop" for sample in first)
    assert "Question" not in "".join(path.read_text() for path in tmp_path.iterdir()), "prompts are not repeated"


def test_several_answers_to_one_prompt_are_asked_with_seeds_of_their_own(redis_url: str, tmp_path: Path) -> None:
    Registry(connect(redis_url), LINE).ensure_base("ba5e")
    questions = [replace(QUESTIONS[0], nth=nth) for nth in range(8)]
    assert len({question.seed for question in questions}) == 8
    with stand_in_gateway(redis_url) as url:
        found = SampleStore(tmp_path, SETTINGS).collect(make_gateway(url), BASE_VERSION, questions, ignore)
    assert len(found) == 8
    assert len({sample.text for sample in found}) > 1


def test_a_line_that_a_kill_cut_short_is_asked_again(redis_url: str, tmp_path: Path) -> None:
    Registry(connect(redis_url), LINE).ensure_base("ba5e")
    with stand_in_gateway(redis_url) as url:
        store = SampleStore(tmp_path, SETTINGS)
        first = store.collect(make_gateway(url), BASE_VERSION, QUESTIONS, ignore)
        [kept] = tmp_path.iterdir()
        kept.write_text(kept.read_text()[:-20])
        n_rows = len(kept.read_text().splitlines())
        for _ in range(2):
            assert store.collect(make_gateway(url), BASE_VERSION, QUESTIONS, ignore) == first
            assert len(kept.read_text().splitlines()) == n_rows + 1


def test_sampling_stops_when_it_is_asked_to_and_keeps_what_it_has(redis_url: str, tmp_path: Path) -> None:
    Registry(connect(redis_url), LINE).ensure_base("ba5e")
    seen: list[int] = []

    def stop_at_third(*_: object) -> None:
        seen.append(1)
        if len(seen) == 3:
            raise Stopped("enough")

    with stand_in_gateway(redis_url) as url:
        store = SampleStore(tmp_path, SETTINGS)
        with pytest.raises(Stopped, match="enough"):
            store.collect(make_gateway(url), BASE_VERSION, QUESTIONS, stop_at_third)
        [kept] = tmp_path.iterdir()
        assert len(kept.read_text().splitlines()) >= 1 + 3
        store.collect(make_gateway(url), BASE_VERSION, QUESTIONS, ignore)
    assert len(kept.read_text().splitlines()) == 1 + len(QUESTIONS), "nothing is asked twice"


def test_the_engines_context_is_told(redis_url: str) -> None:
    with stand_in_gateway(redis_url, context_tokens=300) as url:
        assert make_gateway(url).context_tokens() == 300
    with stand_in_gateway(redis_url, context_tokens=None) as url:
        away = Gateway(url, "bk-test", LINE, Patience(total_s=0.2, pause_s=0.05))
        with pytest.raises(GatewayUnavailable, match=r"saw no engine for 0\.2 s"):
            away.context_tokens()


def test_a_gateway_that_stays_away_is_named() -> None:
    gateway = Gateway("http://127.0.0.1:1", "bk-test", LINE, Patience(total_s=0.2, pause_s=0.05))
    with pytest.raises(GatewayUnavailable, match=r"http://127\.0\.0\.1:1/operator/jobs failed for 0.2 s"):
        gateway.get("/operator/jobs")


def test_waiting_for_a_gateway_ends_as_soon_as_it_is_asked_to() -> None:
    looks: list[int] = []

    def check() -> None:
        looks.append(1)
        if len(looks) > 3:
            raise Stopped("enough")

    began = time.monotonic()
    with pytest.raises(Stopped):
        Gateway("http://127.0.0.1:1", "bk-test", LINE, Patience(pause_s=60, check=check)).get("/operator/jobs")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("troubles", [(404,), (404, 404), (500, 503, 404, 502, 500)])
def test_an_engine_that_loses_a_version_and_gets_it_back_is_waited_for(
    redis_url: str, tmp_path: Path, troubles: tuple[int, ...]
) -> None:
    Registry(connect(redis_url), LINE).ensure_base("ba5e")
    with stand_in_gateway(redis_url, troubles=troubles) as url:
        found = SampleStore(tmp_path, SETTINGS).collect(make_gateway(url), BASE_VERSION, QUESTIONS, ignore)
    assert all(sample.text for sample in found)


def ask_once(url: str, settings: SamplingSettings = SETTINGS) -> Sample:
    taken: dict[int, Sample] = {}
    make_gateway(url).sample([Ask(BASE_VERSION, QUESTIONS[0].prompt, seed=1)], settings, taken.__setitem__)
    return taken[0]


def test_every_request_waits_behind_users_chat(redis_url: str) -> None:
    Registry(connect(redis_url), LINE).ensure_base("ba5e")
    bodies: list[dict[str, Any]] = []
    with stand_in_gateway(redis_url, troubles=(404, 500), bodies=bodies) as url:
        ask_once(url)
    assert [body["priority"] for body in bodies] == [1, 1, 1]


def test_logprobs_come_one_a_token_and_only_when_asked_for(redis_url: str) -> None:
    bodies: list[dict[str, Any]] = []
    with stand_in_gateway(redis_url, troubles=(), bodies=bodies) as url:
        without, sample = ask_once(url), ask_once(url, WITH_LOGPROBS)
    assert "logprobs" not in bodies[0]
    assert bodies[1]["logprobs"] is True
    assert without.logprobs == ()
    assert sample.logprobs == tuple(logprob_at(i) for i in range(len(sample.token_ids)))
    assert replace(sample, logprobs=()) == without


@pytest.mark.parametrize("lost", [1, 99])
def test_an_answer_that_lacks_logprobs_is_refused_with_both_counts(redis_url: str, lost: int) -> None:
    with stand_in_gateway(redis_url, troubles=(), lost_logprobs=lost) as url:
        n_tokens = len(ask_once(url).token_ids)
        wanted = f"{n_tokens} token ids came with {max(0, n_tokens - lost)} log-probs"
        with pytest.raises(GatewayRefused, match=wanted):
            ask_once(url, WITH_LOGPROBS)


def test_logprobs_are_kept_and_asked_for_anew_where_only_answers_are_kept(redis_url: str, tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = []

    def collect(settings: SamplingSettings) -> list[Sample]:
        return SampleStore(tmp_path, settings).collect(make_gateway(url), BASE_VERSION, QUESTIONS, ignore)

    with stand_in_gateway(redis_url, troubles=(), bodies=bodies) as url:
        without = collect(SETTINGS)
        first = collect(WITH_LOGPROBS)
        assert len(bodies) == 2 * len(QUESTIONS)
        assert (collect(WITH_LOGPROBS), collect(SETTINGS)) == (first, without)
    assert len(bodies) == 2 * len(QUESTIONS)
    assert all(len(sample.logprobs) == len(sample.token_ids) for sample in first)
    assert not any(sample.logprobs for sample in without)


NO_IDS = {"token_ids": [], "logprobs": {"content": []}, "message": {"content": ""}}
ABORTED = (
    {**NO_IDS, "finish_reason": "abort"},
    {**NO_IDS, "token_ids": None, "logprobs": None, "finish_reason": None},
    {"finish_reason": "abort"},
    {"finish_reason": "abort", "logprobs": None},
)


@pytest.mark.parametrize("settings", [SETTINGS, WITH_LOGPROBS])
def test_an_answer_that_the_engine_aborted_is_asked_again(
    redis_url: str, tmp_path: Path, settings: SamplingSettings
) -> None:
    bodies: list[dict[str, Any]] = []
    with stand_in_gateway(redis_url, troubles=(), aborted=ABORTED, bodies=bodies) as url:
        found = SampleStore(tmp_path, settings).collect(make_gateway(url), BASE_VERSION, QUESTIONS, ignore)
    assert len(bodies) == len(QUESTIONS) + len(ABORTED)
    assert all(sample.text and sample.token_ids and sample.finish_reason == "stop" for sample in found)
    [kept] = tmp_path.iterdir()
    assert len(kept.read_text().splitlines()) == 1 + len(QUESTIONS)


def test_an_engine_that_aborts_every_request_is_given_up_for_this_attempt_and_nothing_is_kept(
    redis_url: str, tmp_path: Path
) -> None:
    bodies: list[dict[str, Any]] = []
    with stand_in_gateway(redis_url, troubles=(), aborted=ABORTED[:1] * 99, bodies=bodies) as url:
        store = SampleStore(tmp_path, SETTINGS)
        with pytest.raises(GatewayUnavailable, match=r"asked 4 times .* 0 token ids with finish_reason = 'abort'"):
            store.collect(make_gateway(url), BASE_VERSION, QUESTIONS[:1], ignore)
    assert len(bodies) == 4
    [kept] = tmp_path.iterdir()
    assert kept.read_text() == ""


def test_what_was_kept_of_an_aborted_answer_is_asked_again(redis_url: str, tmp_path: Path) -> None:
    with stand_in_gateway(redis_url, troubles=()) as url:
        store = SampleStore(tmp_path, SETTINGS)
        first = store.collect(make_gateway(url), BASE_VERSION, QUESTIONS, ignore)
        [kept] = tmp_path.iterdir()
        rows = [json.loads(line) for line in kept.read_text().splitlines() if line]
        rows[1]["token_ids"], rows[2]["finish_reason"] = [], "abort"
        kept.write_text("\n".join(map(json.dumps, rows)))
        assert store.collect(make_gateway(url), BASE_VERSION, QUESTIONS, ignore) == first


def test_rows_that_were_kept_before_there_were_logprobs_are_read(redis_url: str, tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = []
    with stand_in_gateway(redis_url, troubles=(), bodies=bodies) as url:
        store = SampleStore(tmp_path, SETTINGS)
        first = store.collect(make_gateway(url), BASE_VERSION, QUESTIONS, ignore)
        [kept] = tmp_path.iterdir()
        rows = [json.loads(line) for line in kept.read_text().splitlines() if line]
        old = [{k: v for k, v in row.items() if k != "logprobs"} for row in rows]
        assert kept.name == "v0000-base-t0.7-m32.jsonl"
        kept.write_text("\n".join(json.dumps(row) for row in old))
        assert store.collect(make_gateway(url), BASE_VERSION, QUESTIONS, ignore) == first
    assert len(bodies) == len(QUESTIONS), "nothing is asked again"


def test_a_version_that_is_said_to_be_loaded_and_never_found_is_given_up(redis_url: str) -> None:
    Registry(connect(redis_url), LINE).ensure_base("ba5e")
    with stand_in_gateway(redis_url, troubles=(404,) * 9) as url, pytest.raises(GatewayRefused, match="404"):
        ask_once(url)


def test_a_version_that_nobody_knows_any_more_is_not_waited_for(redis_url: str) -> None:
    Registry(connect(redis_url), LINE).ensure_base("ba5e")
    with stand_in_gateway(redis_url) as url, pytest.raises(NotThere, match="GET /operator/policies/v0009-gone"):
        make_gateway(url).wait_until_loaded(Version("v0009-gone"), within_s=30)


def test_a_gateway_that_keeps_failing_is_given_up_for_this_attempt(redis_url: str) -> None:
    with (
        stand_in_gateway(redis_url, troubles=(500,) * 9) as url,
        pytest.raises(GatewayUnavailable, match="failed 4 times, at last with 500"),
    ):
        ask_once(url)


def test_a_refusal_carries_the_gateways_own_words(redis_url: str) -> None:
    Registry(connect(redis_url), LINE).ensure_base("ba5e")
    with stand_in_gateway(redis_url) as url, pytest.raises(GatewayRefused, match="409: v0000-base is live"):
        make_gateway(url).promote(BASE_VERSION, "again", over=BASE_VERSION)


def test_the_answer_of_another_version_is_refused(redis_url: str) -> None:
    Registry(connect(redis_url), LINE).ensure_base("ba5e")
    taken: list[Sample] = []
    with stand_in_gateway(redis_url, answers_as="burnish@v0009-abc") as url:
        gateway = make_gateway(url)
        ask = Ask(BASE_VERSION, QUESTIONS[0].prompt, seed=1)
        with pytest.raises(GatewayRefused, match=r"asked burnish@v0000-base, burnish@v0009-abc answered"):
            gateway.sample([ask], SETTINGS, lambda place, sample: taken.append(sample))
    assert taken == []
