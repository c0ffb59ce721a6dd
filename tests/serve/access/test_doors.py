"""Who is let in: every route, with every kind of key, in the usual disguises."""

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI

from feedback.access_keys import KeyStore, Scope
from feedback.connection import connect
from feedback.ids import KeyId, TenantId
from serve.access.doors import PUBLIC, KeyRing, hang_doors, need_of
from serve.app import build_app
from serve.parts import build_parts
from serve.settings import ModelSection, Settings
from tests.fake_engine import FakeEngine
from tests.serve.conftest import ask
from tests.services import Gateway, wait_until

# What each route asks for, written down a second time so that a change of the code alone is noticed.
NEEDS = {
    ("POST", "/v1/chat/completions"): Scope.chat,
    ("POST", "/v1/completions"): Scope.chat,
    ("GET", "/v1/models"): Scope.chat,
    ("GET", "/v1/models/{model}"): Scope.chat,
    ("POST", "/v1/feedback"): Scope.feedback,
    ("GET", "/v1/feedback"): Scope.feedback,
    ("GET", "/v1/turns"): Scope.feedback,
    ("GET", "/v1/turns/{turn_id}"): Scope.feedback,
    ("GET", "/v1/progress"): Scope.feedback,
    ("GET", "/operator/policies"): Scope.operator,
    ("POST", "/operator/policies"): Scope.operator,
    ("GET", "/operator/policies/{version}"): Scope.operator,
    ("POST", "/operator/policies/{version}/promote"): Scope.operator,
    ("POST", "/operator/policies/{version}/withdraw"): Scope.operator,
    ("POST", "/operator/policies/{version}/canary"): Scope.operator,
    ("POST", "/operator/policies/{version}/retire"): Scope.operator,
    ("GET", "/operator/canary"): Scope.operator,
    ("POST", "/operator/rollback"): Scope.operator,
    ("GET", "/operator/audit"): Scope.operator,
    ("GET", "/operator/jobs"): Scope.operator,
    ("POST", "/operator/jobs"): Scope.operator,
    ("GET", "/operator/jobs/{job_id}"): Scope.operator,
    ("POST", "/operator/jobs/{job_id}/cancel"): Scope.operator,
    ("GET", "/operator/schedule"): Scope.operator,
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/metrics"): PUBLIC,
    ("GET", "/openapi.json"): PUBLIC,
    ("HEAD", "/openapi.json"): PUBLIC,
}
GUARDED = [(method, path, need) for (method, path), need in NEEDS.items() if need != PUBLIC]


@pytest.fixture
def store(shared_gateway: Gateway) -> KeyStore:
    return KeyStore(connect(shared_gateway.redis_url))


@pytest.fixture
def bare(shared_gateway: Gateway) -> Iterator[httpx.Client]:
    """A client without any key."""
    with httpx.Client(base_url=shared_gateway.url, timeout=30) as client:
        yield client


def test_the_app_has_exactly_these_routes_with_these_needs(model_dir: Path, tmp_path: Path) -> None:
    app = build_app(build_parts(Settings(home=tmp_path, model=ModelSection(path=model_dir))))
    found = {(method, route.path): need_of(route) for route in app.routes for method in route.methods}  # type: ignore[attr-defined]
    assert found == NEEDS


def test_an_app_with_a_route_that_declares_nothing_is_not_built() -> None:
    app = FastAPI(openapi_url=None)

    @app.get("/forgotten")
    def forgotten() -> str:
        return "open to all"

    with pytest.raises(RuntimeError, match="declares no scope"):
        hang_doors(app.routes, KeyRing())


@pytest.mark.parametrize(("method", "path", "need"), GUARDED)
def test_no_key_a_wrong_key_and_another_scopes_key_stay_outside(
    method: str, path: str, need: Scope, bare: httpx.Client, store: KeyStore
) -> None:
    _, others = store.make("others", frozenset(set(Scope) - {need}), TenantId("home"))
    wait_until(lambda: knows(bare, others), within_s=2, what="the new key is known")
    for authorization in (None, "", "Bearer", "Bearer bk-wrong", "Basic Zm9v", f"bearer  {others}x"):
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = bare.request(method, path, headers=headers)
        assert answer.status_code == 401, (authorization, answer.text)
        assert answer.json()["error"]["code"] == "invalid_api_key"
    answer = bare.request(method, path, headers={"Authorization": f"Bearer {others}"})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "missing_scope"


def test_disguised_paths_never_lead_in(shared_gateway: Gateway) -> None:
    at = urlsplit(shared_gateway.url)
    disguises = (
        "/operator/policies/",
        "//operator/policies",
        "/operator//policies",
        "/./operator/policies",
        "/healthz/../operator/policies",
        "/healthz/%2e%2e/operator/policies",
        "/operator%2fpolicies",
        "/OPERATOR/policies",
        "/operator/policies;a=b",
        "/operator/policies%00",
        "/operator/policies?key=1",
        "http://healthz/operator/policies",
    )
    for path in disguises:
        for host in (at.netloc, "healthz", f"{at.netloc}/healthz?", "localhost"):
            connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=10)
            connection.putrequest("GET", path, skip_host=True)
            connection.putheader("Host", host)
            connection.putheader("X-Forwarded-Prefix", "/healthz")
            connection.endheaders()
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            assert answer.status in (400, 401, 404, 405), (path, host, answer.status)
            assert b"v0000-base" not in content


def test_a_revoked_key_is_out_within_a_second(bare: httpx.Client, store: KeyStore) -> None:
    key, secret = store.make("short-lived", frozenset({Scope.chat}), TenantId("home"))
    wait_until(lambda: knows(bare, secret), within_s=1, what="the new key is let in")
    store.revoke(KeyId(key.id))
    wait_until(lambda: not knows(bare, secret), within_s=1, what="the revoked key is refused")


def test_the_key_files_are_private_and_hold_their_scopes(shared_gateway: Gateway, store: KeyStore) -> None:
    scopes = {key.name: key.scopes for key in store.all()}
    assert scopes["page"] == {Scope.chat, Scope.feedback}
    assert scopes["worker"] == {Scope.chat, Scope.operator}
    assert scopes["operator"] == set(Scope)
    for name in ("operator", "page", "worker"):
        assert (shared_gateway.home / f"{name}.key").stat().st_mode & 0o777 == 0o600


def test_secrets_are_nowhere_in_redis_or_the_log(shared_gateway: Gateway) -> None:
    secret = shared_gateway.key("page")
    assert secret not in str(connect(shared_gateway.redis_url).hgetall("burnish:keys"))
    assert secret not in (shared_gateway.home / "logs" / "gateway.log").read_text()


def test_other_tenants_see_nothing_of_ones_turns(shared_api: httpx.Client, bare: httpx.Client, store: KeyStore) -> None:
    _, stranger = store.make("stranger", frozenset({Scope.chat, Scope.feedback}), TenantId("elsewhere"))
    wait_until(lambda: knows(bare, stranger), within_s=2, what="the new key is known")
    turn_id = shared_api.post("/v1/chat/completions", json=ask(metadata={"session": "s1"})).json()["id"]
    bare.headers["Authorization"] = f"Bearer {stranger}"
    vote = {"kind": "rating", "turn_id": turn_id, "value": "up"}
    assert bare.get(f"/v1/turns/{turn_id}").status_code == 404
    assert bare.get(f"/v1/feedback?turn_id={turn_id}").status_code == 404
    assert bare.get("/v1/turns?session=s1").json()["data"] == []
    assert bare.post("/v1/feedback", json=vote).status_code == 404
    again = ask(metadata={"compare_with": turn_id})
    assert bare.post("/v1/chat/completions", json=again).status_code == 404
    event = shared_api.post("/v1/feedback", json=vote).json()
    assert bare.post("/v1/feedback", json={"kind": "retract", "event_id": event["id"]}).status_code == 404


def test_the_engine_keeps_what_tenants_have_asked_apart(
    shared_api: httpx.Client, bare: httpx.Client, store: KeyStore, shared_fake: FakeEngine
) -> None:
    _, stranger = store.make("stranger", frozenset({Scope.chat}), TenantId("elsewhere"))
    wait_until(lambda: knows(bare, stranger), within_s=2, what="the new key is known")
    bare.headers["Authorization"] = f"Bearer {stranger}"
    for client in (shared_api, shared_api, bare):
        assert client.post("/v1/chat/completions", json=ask()).status_code == 200
    mine, again, others = (body["cache_salt"] for body in shared_fake.bodies[-3:])
    assert mine == again != others
    assert others


def knows(client: httpx.Client, secret: str) -> bool:
    answer = client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})
    return answer.status_code != 401
