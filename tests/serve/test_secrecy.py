"""What callers send and who they are stays out of the log and out of /metrics, whatever goes wrong."""

from pathlib import Path
from typing import Any

import httpx

from feedback.access_keys import KeyStore, Scope
from feedback.connection import connect
from feedback.ids import TenantId
from feedback.quota import KeyLimits
from tests.fake_engine import FakeEngine
from tests.serve.access.test_doors import knows
from tests.serve.conftest import ask
from tests.serve.raw_http import exchange, request_bytes
from tests.serve.test_redis_gone import MortalRedis, redis
from tests.serve.test_streams import CHAT
from tests.services import start_gateway, wait_until

__all__ = ["redis"]

TENANT, NAME, USER, SESSION, PROMPT, COMMENT, WRONG = (
    f"{word}-4f1d9c" for word in ("tenant", "name", "user", "session", "prompt", "comment", "bk-wrong")
)


def good_and_bad(client: httpx.Client) -> list[int]:
    """The statuses of requests that end in every way a request can."""
    about: dict[str, Any] = {"user": USER, "metadata": {"session": SESSION}}
    bodies: list[Any] = [
        ask(PROMPT, **about),
        ask(PROMPT, stream=True, **about),
        ask(PROMPT, max_tokens=10**6, **about),
        ask(PROMPT, temperature=PROMPT, **about),
        ask(PROMPT, model=PROMPT),
        ask(PROMPT, **{PROMPT: 1}),
        ask(PROMPT, metadata={"compare_with": PROMPT}),
        {"model": "burnish", "messages": PROMPT},
        [PROMPT],
    ]
    answers = [client.post(CHAT, json=body) for body in bodies]
    answers.append(client.post(CHAT, content=f'{{"model": "{PROMPT}'))
    answers.append(client.post("/v1/completions", json={"model": "burnish", "prompt": PROMPT, **about}))
    turn = answers[0].json().get("id", "none")
    vote = {"kind": "rating", "turn_id": turn, "value": "up", "comment": COMMENT}
    answers += [
        client.post("/v1/feedback", json=vote | change) for change in ({}, {"value": COMMENT}, {"turn_id": USER})
    ]
    answers += [
        client.get(path) for path in (f"/v1/turns?user={USER}&limit={PROMPT}", f"/v1/turns/{PROMPT}", f"/{PROMPT}")
    ]
    answers.append(client.get("/v1/models", headers={"Authorization": f"Bearer {WRONG}"}))
    answers.append(client.get(f"/operator/policies/{PROMPT}"))
    return [answer.status_code for answer in answers]


def test_nothing_of_a_callers_is_in_the_log_or_the_metrics(
    tmp_path: Path, redis: MortalRedis, fake: FakeEngine, model_dir: Path
) -> None:
    log = tmp_path / "home" / "logs" / "gateway.log"
    with start_gateway(tmp_path / "home", redis.url, fake.url, model=model_dir) as gateway:
        scopes = frozenset({Scope.chat, Scope.feedback})
        store = KeyStore(connect(redis.url))
        free = store.make(NAME, scopes, TenantId(TENANT))
        tight = store.make(NAME, scopes, TenantId(TENANT), KeyLimits(3, 500))
        secrets = {"the key": free[1], "the limited key": tight[1], "the operator's key": gateway.key()}
        seen: set[int] = set()
        for key, secret in (free, tight):
            with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {secret}"}) as client:
                wait_until(lambda c=client, s=secret: knows(c, s), within_s=2, what="the key is known")
                seen.update(good_and_bad(client))
                fake.behave(status=500)
                seen.update(good_and_bad(client))
                fake.behave(status=200, cut_after=4)
                seen.update(good_and_bad(client))
                fake.behave(cut_after=None)
                redis.kill()
                seen.update(good_and_bad(client))
                redis.start()
                wait_until(lambda c=client: c.get("/readyz").status_code == 200, within_s=15, what="ready again")
                secrets[f"the digest of {key.id}"] = key.secret_digest
        exchange(gateway, b"\x00 " + PROMPT.encode() + b"\r\n\r\n")
        exchange(gateway, request_bytes("GET", f"/{PROMPT}", [(f"X-{USER}", PROMPT)] * 200))
        page = httpx.get(f"{gateway.url}/metrics").text
    assert {200, 201, 400, 401, 403, 404, 429, 502, 503} <= seen, "every kind of end was seen"
    written = log.read_text()
    assert len(written) > 500, "there is a log"
    assert "burnish_requests_total" in page
    words = {"tenant": TENANT, "name": NAME, "user": USER, "session": SESSION, "prompt": PROMPT, "comment": COMMENT}
    for what, text in {**words, "wrong key": WRONG, **secrets}.items():
        assert text not in written, f"{what} is in the log"
        assert text not in page, f"{what} is in the metrics"
