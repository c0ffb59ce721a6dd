"""Votes, turns, second answers, jobs and the schedule, through the API on a real Redis."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from feedback.access_keys import KeyStore, Scope
from feedback.connection import connect
from feedback.ids import LineName, TenantId
from feedback.jobs import Announcement, JobStore
from feedback.ledger import Ledger, Speaker
from feedback.lessons import DISLIKED, LIKED, LearnsFrom
from feedback.schedule import ScheduleRules
from tests.fake_engine import FakeEngine
from tests.feedback.makers import comparison, make_turn
from tests.serve.access.test_doors import knows
from tests.serve.conftest import ask
from tests.serve.test_bad_input import error_of
from tests.serve.test_streams import CHAT
from tests.services import Gateway, start_gateway, wait_until

LINE = LineName("burnish")


def answered(api: httpx.Client, **fields: Any) -> str:
    answer = api.post(CHAT, json=ask(**fields))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def say(api: httpx.Client, kind: str, key: str | None = None, **fields: Any) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return api.post("/v1/feedback", json={"kind": kind, **fields}, headers=headers)


def compare(api: httpx.Client, i: int = 0) -> httpx.Response:
    """Two answers to one prompt, and which is better."""
    first = answered(api, text=f"prompt {i}", user="ann")
    second = answered(api, text=f"prompt {i}", user="ann", seed=i + 1, metadata={"compare_with": first})
    return say(api, "comparison", turn_ids=[first, second], verdict="second")


def test_each_kind_of_statement_is_kept_and_read_back(shared_api: httpx.Client) -> None:
    turn = answered(shared_api, user="ann")
    rating = say(shared_api, "rating", turn_id=turn, value="down", reasons=["wrong"], comment="no")
    assert rating.status_code == 201
    body = rating.json()
    assert body["object"] == "feedback"
    assert body["id"].startswith("ev-")
    assert (body["user"], body["value"], body["reasons"], body["comment"]) == ("ann", "down", ["wrong"], "no")
    assert abs(body["created_at"] - time.time()) < 60
    edit = say(shared_api, "edit", turn_id=turn, text="what it should have said")
    assert edit.status_code == 201
    kept = shared_api.get(f"/v1/feedback?turn_id={turn}").json()["data"]
    assert [event["kind"] for event in kept] == ["rating", "edit"]
    assert kept[0] == body
    assert say(shared_api, "retract", event_id=body["id"]).status_code == 201
    assert say(shared_api, "retract", event_id=body["id"], user="bob").status_code == 404


def test_scores_of_aspects_are_kept_superseded_by_name_and_taken_back(
    shared_api: httpx.Client, shared_gateway: Gateway
) -> None:
    turn = answered(shared_api, user="ann")
    for name, score in (("helpful", 2), ("harmless", 5), ("helpful", 4)):
        made = say(shared_api, "aspect", turn_id=turn, name=name, score=score)
        assert made.status_code == 201
        assert (made.json()["name"], made.json()["score"], made.json()["user"]) == (name, score, "ann")
    kept = shared_api.get(f"/v1/feedback?turn_id={turn}").json()["data"]
    assert [(event["name"], event["score"]) for event in kept] == [("helpful", 2), ("harmless", 5), ("helpful", 4)]
    assert say(shared_api, "retract", event_id=kept[1]["id"]).status_code == 201
    standing = {event.id for event in Ledger(connect(shared_gateway.redis_url), LINE).standing_events()}
    assert [event["id"] in standing for event in kept] == [False, False, True]
    for wrong in ({"name": "helpful", "score": 6}, {"name": "Helpful", "score": 3}, {"score": 3}):
        assert error_of(say(shared_api, "aspect", turn_id=turn, **wrong), 400)
    gone = error_of(say(shared_api, "aspect", turn_id="nowhere", name="helpful", score=3), 404)
    assert (gone["param"], gone["code"]) == ("turn_id", "turn_not_found")


def test_the_same_idempotency_key_makes_one_event_also_at_once(
    shared_api: httpx.Client, shared_gateway: Gateway
) -> None:
    turn = answered(shared_api)
    before = Ledger(connect(shared_gateway.redis_url), LINE).last_ordinal()
    with ThreadPoolExecutor(8) as pool:
        votes = [pool.submit(say, shared_api, "rating", "one-key", turn_id=turn, value="up") for _ in range(16)]
        answers = [vote.result() for vote in votes]
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert Ledger(connect(shared_gateway.redis_url), LINE).last_ordinal() == before + 1
    other = say(shared_api, "rating", "one-key", turn_id=turn, value="down")
    assert error_of(other, 409)["code"] == "idempotency_conflict"


def test_a_second_answer_is_bound_to_the_first(shared_api: httpx.Client) -> None:
    first = answered(shared_api, temperature=0.7, seed=1, user="ann")
    second = answered(shared_api, seed=2, metadata={"compare_with": first})
    turn = shared_api.get(f"/v1/turns/{second}").json()
    assert turn["compare_with"] == first
    assert turn["sampling"] == {"temperature": 0.7, "seed": 2}
    assert turn["user"] == "ann"
    other = shared_api.post(CHAT, json=ask("another prompt", metadata={"compare_with": first}))
    assert error_of(other, 400)["param"] == "metadata.compare_with"
    hotter = shared_api.post(CHAT, json=ask(temperature=0.9, metadata={"compare_with": first}))
    assert error_of(hotter, 400)["param"] == "temperature"
    same_seed = shared_api.post(CHAT, json=ask(seed=1, metadata={"compare_with": first}))
    assert error_of(same_seed, 400)["param"] == "seed"
    stranger = shared_api.post(CHAT, json=ask(user="bob", metadata={"compare_with": first}))
    assert error_of(stranger, 404)["code"] == "turn_not_found"
    assert say(shared_api, "comparison", turn_ids=[first, second], verdict="tie").status_code == 201


def test_a_vote_on_a_turn_that_is_not_recorded_yet_is_asked_to_come_again(api: httpx.Client, gateway: Gateway) -> None:
    redis = connect(gateway.redis_url)
    _, other = KeyStore(redis).make("stranger", frozenset(Scope), TenantId("elsewhere"))
    stranger = {"Authorization": f"Bearer {other}"}
    wait_until(lambda: knows(api, other), within_s=5, what="the new key is known")
    redis.client_pause(1600, all=False)  # Reads are answered, writes wait.
    turn = answered(api)
    vote = {"kind": "rating", "turn_id": turn, "value": "up"}
    second = ask(metadata={"compare_with": turn})
    for path, body in (("/v1/feedback", vote), (CHAT, second)):
        early = api.post(path, json=body)
        assert error_of(early, 503)["code"] == "turn_queued"
        assert early.headers["retry-after"]
        assert error_of(api.post(path, json=body, headers=stranger), 404)["code"] == "turn_not_found"
    wait_until(lambda: api.post("/v1/feedback", json=vote).status_code == 201, within_s=10, what="it is accepted")
    assert api.post(CHAT, json=second).status_code == 200


def test_turns_are_listed_by_person_and_session_newest_first(shared_api: httpx.Client) -> None:
    mine = [answered(shared_api, text=str(i), user="cy", metadata={"session": "list"}) for i in range(3)]
    answered(shared_api, user="di", metadata={"session": "list"})
    listed = shared_api.get("/v1/turns", params={"session": "list", "user": "cy"}).json()["data"]
    assert [turn["id"] for turn in listed] == mine[::-1]
    assert shared_api.get("/v1/turns", params={"user": "cy", "limit": 1}).json()["data"][0]["id"] == mine[-1]
    assert shared_api.get(f"/v1/turns/{mine[0]}", params={"user": "di"}).status_code == 404


def test_a_job_needs_a_worker_a_known_recipe_and_eight_pairs(api: httpx.Client, gateway: Gateway) -> None:
    start = {"reason": "a test"}
    assert error_of(api.post("/operator/jobs", json=start), 503)["code"] == "no_worker"
    schedule = api.get("/operator/schedule").json()
    assert schedule["train"] is False
    assert schedule["recipes"] == []
    jobs = JobStore(connect(gateway.redis_url), LINE)
    jobs.announce(
        Announcement(
            recipes={"dpo": {"algorithm": "dpo"}},
            default_recipe="dpo",
            rules=ScheduleRules(min_new_pairs=9, settle_s=0),
            code_version="c",
            at=time.time(),
        )
    )
    for i in range(7):
        assert compare(api, i).status_code == 201
    assert error_of(api.post("/operator/jobs", json={**start, "recipe": "ppo"}), 400)["code"] == "unknown_recipe"
    assert error_of(api.post("/operator/jobs", json=start), 409)["code"] == "not_enough_votes"
    assert api.get("/v1/progress").json() == {
        "learns_from": "pairs", "new": 7, "needed": 9, "training": False
    }  # fmt: skip
    assert compare(api, 7).status_code == 201

    made = api.post("/operator/jobs", json=start)
    assert made.status_code == 201
    job = made.json()
    assert (job["state"], job["recipe"], job["n_events"], job["reason"]) == ("queued", "dpo", 8, "a test")
    again = api.post("/operator/jobs", json=start)
    assert (again.status_code, again.json()["id"]) == (200, job["id"])
    assert api.get("/operator/jobs").json()["jobs"] == [again.json()]
    assert api.get(f"/operator/jobs/{job['id']}").json()["curve"] == []
    claim = jobs.claim(job["id"], worker="w", lease_s=60)
    assert claim is not None
    jobs.add_point(claim, {"step": 1, "loss": 0.69})
    assert api.get(f"/operator/jobs/{job['id']}").json()["curve"] == [{"step": 1, "loss": 0.69}]
    assert api.get(f"/operator/jobs/{job['id']}?after=1").json()["curve"] == []
    cancel = f"/operator/jobs/{job['id']}/cancel"
    error_of(api.post(cancel, json={}), 400)
    cancelled = api.post(cancel, json={"reason": "too slow"}).json()
    assert (cancelled["state"], cancelled["cancelled"].partition(": ")[2]) == ("running", "too slow")
    error_of(api.post("/operator/jobs/job-none/cancel", json={"reason": "x"}), 404)

    schedule = api.get("/operator/schedule").json()
    assert (schedule["train"], schedule["new"], schedule["needed"]) == (False, 0, 9)
    assert (schedule["total"], schedule["least"], schedule["recipes"]) == (8, 8, ["dpo"])
    assert schedule["running"]["id"] == job["id"]
    assert any("running" in reason for reason in schedule["reasons"])
    assert api.get("/v1/progress").json()["training"] is True


def test_recipes_that_are_refused_are_told_to_operators(api: httpx.Client, gateway: Gateway) -> None:
    assert api.get("/operator/schedule").json()["refused"] == {}
    JobStore(connect(gateway.redis_url), LINE).announce(
        Announcement(
            recipes={"dpo": {"algorithm": "dpo"}},
            refused={"mine": "mine.toml: beta = 9 is refused"},
            default_recipe="mine",
            rules=ScheduleRules(min_new_pairs=1, min_pairs=2, settle_s=0),
            code_version="c",
            at=time.time(),
        )
    )
    for i in range(2):
        assert compare(api, i).status_code == 201
    schedule = api.get("/operator/schedule").json()
    assert (schedule["train"], schedule["recipes"]) == (False, ["dpo"])
    assert schedule["refused"] == {"mine": "mine.toml: beta = 9 is refused"}
    assert schedule["reasons"] == ["the default recipe 'mine' is refused: mine.toml: beta = 9 is refused"]
    error = error_of(api.post("/operator/jobs", json={"reason": "a test"}), 400)
    assert error["code"] == "refused_recipe"
    assert "beta = 9" in error["message"]
    assert api.post("/operator/jobs", json={"reason": "a test", "recipe": "dpo"}).status_code == 201


def test_thumbs_alone_start_a_job_by_a_recipe_that_learns_from_them(api: httpx.Client, gateway: Gateway) -> None:
    jobs = JobStore(connect(gateway.redis_url), LINE)
    jobs.announce(
        Announcement(
            recipes={"dpo": {"algorithm": "dpo"}, "kto": {"algorithm": "kto"}},
            learns_from={"kto": LearnsFrom(counted="thumbs", worth={LIKED: 1, DISLIKED: 1})},
            default_recipe="dpo",
            rules=ScheduleRules(min_pairs=4),
            code_version="c",
            at=time.time(),
        )
    )
    by_thumbs = {"recipe": "kto", "reason": "a test"}
    for i in range(3):
        vote = {"turn_id": answered(api, text=f"prompt {i}"), "value": "down" if i else "up"}
        wait_until(lambda vote=vote: say(api, "rating", **vote).is_success, within_s=5, what="the turn is recorded")
    refused = error_of(api.post("/operator/jobs", json=by_thumbs), 409)
    assert refused["message"] == "3 thumbs, 4 are the least for kto: rate more answers"
    last = {"turn_id": answered(api, text="another"), "value": "up"}
    wait_until(lambda: say(api, "rating", **last).is_success, within_s=5, what="the turn is recorded")
    schedule = api.get("/operator/schedule").json()
    assert (schedule["learns_from"], schedule["total"]) == ("pairs", 0)
    assert schedule["votes"] == {
        "dpo": {"learns_from": "pairs", "total": 0},
        "kto": {"learns_from": "thumbs", "total": 4},
    }
    refused = error_of(api.post("/operator/jobs", json={"reason": "a test"}), 409)
    assert refused["message"] == "0 pairs, 4 are the least for dpo: compare more answers"
    made = api.post("/operator/jobs", json=by_thumbs)
    assert (made.status_code, made.json()["recipe"], made.json()["n_events"]) == (201, "kto", 4)


def test_votes_that_were_kept_before_lessons_were_counted_count_from_the_start(
    tmp_path: Path, redis_url: str, fake: FakeEngine, model_dir: Path
) -> None:
    client = connect(redis_url)
    ledger = Ledger(client, LINE)
    first, second = make_turn(), make_turn(answer="Another.")
    ledger.append_turns([first, second])
    ledger.append_event(comparison(first.id, second.id), Speaker(first.tenant))
    client.delete("burnish:burnish:lessons", "burnish:burnish:lesson-rows")
    with (
        start_gateway(tmp_path / "home", redis_url, fake.url, model=model_dir) as running,
        httpx.Client(base_url=running.url, headers=running.headers(), timeout=60) as api,
    ):
        assert api.get("/v1/progress").json()["new"] == 1


def test_what_happened_is_counted(api: httpx.Client, fake: FakeEngine) -> None:
    turn = answered(api)
    vote = {"turn_id": turn, "value": "up", "source": "simulated"}
    wait_until(lambda: say(api, "rating", key="one", **vote).is_success, within_s=5, what="the turn is recorded")
    api.post(CHAT, json=ask(stream=True))
    rows = (
        'burnish_requests_total{kind="chat",outcome="ok",version="v0000-base"} 2.0',
        'burnish_tokens_total{side="completion",version="v0000-base"} 20.0',
        'burnish_first_token_seconds_count{version="v0000-base"} 1.0',
        'burnish_votes_total{kind="rating",source="simulated"} 1.0',
        'burnish_live_version{version="v0000-base"} 1.0',
        f'burnish_engine_up{{replica="127.0.0.1:{fake.port}"}} 1.0',
        "burnish_ledger_up 1.0",
        "burnish_turns_dropped_total 0.0",
    )
    pages: list[str] = []

    def missing_rows() -> list[str]:
        """A stream is counted when its last byte is out, which its reader may have before."""
        pages.append(api.get("/metrics").text)
        return [row for row in rows if row not in pages[-1]]

    wait_until(lambda: not missing_rows(), within_s=5, what=lambda: f"metrics have {missing_rows()}")
    assert "ann" not in pages[-1]


@pytest.mark.parametrize("path", ["/v1/turns", "/v1/models", "/operator/policies", "/operator/audit"])
def test_lists_are_json_objects(path: str, shared_api: httpx.Client) -> None:
    assert isinstance(shared_api.get(path).json(), dict)
