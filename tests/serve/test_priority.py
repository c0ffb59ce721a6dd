"""What waits behind users' chat: who may say so, what the engine is told, and that it keeps to it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from serve.launch import is_cpu_build
from tests.fake_engine import FakeEngine
from tests.serve.conftest import ask
from tests.serve.test_bad_input import error_of
from tests.serve.test_streams import CHAT
from tests.services import Gateway, wait_until


def post(gateway: Gateway, key: str, body: dict[str, Any], path: str = CHAT) -> httpx.Response:
    return httpx.post(gateway.url + path, json=body, headers=gateway.headers(key), timeout=120)


@pytest.mark.parametrize("key", ["operator", "worker"])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_the_engine_is_told_an_operators_priority(
    path: str, key: str, shared_gateway: Gateway, shared_fake: FakeEngine
) -> None:
    body = ask(priority=7) if path == CHAT else {"model": "burnish", "prompt": "Once", "priority": 7}
    assert post(shared_gateway, key, body, path).status_code == 200
    assert shared_fake.bodies[-1]["priority"] == 7


def test_the_engine_is_told_none_where_none_was_given(shared_gateway: Gateway, shared_fake: FakeEngine) -> None:
    for key in ("worker", "page"):
        assert post(shared_gateway, key, ask()).status_code == 200
        assert "priority" not in shared_fake.bodies[-1]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_chat_key_can_neither_wait_nor_push(
    path: str, stream: bool, shared_gateway: Gateway, shared_fake: FakeEngine
) -> None:
    body = ask() if path == CHAT else {"model": "burnish", "prompt": "Once"}
    asked = len(shared_fake.bodies)
    error = error_of(post(shared_gateway, "page", {**body, "stream": stream, "priority": 1}, path), 403)
    assert (error["param"], error["code"], error["type"]) == ("priority", "missing_scope", "permission_error")
    error = error_of(post(shared_gateway, "page", {**body, "stream": stream, "priority": -1}, path), 400)
    assert error["param"] == "priority"
    assert len(shared_fake.bodies) == asked, "the engine was asked"
    assert post(shared_gateway, "page", {**body, "priority": 0}, path).status_code == 200


@pytest.mark.skipif(not is_cpu_build(), reason="a GPU reads all these prompts at once: none of them would wait")
def test_a_user_is_answered_before_the_workers_requests_that_wait(real_gateway: Gateway) -> None:
    """Each of the worker's prompts takes the engine three steps, and all but the first are still to be read."""
    answered: list[str] = []

    def answer(who: str, body: dict[str, Any]) -> None:
        response = post(real_gateway, who, {**body, "max_tokens": 1})
        assert response.status_code == 200, response.text
        answered.append(who)

    with ThreadPoolExecutor(9) as pool:
        asked = [pool.submit(answer, "worker", ask(f"{n}. " + "word " * 1100, priority=1)) for n in range(8)]
        wait_until(lambda: answered or any(each.done() for each in asked), within_s=120, what="one is answered")
        asked.append(pool.submit(answer, "page", ask("Name one fruit.")))
        for each in asked:
            each.result()
    # In the order of their coming, the user's would be answered last, or in one step with the worker's last.
    assert answered[answered.index("page") + 1 :].count("worker") >= 2, " ".join(answered)
