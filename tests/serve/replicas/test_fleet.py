"""Two replicas that answer as one, with what can go wrong on one of them, on two fake engines."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.replicas.routing import choose
from tests.fake_engine import WORDS, FakeEngine, fake_engine
from tests.serve.conftest import ask, fake_probes
from tests.serve.publish import Publisher
from tests.serve.replicas.test_swap import go_live, live_now, promote
from tests.serve.test_bad_input import error_of
from tests.serve.test_streams import CHAT, streamed, text_of
from tests.services import start_gateway, wait_until

COMPLETION = "/v1/completions"
USAGE = {"stream_options": {"include_usage": True}}


@dataclass(frozen=True)
class Pair:
    """A gateway over two replicas."""

    api: httpx.Client
    one: FakeEngine
    two: FakeEngine
    publisher: Publisher

    @property
    def fakes(self) -> tuple[FakeEngine, FakeEngine]:
        return self.one, self.two

    def replicas_of(self, version: str) -> dict[str, Any]:
        replicas: dict[str, Any] = self.api.get(f"/operator/policies/{version}").json()["replicas"]
        return replicas

    def state_on(self, fake: FakeEngine, version: str) -> str | None:
        state: str | None = self.replicas_of(version).get(name_of(fake), {}).get("state")
        return state

    def session_of(self, fake: FakeEngine) -> str:
        """A session whose own replica this is."""
        idle = {name_of(each): 0 for each in self.fakes}
        numbered = (f"s{i}" for i in range(1000))
        return next(s for s in numbered if choose(idle, f"home\0{s}", sticky=True) == name_of(fake))

    def body_for(self, fake: FakeEngine, **fields: Any) -> dict[str, Any]:
        return ask(metadata={"session": self.session_of(fake)}, **fields)

    def rescued(self, how: str) -> float:
        row = f'burnish_rescued_answers_total{{how="{how}"}} '
        lines = self.api.get("/metrics").text.splitlines()
        return next((float(line.removeprefix(row)) for line in lines if line.startswith(row)), 0.0)


def name_of(fake: FakeEngine) -> str:
    return fake.url.removeprefix("http://")


@pytest.fixture
def pair(tmp_path: Path, redis_url: str, model_dir: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        one, two = stack.enter_context(fake_engine()), stack.enter_context(fake_engine())
        urls = f"{one.url},{two.url}"
        running = stack.enter_context(
            start_gateway(tmp_path / "home", redis_url, one.url, model=model_dir, BURNISH_ENGINE_URLS=urls)
        )
        api = stack.enter_context(httpx.Client(base_url=running.url, headers=running.headers(), timeout=60))
        for fake in (one, two):
            row = f'burnish_engine_up{{replica="{name_of(fake)}"}} 1.0'
            wait_until(lambda row=row: row in api.get("/metrics").text, within_s=10, what=row)  # type: ignore[misc]
        yield Pair(api, one, two, Publisher(running.home, redis_url, model_dir, fake_probes))


def test_a_promotion_loads_and_verifies_on_every_replica(pair: Pair, two_adapters: tuple[Path, Path]) -> None:
    version = go_live(pair.api, pair.publisher, two_adapters[0])
    assert [set(fake.adapters) for fake in pair.fakes] == [{version}, {version}]
    assert {name: load["state"] for name, load in pair.replicas_of(version).items()} == {
        name_of(fake): "loaded" for fake in pair.fakes
    }


def test_one_replica_that_refuses_keeps_a_version_from_going_live(pair: Pair, two_adapters: tuple[Path, Path]) -> None:
    pair.two.behave(refuse_load=True)
    version = pair.publisher.publish(two_adapters[0])
    assert error_of(promote(pair.api, version), 409)["code"] == "adapter_refused"
    assert live_now(pair.api) == "v0000-base"


def test_replicas_that_score_a_version_differently_keep_it_from_going_live(
    pair: Pair, two_adapters: tuple[Path, Path]
) -> None:
    pair.one.behave(shift=0.1)
    pair.two.behave(shift=-0.1)
    version = pair.publisher.publish(two_adapters[0])
    error = error_of(promote(pair.api, version), 409)
    assert "the replicas would answer differently" in error["message"]
    pair.two.behave(shift=0.05)
    other = pair.publisher.publish(two_adapters[1])
    assert promote(pair.api, other).status_code == 200


def test_a_replica_that_is_away_does_not_hold_up_a_promotion_and_catches_up_before_it_answers(
    pair: Pair, two_adapters: tuple[Path, Path]
) -> None:
    pair.two.behave(away=True)
    version = go_live(pair.api, pair.publisher, two_adapters[0])
    pair.two.behave(away=False, refuse_load=True)
    wait_until(lambda: pair.state_on(pair.two, version) == "refused", within_s=10, what="it was asked to load it")
    assert {live_now(pair.api) for _ in range(8)} == {version}
    assert pair.two.bodies == []
    pair.two.behave(refuse_load=False)
    wait_until(lambda: pair.state_on(pair.two, version) == "loaded", within_s=15, what="it has caught up")
    wait_until(lambda: bool(live_now(pair.api) and pair.two.bodies), within_s=10, what="it answers")
    assert {body["model"] for fake in pair.fakes for body in fake.bodies} == {version}


def test_a_replica_that_was_restarted_is_set_right_and_answers_nothing_meanwhile(
    pair: Pair, two_adapters: tuple[Path, Path]
) -> None:
    version = go_live(pair.api, pair.publisher, two_adapters[0])
    pair.two.restart()
    for _ in range(12):
        assert live_now(pair.api) == version
    wait_until(lambda: version in pair.two.adapters, within_s=10, what="it is loaded again")


def test_a_session_comes_to_the_same_replica_and_others_are_spread(pair: Pair) -> None:
    for fake in pair.fakes:
        fake.bodies.clear()
        for _ in range(5):
            assert pair.api.post(CHAT, json=pair.body_for(fake)).status_code == 200
        assert len(fake.bodies) == 5
    for i in range(30):
        pair.api.post(CHAT, json=ask(metadata={"session": f"other{i}"}))
    assert all(len(fake.bodies) > 5 for fake in pair.fakes)


def test_a_whole_answer_is_asked_for_anew_where_a_replica_has_gone(pair: Pair) -> None:
    pair.one.behave(away=True)
    for _ in range(6):
        answer = pair.api.post(CHAT, json=pair.body_for(pair.one))
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "".join(WORDS)
    assert pair.rescued("asked_again") >= 1
    pair.two.behave(away=True)
    assert error_of(pair.api.post(CHAT, json=ask()), 503)["code"] == "engine_unavailable"


@pytest.mark.parametrize("cut_after", [0, 1, 2, 5, 10])
def test_a_stream_goes_on_where_its_replica_broke_off(pair: Pair, cut_after: int) -> None:
    pair.one.behave(cut_after=cut_after)
    body = pair.body_for(pair.one, return_token_ids=True, max_tokens=9, **USAGE)
    broken, whole = (streamed(pair.api, each) for each in (body, pair.body_for(pair.two, **USAGE, max_tokens=9)))
    assert text_of(broken) == text_of(whole) == "".join(WORDS[:9])
    tokens = [t for event in broken[:-1] for c in event["choices"] for t in c.get("token_ids", ())]
    assert tokens == list(range(9))
    assert [e["usage"] for e in broken[:-1] if e.get("usage")] == [e["usage"] for e in whole[:-1] if e.get("usage")]
    assert len({event["id"] for event in broken[:-1]}) == 1
    assert {event["object"] for event in broken[:-1]} == {"chat.completion.chunk"}
    assert sum(bool(c["delta"].get("role")) for event in broken[:-1] for c in event["choices"]) == 1
    reasons = [c["finish_reason"] for event in broken[:-1] for c in event["choices"] if c["finish_reason"]]
    assert reasons == ["length"]
    turn = pair.api.get(f"/v1/turns/{broken[0]['id']}").json()
    assert (turn["answer"], turn["finish_reason"]) == ("".join(WORDS[:9]), "length")
    assert pair.rescued("resumed" if cut_after else "asked_again") == 1


def test_a_completion_goes_on_too(pair: Pair) -> None:
    pair.one.behave(cut_after=4)
    body = {**pair.body_for(pair.one), "prompt": "Once"}
    del body["messages"]
    events = streamed(pair.api, body, COMPLETION)
    assert text_of(events) == "".join(WORDS)
    assert pair.rescued("resumed") == 1


@pytest.mark.parametrize("more", [{"n": 2}, {"stop": ["zebra"]}, {"logprobs": True}, {"presence_penalty": 1}])
def test_what_hangs_on_more_than_its_tokens_ends_with_an_error_event(pair: Pair, more: dict[str, Any]) -> None:
    pair.one.behave(cut_after=4)
    events = streamed(pair.api, pair.body_for(pair.one, **more))
    assert events[-1]["error"]["code"] == "engine_unavailable"
    assert "[DONE]" not in events


def test_an_answer_is_cut_only_when_no_replica_is_left(pair: Pair) -> None:
    for fake in pair.fakes:
        fake.behave(cut_after=3)
    events = streamed(pair.api, ask())
    assert events[-1]["error"]["code"] == "engine_unavailable"
    assert text_of(events[:-1]) == "".join(WORDS[:5])


def test_a_version_stays_where_its_answers_could_go_on_until_the_last_of_them_has_ended(
    pair: Pair, two_adapters: tuple[Path, Path]
) -> None:
    old = go_live(pair.api, pair.publisher, two_adapters[0])
    pair.one.behave(cut_after=4)
    pair.one.held = True
    with ThreadPoolExecutor(1) as pool:
        broken = pool.submit(streamed, pair.api, pair.body_for(pair.one))
        wait_until(lambda: pair.one.running == 1, within_s=10, what="it has begun")
        for adapter in (two_adapters[1], two_adapters[0], two_adapters[1]):
            go_live(pair.api, pair.publisher, adapter)
        wait_until(lambda: pair.state_on(pair.two, old) == "draining", within_s=10, what="nobody wants it any more")
        pair.one.held = False
        events = broken.result()
    assert text_of(events) == "".join(WORDS)
    assert {event["model"] for event in events[:-1]} == {f"burnish@{old}"}
    wait_until(lambda: old not in pair.two.adapters, within_s=10, what="it is unloaded then")
