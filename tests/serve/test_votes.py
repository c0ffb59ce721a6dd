"""Votes, turns, second answers, jobs and the schedule, through the API on a real Redis."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from feedback.access_keys import KeyStore, Scope
from feedback.connection import connect
from feedback.ids import LineName, TenantId
from feedback.jobs import Announcement, JobStore
from feedback.ledger import Ledger
from feedback.schedule import ScheduleRules
from tests.serve.conftest import ask
from tests.serve.test_access import knows
from tests.serve.test_bad_input import error_of
from tests.serve.test_streams import CHAT
from tests.services import Gateway, wait_until

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
    assert error_of(api.post("/operator/jobs", json=start), 409)["code"] == "not_enough_pairs"
    assert api.get("/v1/progress").json() == {"new_pairs": 7, "needed": 9, "training": False}
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

    schedule = api.get("/operator/schedule").json()
    assert (schedule["train"], schedule["new_pairs"], schedule["needed"]) == (False, 0, 9)
    assert (schedule["total_pairs"], schedule["min_pairs"], schedule["recipes"]) == (8, 8, ["dpo"])
    assert schedule["running"]["id"] == job["id"]
    assert any("running" in reason for reason in schedule["reasons"])
    assert api.get("/v1/progress").json()["training"] is True


def test_what_happened_is_counted(api: httpx.Client) -> None:
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
        "burnish_engine_up 1.0",
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
