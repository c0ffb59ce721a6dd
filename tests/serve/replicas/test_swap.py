"""Loading, verifying, promoting and unloading, with what can go wrong on the way, on the fake engine."""

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from feedback.ids import Version
from feedback.policies import PolicyState
from serve.replicas.swap import wanted_versions
from tests.fake_engine import MAX_MODEL_LEN, FakeEngine
from tests.serve.conftest import ask, fake_probes
from tests.serve.makers import make_policy, make_view
from tests.serve.publish import WEIGHTS, Publisher
from tests.serve.test_bad_input import error_of
from tests.serve.test_streams import CHAT, streamed, text_of
from tests.services import Gateway, start_gateway, wait_until

WHY = {"reason": "a test"}


def other_probes(version: Version, directory: Path) -> Sequence[dict[str, Any]]:
    """Numbers that no adapter of the fake engine has."""
    (probe,) = fake_probes(version, directory)
    return [{**probe, "adapter": [x + 1 for x in probe["adapter"]]}]


def load_of(api: httpx.Client, version: Version) -> dict[str, Any]:
    load: dict[str, Any] = api.get(f"/operator/policies/{version}").json()["load"] or {}
    return load


def wait_loaded(api: httpx.Client, version: Version, state: str = "loaded") -> None:
    wait_until(lambda: load_of(api, version).get("state") == state, within_s=10, what=f"{version} is {state}")


def promote(api: httpx.Client, version: Version, **more: str) -> httpx.Response:
    return api.post(f"/operator/policies/{version}/promote", json={**WHY, **more})


def live_now(api: httpx.Client) -> str:
    """The version that the next answer comes from."""
    answer = api.post(CHAT, json=ask(max_tokens=4))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["model"] == f"burnish@{answer.headers['x-burnish-policy']}"
    return str(answer.headers["x-burnish-policy"])


def go_live(api: httpx.Client, publisher: Publisher, made: Path) -> Version:
    version = publisher.publish(made)
    assert promote(api, version).status_code == 200
    return version


def test_held_candidates_leave_room_for_rollouts_a_draft_and_for_what_a_rollback_brings_back() -> None:
    live, former = make_policy(7, PolicyState.live), make_policy(6, PolicyState.retired)
    candidates = [make_policy(counter, PolicyState.candidate) for counter in (1, 2, 3, 4, 5)]
    draft, rejected = make_policy(8, PolicyState.draft), make_policy(9, PolicyState.rejected)
    rollout = make_policy(10, PolicyState.rollout)
    view = make_view(former, live, others=(*candidates, draft, rejected, rollout))
    assert wanted_versions(view, 6) == [live, former, rollout, draft, *candidates[:2:-1]]
    assert wanted_versions(view, 10) == [live, former, rollout, draft, *candidates[::-1], rejected]


def test_a_draft_is_loaded_and_answers_operators_only(
    api: httpx.Client, gateway: Gateway, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine
) -> None:
    version = publisher.publish(two_adapters[0], PolicyState.draft)
    wait_loaded(api, version)
    assert fake.adapters == {version: str(gateway.home / "adapters" / version)}
    name = f"burnish@{version}"
    listed = [model["id"] for model in api.get("/v1/models").json()["data"]]
    assert listed == ["burnish", name, "burnish@v0000-base"]
    assert {model["max_model_len"] for model in api.get("/v1/models").json()["data"]} == {MAX_MODEL_LEN}
    assert api.get(f"/v1/models/{name}").json()["parent"] == "burnish@v0000-base"
    for model in (name, "burnish@v0001", version):
        answer = api.post(CHAT, json=ask(model=model)).json()
        assert answer["model"] == name
    assert {body["model"] for body in fake.bodies} == {version}
    page = gateway.headers("page")
    assert [m["id"] for m in api.get("/v1/models", headers=page).json()["data"]] == ["burnish", "burnish@v0000-base"]
    assert api.get(f"/v1/models/{name}", headers=page).status_code == 404
    error_of(api.post(CHAT, json=ask(model=name), headers=page), 404)
    assert error_of(promote(api, version), 409)["code"] == "move_refused"


def test_promotion_and_rollback_move_the_very_next_request(
    api: httpx.Client, publisher: Publisher, two_adapters: tuple[Path, Path]
) -> None:
    assert live_now(api) == "v0000-base"
    one = go_live(api, publisher, two_adapters[0])
    assert live_now(api) == one
    two = go_live(api, publisher, two_adapters[1])
    assert live_now(api) == two
    assert api.get("/v1/models/burnish").json()["root"] == f"burnish@{two}"
    assert {load_of(api, version)["state"] for version in (one, two)} == {"loaded"}
    asked_at = time.monotonic()
    back = api.post("/operator/rollback", json=WHY)
    assert back.json() == {"live": one, "previous": "v0000-base", "epoch": back.json()["epoch"]}
    assert live_now(api) == one
    assert time.monotonic() - asked_at <= 1
    assert api.post(f"/operator/policies/{one}/withdraw", json=WHY).json()["live"] == "v0000-base"
    assert live_now(api) == "v0000-base"
    actions = [(entry["action"], entry["reason"]) for entry in api.get("/operator/audit").json()["audit"]]
    assert actions[:2] == [("withdraw", "a test"), ("rollback", "a test")]
    assert all(entry["actor"] for entry in api.get("/operator/audit").json()["audit"])
    assert error_of(promote(api, two), 409)["code"] == "move_refused"


def test_a_promotion_over_another_version_than_the_live_one_is_refused(
    api: httpx.Client, publisher: Publisher, two_adapters: tuple[Path, Path]
) -> None:
    one, two = (publisher.publish(folder) for folder in two_adapters)
    for version in (one, two):
        wait_loaded(api, version)
    assert promote(api, one, over="v0000-base").status_code == 200
    refused = error_of(promote(api, two, over="v0000-base"), 409)
    assert refused["code"] == "move_refused"
    assert f"over v0000-base, but {one} is live now" in refused["message"]
    assert live_now(api) == one
    assert promote(api, two, over=one).status_code == 200
    assert live_now(api) == two


def test_an_answer_keeps_the_version_it_began_with(
    api: httpx.Client, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine
) -> None:
    version = publisher.publish(two_adapters[0])
    wait_loaded(api, version)
    fake.held = True
    answers: list[list[Any]] = []
    stream = threading.Thread(target=lambda: answers.append(streamed(api, ask("slow"))))
    stream.start()
    wait_until(lambda: fake.running == 1, within_s=5, what="the stream runs")
    assert promote(api, version).status_code == 200
    assert live_now(api) == version
    fake.held = False
    stream.join()
    assert {event["model"] for event in answers[0][:-1]} == {"burnish@v0000-base"}
    turn = api.get(f"/v1/turns/{answers[0][0]['id']}").json()
    assert turn["model"] == "v0000-base"


def test_live_and_previous_stay_loaded_and_older_ones_go_once_nobody_uses_them(
    api: httpx.Client, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine
) -> None:
    one = go_live(api, publisher, two_adapters[0])
    fake.held = True
    answers: list[list[Any]] = []
    stream = threading.Thread(target=lambda: answers.append(streamed(api, ask("slow"))))
    stream.start()
    wait_until(lambda: fake.running == 1, within_s=5, what="the stream runs on the first")
    two = go_live(api, publisher, two_adapters[1])
    three = go_live(api, publisher, two_adapters[0])
    pinned = ask(model=f"burnish@{one}", max_tokens=1)
    wait_until(lambda: api.post(CHAT, json=pinned).status_code == 404, within_s=10, what="nobody new gets the first")
    late = error_of(api.post(CHAT, json=pinned), 404)
    assert "being unloaded" in late["message"], "or those who pin it would keep it loaded for ever"
    time.sleep(1.5)  # longer than the loop waits between two looks
    assert {one, two, three} <= fake.adapters.keys(), "the first is still in use"
    assert f"burnish@{one}" not in [m["id"] for m in api.get("/v1/models").json()["data"]]
    fake.held = False
    stream.join()
    assert text_of(answers[0])
    assert {event["model"] for event in answers[0][:-1]} == {f"burnish@{one}"}
    wait_until(lambda: fake.adapters.keys() == {two, three}, within_s=5, what="the first is unloaded")
    error = error_of(api.post(CHAT, json=ask(model=f"burnish@{one}")), 404)
    assert "not loaded" in error["message"]
    assert f"burnish@{one}" not in [m["id"] for m in api.get("/v1/models").json()["data"]]


def test_a_damaged_adapter_is_refused_before_the_engine_sees_it(
    api: httpx.Client, gateway: Gateway, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine
) -> None:
    version = publisher.publish(two_adapters[0], PolicyState.draft)
    wait_loaded(api, version)
    weights = gateway.home / "adapters" / version / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 0xFF
    weights.write_bytes(content)
    fake.restart()
    wait_loaded(api, version, "refused")
    assert "digest" in load_of(api, version)["error"]
    assert version not in fake.adapters
    assert live_now(api) == "v0000-base"


@pytest.mark.parametrize(
    ("side", "shift", "words"),
    [("adapter", 1.0, "not the adapter that the manifest was written for"), ("base", 1.0, "another base")],
)
def test_an_adapter_that_answers_otherwise_than_trained_is_refused(
    side: str, shift: float, words: str, api: httpx.Client, publisher: Publisher,
    two_adapters: tuple[Path, Path], fake: FakeEngine,
) -> None:  # fmt: skip
    def off(version: Version, directory: Path) -> Sequence[dict[str, Any]]:
        (probe,) = fake_probes(version, directory)
        return [{**probe, side: [x + shift for x in probe[side]]}]

    version = replace(publisher, probing=off).publish(two_adapters[0])
    wait_loaded(api, version, "refused")
    assert words in load_of(api, version)["error"]
    assert version not in fake.adapters
    error = error_of(promote(api, version), 409)
    assert error["code"] == "adapter_refused"
    assert live_now(api) == "v0000-base"


def test_an_adapter_the_engine_refuses_is_refused(
    api: httpx.Client, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine
) -> None:
    fake.behave(refuse_load=True)
    version = publisher.publish(two_adapters[0])
    wait_loaded(api, version, "refused")
    assert "would not have it" in load_of(api, version)["error"]


def test_an_adapter_the_engine_will_not_score_is_refused_and_holds_up_no_other(
    api: httpx.Client, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine
) -> None:
    def too_long(version: Version, directory: Path) -> Sequence[dict[str, Any]]:
        numbers = [-1.0] * (MAX_MODEL_LEN - 1)
        return [{"token_ids": [1] * MAX_MODEL_LEN, "start": 1, "base": numbers, "adapter": numbers}]

    odd = replace(publisher, probing=too_long).publish(two_adapters[0], PolicyState.draft)
    behind = publisher.publish(two_adapters[1])
    wait_loaded(api, odd, "refused")
    assert "would not score" in load_of(api, odd)["error"]
    wait_loaded(api, behind)
    assert fake.adapters.keys() == {behind}


def test_a_refused_adapter_does_not_stay_in_the_engine(
    api: httpx.Client, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine
) -> None:
    fake.behave(refuse_unload=True)
    version = replace(publisher, probing=other_probes).publish(two_adapters[0])
    wait_loaded(api, version, "refused")
    wait_until(lambda: fake.unloads.count(version) > 1, within_s=5, what="the engine is asked again")
    assert error_of(promote(api, version), 409)["code"] == "adapter_refused"
    fake.behave(refuse_unload=False)
    wait_until(lambda: version not in fake.adapters, within_s=5, what="it is unloaded")
    assert load_of(api, version)["state"] == "refused"


def test_an_engine_that_is_away_is_503_and_comes_back_with_the_live_version(
    api: httpx.Client, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine
) -> None:
    version = go_live(api, publisher, two_adapters[0])
    fake.behave(away=True)
    answer = api.post(CHAT, json=ask())
    assert error_of(answer, 503)["code"] == "engine_unavailable"
    assert answer.headers["retry-after"]
    wait_until(lambda: api.get("/readyz").status_code == 503, within_s=3, what="/readyz tells")
    assert error_of(api.post(CHAT, json=ask(stream=True)), 503)["code"] == "engine_unavailable"
    assert promote(api, version).status_code in (409, 503)
    assert api.post("/v1/feedback", json={"kind": "rating", "turn_id": "x", "value": "up"}).status_code == 404
    fake.restart()
    fake.behave(away=False)
    wait_until(lambda: api.get("/readyz").status_code == 200, within_s=5, what="ready again")
    assert version in fake.adapters
    assert live_now(api) == version


def test_a_restart_between_two_looks_is_503_and_never_another_version(
    api: httpx.Client, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine
) -> None:
    version = go_live(api, publisher, two_adapters[0])
    seen: Counter[str] = Counter()
    for _ in range(20):
        fake.restart()
        answer = api.post(CHAT, json=ask())
        if answer.status_code == 200:
            seen[answer.json()["model"]] += 1
        else:
            assert error_of(answer, 503)["code"] == "engine_unavailable"
            seen["503"] += 1
    assert seen.keys() <= {"503", f"burnish@{version}"}
    assert seen["503"]
    wait_until(lambda: api.get("/readyz").status_code == 200, within_s=5, what="ready again")
    assert live_now(api) == version


def test_a_gateway_that_restarts_finds_its_adapters_in_the_engine_and_verifies_them(
    api: httpx.Client, gateway: Gateway, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine,
    model_dir: Path,
) -> None:  # fmt: skip
    version = go_live(api, publisher, two_adapters[0])
    with (
        start_gateway(gateway.home, gateway.redis_url, fake.url, model=model_dir) as second,
        httpx.Client(base_url=second.url, headers=second.headers(), timeout=30) as client,
    ):
        assert live_now(client) == version


def test_promoting_while_the_registry_moves_on_promotes_once(
    api: httpx.Client, publisher: Publisher, two_adapters: tuple[Path, Path]
) -> None:
    version = publisher.publish(two_adapters[0])
    wait_loaded(api, version)
    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(answer.status_code for answer in pool.map(lambda _: promote(api, version), range(4)))
    assert statuses == [200, 409, 409, 409]
    assert live_now(api) == version


def test_the_manifest_of_another_version_is_refused(
    api: httpx.Client, gateway: Gateway, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine
) -> None:
    version = publisher.publish(two_adapters[0], PolicyState.draft)
    wait_loaded(api, version)
    manifest = gateway.home / "adapters" / version / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "base_digest": "0" * 64}))
    fake.restart()
    wait_loaded(api, version, "refused")
    assert "trained on base" in load_of(api, version)["error"]


def test_a_draft_that_arrives_while_a_candidate_is_verified_does_not_stop_its_promotion(
    api: httpx.Client, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine
) -> None:
    version = publisher.publish(two_adapters[0])
    wait_loaded(api, version)
    fake.behave(delay_s=4)
    answers: list[httpx.Response] = []
    promoting = threading.Thread(target=lambda: answers.append(promote(api, version)))
    promoting.start()
    time.sleep(0.5)
    publisher.publish(two_adapters[1], PolicyState.draft)
    assert promoting.is_alive()
    promoting.join()
    assert answers[0].status_code == 200, answers[0].text
    assert answers[0].json()["live"] == version
