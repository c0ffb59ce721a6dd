"""The closed doors: of all that Gradio serves only what the page needs answers, and with safe headers."""

import asyncio
from typing import Any

import pytest
from starlette.responses import HTMLResponse

from ui.front import Front
from ui.visitor import COOKIE, Visitors

VISITORS = Visitors(b"0" * 64)


def ask(path: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> tuple[int, list[tuple[str, str]]]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw, "query_string": b""}
    asyncio.run(Front(HTMLResponse("ok"), VISITORS)(scope, receive, send))
    return sent[0]["status"], [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]


@pytest.mark.parametrize(
    "path", ["/", "/status/", "/gradio_api/queue/join", "/status/gradio_api/queue/data", "/assets/index.js", "/healthz"]
)
def test_what_the_page_needs_is_open(path: str) -> None:
    assert ask(path)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/proxy=https://example.com",
        "/gradio_api/call/_on_send",
        "/gradio_api/run/predict",
        "/gradio_api/component_server",
        "/status/gradio_api/api/x",
        "/monitoring",
        "/login",
        "/gradio_api/queue/join/../upload",
    ],
)
def test_everything_else_is_closed(path: str) -> None:
    assert ask(path)[0] == 404


def test_a_page_carries_a_policy_and_a_new_visitor_gets_a_cookie_once() -> None:
    headers = ask("/")[1]
    assert "default-src 'self'" in dict(headers)["content-security-policy"]
    cookie = dict(headers)["set-cookie"].split(";")[0]
    assert COOKIE in cookie
    assert "set-cookie" not in dict(ask("/", headers={"cookie": cookie})[1])
    assert "set-cookie" in dict(ask("/", headers={"cookie": cookie + "x"})[1])


def test_a_large_body_is_refused() -> None:
    assert ask("/gradio_api/queue/join", method="POST", headers={"content-length": "99999999"})[0] == 413
