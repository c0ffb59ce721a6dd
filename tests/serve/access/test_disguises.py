"""Every route of the app, with every kind of wrong key, in the usual disguises, as bytes on a socket: never let in.

The routes are the built app's own, so that one which is added tomorrow is tried too.
"""

from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from feedback.access_keys import KeyStore, Scope
from feedback.connection import connect
from feedback.ids import TenantId
from serve.access.doors import PUBLIC, need_of
from serve.app import build_app
from serve.parts import build_parts
from serve.settings import ModelSection, Settings
from tests.fake_engine import FakeEngine
from tests.serve.access.test_doors import knows
from tests.serve.raw_http import Headers, RawAnswer, exchange, request_bytes
from tests.services import Gateway, start_gateway, wait_until

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get")
HOME = TenantId("home")
REFUSED = {400, 401, 403, 404, 405}


@dataclass(frozen=True)
class Way:
    """One route and the scope it asks for; parameters of its path are filled in."""

    method: str
    path: str
    need: Scope


@dataclass(frozen=True)
class Keys:
    """Secrets of one scope each, and of all scopes but that one."""

    right: dict[Scope, str]
    others: dict[Scope, str]
    revoked: str


@pytest.fixture(scope="module")
def ways(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Way]:
    """Every route that is not for all."""
    app = build_app(build_parts(Settings(home=tmp_path_factory.mktemp("app"), model=ModelSection(path=model_dir))))
    found = [(method, route, need_of(route)) for route in app.routes for method in route.methods]  # type: ignore[attr-defined]
    return [
        Way(method, route.path.replace("{", "").replace("}", ""), Scope(str(need)))  # type: ignore[attr-defined]
        for method, route, need in found
        if need != PUBLIC
    ]


@pytest.fixture(scope="module")
def keys(shared_gateway: Gateway) -> Keys:
    store = KeyStore(connect(shared_gateway.redis_url))
    right = {scope: store.make("right", frozenset({scope}), HOME)[1] for scope in Scope}
    others = {scope: store.make("others", frozenset(set(Scope) - {scope}), HOME)[1] for scope in Scope}
    gone, revoked = store.make("revoked", frozenset(Scope), HOME)
    with httpx.Client(base_url=shared_gateway.url) as client:
        wait_until(lambda: knows(client, revoked), within_s=2, what="the key to be revoked is known")
        store.revoke(gone.id)
        wait_until(lambda: not knows(client, revoked), within_s=2, what="the key is revoked")
        wait_until(lambda: all(knows(client, key) for key in others.values()), within_s=2, what="the others are known")
    return Keys(right, others, revoked)


def disguises(path: str) -> list[str]:
    """The ways of writing a path that some server, proxy or framework takes for the same."""
    first, rest = path[1:].split("/", 1)
    encoded = "".join(f"%{ord(letter):02x}" for letter in first)
    return [
        path,
        path.upper(),
        path.title(),
        f"/{path}",
        f"//{path}",
        f"/{first}//{rest}",
        f"/./{first}/{rest}",
        f"/{first}/./{rest}",
        f"/{first}/../{first}/{rest}",
        f"/healthz/..{path}",
        f"/healthz/%2e%2e{path}",
        f"/healthz/%2E%2E%2F{path[1:]}",
        f"/healthz/..;{path}",
        f"/%2e{path}",
        f"/{first}%2F{rest}",
        f"/{first}%2f{rest}",
        f"/{first}%252F{rest}",
        f"/{encoded}/{rest}",
        f"/{first}\\{rest}",
        f"{path}/",
        f"{path}//",
        f"{path}/.",
        f"{path};x",
        f"{path};x=/healthz",
        f"{path}%00",
        f"{path}%20",
        f"{path}%0a",
        f"{path}.json",
        f"{path}?x=/healthz",
        f"{path}?",
        f"{path}#/healthz",
        f"http://healthz{path}",
        f"HTTP://LOCALHOST{path}",
        f"http://user@healthz:80{path}",
        path[1:],
    ]


HOSTS: list[Headers] = [
    [("Host", "localhost")],
    [("Host", "healthz")],
    [("Host", "127.0.0.1/healthz?")],
    [("Host", "[::1")],
    [("Host", "a" * 300)],
    [("Host", "")],
    [],
    [("Host", "localhost"), ("Host", "healthz")],
]
TRICKS: list[Headers] = [
    [("X-Forwarded-For", "127.0.0.1"), ("X-Real-IP", "127.0.0.1"), ("Forwarded", "for=127.0.0.1")],
    [("X-Forwarded-Host", "localhost"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Prefix", "/healthz")],
    [("X-Original-URL", "/healthz"), ("X-Rewrite-URL", "/healthz"), ("X-Forwarded-Uri", "/healthz")],
    [("X-HTTP-Method-Override", "OPTIONS"), ("X-HTTP-Method", "OPTIONS"), ("X-Method-Override", "HEAD")],
    [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "AAAA"),
        ("Sec-WebSocket-Version", "13"),
    ],
    [("Upgrade", "h2c"), ("Connection", "Upgrade, HTTP2-Settings"), ("HTTP2-Settings", "AAAA")],
    [("Proxy-Authorization", "Bearer {right}"), ("X-Api-Key", "{right}"), ("Api-Key", "{right}")],
    [("Cookie", "authorization=Bearer {right}; key={right}")],
]


def wrong_keys(way: Way, keys: Keys) -> list[Headers]:
    """No key, and keys that do not open this door, in the forms that a header takes."""
    right, others = keys.right[way.need], keys.others[way.need]
    return [
        [],
        [("Authorization", "Bearer bk-wrong")],
        [("authorization", f"bearer {keys.revoked}")],
        [("AUTHORIZATION", f"BEARER  {others}")],
        [("Authorization", f"Bearer {right[:-1]}")],
        [("Authorization", f"Bearer {right.upper()}")],
        [("Authorization", f"Basic {right}")],
        [("Authorization", right)],
        [("Authorization", f"Bearer {others} {right}")],
        [("Authorization", f"Bearer {others}, Bearer {right}")],
        [("Authorization", f"Bearer {others}"), ("Authorization", f"Bearer {right}")],
        [("Authorization", f"Bearer {right}"), ("Authorization", f"Bearer {others}")],
    ]


def assert_refused(answer: RawAnswer, *what: object) -> None:
    assert answer.status in REFUSED, (what, answer)
    assert b"v0000-base" not in answer.body, (what, answer)


def test_the_right_key_opens_every_door(ways: list[Way], keys: Keys, shared_gateway: Gateway) -> None:
    """Without this the tests below would be content with a gateway that is shut."""
    assert len(ways) >= 20
    for way in ways:
        headers = [("Host", "localhost"), ("Authorization", f"Bearer {keys.right[way.need]}")]
        answer = exchange(shared_gateway, request_bytes(way.method, way.path, headers))
        assert answer.status in {200, 400, 404, 409}, (way, answer)
        assert b"no such path" not in answer.body, (way, answer)


def test_no_wrong_key_opens_a_door_by_any_method(ways: list[Way], keys: Keys, shared_gateway: Gateway) -> None:
    for way in ways:
        for wrong in wrong_keys(way, keys):
            for method in METHODS if len(wrong) < 2 else (way.method,):
                sent = request_bytes(method, way.path, [("Host", "localhost"), *wrong])
                assert_refused(exchange(shared_gateway, sent), way, method, wrong)
            exact = exchange(shared_gateway, request_bytes(way.method, way.path, [("Host", "localhost"), *wrong]))
            assert exact.status in {401, 403}, (way, wrong, exact)


def test_no_disguise_of_its_path_opens_a_door(ways: list[Way], keys: Keys, shared_gateway: Gateway) -> None:
    for way in ways:
        for target in disguises(way.path):
            for wrong in wrong_keys(way, keys)[:4]:
                sent = request_bytes(way.method, target, [("Host", "localhost"), *wrong])
                assert_refused(exchange(shared_gateway, sent), way, target, wrong)


def test_no_header_opens_a_door(ways: list[Way], keys: Keys, shared_gateway: Gateway) -> None:
    for way in ways:
        right = keys.right[way.need]
        for tricks in TRICKS:
            filled = [(name, value.format(right=right)) for name, value in tricks]
            for wrong in wrong_keys(way, keys)[:4]:
                sent = request_bytes(way.method, way.path, [("Host", "localhost"), *wrong, *filled])
                assert_refused(exchange(shared_gateway, sent), way, tricks, wrong)
        for host in HOSTS:
            for wrong in wrong_keys(way, keys)[:4]:
                assert_refused(
                    exchange(shared_gateway, request_bytes(way.method, way.path, [*host, *wrong])), way, host
                )
        for name in ("key", "api_key", "api-key", "access_token", "authorization"):
            for value in (right, f"Bearer%20{right}"):
                sent = request_bytes(way.method, f"{way.path}?{name}={value}", [("Host", "localhost")])
                assert_refused(exchange(shared_gateway, sent), way, name)


def test_no_header_leads_from_an_open_path_to_another(ways: list[Way], shared_gateway: Gateway) -> None:
    plain = exchange(shared_gateway, request_bytes("GET", "/healthz", [("Host", "localhost")]))
    assert plain.status == 200
    for way in ways:
        for name in (
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-Forwarded-Uri",
            "X-Forwarded-Prefix",
            "X-HTTP-Path-Override",
        ):
            override = [("X-HTTP-Method-Override", way.method), (name, way.path)]
            sent = request_bytes("GET", "/healthz", [("Host", "localhost"), *override])
            assert exchange(shared_gateway, sent).body == plain.body, (way, name)


def test_targets_that_are_no_paths_lead_nowhere(shared_gateway: Gateway) -> None:
    for method, target in (
        ("OPTIONS", "*"),
        ("GET", "*"),
        ("CONNECT", "localhost:80"),
        ("CONNECT", "/operator/policies"),
        ("GET", ""),
        ("GET", "?"),
        ("GET", "/%"),
        ("GET", "/%zz"),
        ("GET", "/%ff%fe"),
        ("GET", "http://"),
        ("GET", "http:///operator/policies"),
        ("GET", "//"),
        ("GET", "/" + "a/" * 5000),
        ("GET", "/\xe4\xf6"),
    ):
        assert_refused(exchange(shared_gateway, request_bytes(method, target, [("Host", "localhost")])), method, target)


def test_a_second_request_on_a_connection_is_asked_for_its_own_key(keys: Keys, shared_gateway: Gateway) -> None:
    let_in = ("Authorization", f"Bearer {keys.right[Scope.operator]}")
    first = b"GET /operator/policies HTTP/1.1\r\nHost: localhost\r\n%s: %s\r\n\r\n" % (
        let_in[0].encode(),
        let_in[1].encode(),
    )
    answer = exchange(shared_gateway, first + request_bytes("GET", "/operator/audit", [("Host", "localhost")]))
    assert answer.status == 200
    assert answer.body.count(b"HTTP/1.1 401") == 1


def test_a_key_in_a_trailer_opens_nothing(keys: Keys, shared_gateway: Gateway) -> None:
    head = request_bytes("POST", "/v1/feedback", [("Host", "localhost"), ("Transfer-Encoding", "chunked")])
    trailer = b"0\r\nAuthorization: Bearer %s\r\n\r\n" % keys.right[Scope.feedback].encode()
    assert exchange(shared_gateway, head + trailer).status == 401


def test_a_revoked_key_is_out_everywhere_within_a_second(
    gateway: Gateway, fake: FakeEngine, tmp_path: Path, model_dir: Path
) -> None:
    store = KeyStore(connect(gateway.redis_url))
    key, secret = store.make("short-lived", frozenset(Scope), HOME)
    with (
        start_gateway(tmp_path / "second", gateway.redis_url, fake.url, model=model_dir) as second,
        httpx.Client(base_url=gateway.url) as one,
        httpx.Client(base_url=second.url) as other,
    ):
        wait_until(lambda: knows(one, secret) and knows(other, secret), within_s=2, what="both know the key")
        store.revoke(key.id)
        wait_until(lambda: not knows(one, secret) and not knows(other, secret), within_s=1, what="both refuse it")
