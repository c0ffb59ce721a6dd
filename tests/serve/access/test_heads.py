"""Requests whose head is not as it should be: told so in OpenAI's shape, never a failure of ours, never a hang."""

import json
import socket
import time
from contextlib import suppress

import pytest

from serve.access.body_limit import BodyLimit
from serve.access.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS
from tests.serve.conftest import ask
from tests.serve.raw_http import Headers, address, exchange, request_bytes
from tests.services import Gateway

CHAT = "/v1/chat/completions"
BODY = json.dumps(ask()).encode()
MIB = 1024 * 1024


def told(gateway: Gateway, headers: Headers, body: bytes = BODY) -> int:
    """The status of a chat request with these headers; checks the shape of a refusal."""
    key = [("Host", "localhost"), ("Authorization", f"Bearer {gateway.key()}")]
    answer = exchange(gateway, request_bytes("POST", CHAT, [*key, *headers], body))
    if answer.status != 200:
        assert answer.error.keys() == {"message", "type", "param", "code"}
    return answer.status


def test_a_length_that_is_none_is_refused(shared_gateway: Gateway) -> None:
    right = str(len(BODY))
    assert told(shared_gateway, [("Content-Length", right)]) == 200
    wrong: list[Headers] = [
        [("Content-Length", "many")],
        [("Content-Length", "-1")],
        [("Content-Length", f"-{right}")],
        [("Content-Length", f"+{right}")],
        [("Content-Length", f"0x{right}")],
        [("Content-Length", f"{right}.0")],
        [("Content-Length", f"{right[:1]}_{right[1:]}")],
        [("Content-Length", "9" * 40)],
        [("Content-Length", "")],
        [("Content-Length", f"{right}, {right}")],
        [("Content-Length", right), ("Content-Length", right)],
        [("Content-Length", right), ("Content-Length", "5")],
        [("Content-Length", right), ("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "chunked"), ("Content-Length", "5")],
    ]
    for headers in wrong:
        assert told(shared_gateway, headers) == 400, headers


def test_a_body_without_a_length_is_counted(shared_gateway: Gateway) -> None:
    chunked = [("Transfer-Encoding", "chunked")]
    whole = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    assert told(shared_gateway, chunked, whole) == 200
    long = b"%x\r\n%s\r\n0\r\n\r\n" % (3 * MIB, b" " * 3 * MIB)
    assert told(shared_gateway, chunked, long) == 413
    assert told(shared_gateway, chunked, b"zz\r\nnonsense\r\n0\r\n\r\n") == 400
    assert told(shared_gateway, [("Content-Length", str(3 * MIB))]) == 413
    assert told(shared_gateway, [("Content-Length", str(10**15))]) == 413


def test_more_headers_than_anybody_sends_are_refused(shared_gateway: Gateway) -> None:
    some = [(f"X-{i}", "1") for i in range(50)]
    length = ("Content-Length", str(len(BODY)))
    assert told(shared_gateway, [length, *some]) == 200
    for headers in (
        [(f"X-{i}", "1") for i in range(MAX_HEADERS + 1)],
        [("X", "1")] * 20_000,
        [("X", "1" * MAX_HEAD_BYTES * 5)],
        [("1" * MAX_HEAD_BYTES * 5, "1")],
    ):
        assert told(shared_gateway, [*headers, length]) in (400, 431)
    assert exchange(shared_gateway, request_bytes("GET", "/" + "a" * MAX_HEAD_BYTES * 5)).status in (400, 431)


@pytest.mark.parametrize("endless", [b"X-Header: 1\r\n", b"1", b"X", b" ", b"\r\n"])
def test_a_head_that_never_ends_is_ended(endless: bytes, shared_gateway: Gateway) -> None:
    """Sent for as long as it is taken: the gateway must close before it has swallowed a few MiB."""
    start = b"GET /healthz HTTP/1.1\r\n" + (b"X: " if endless == b"1" else b"")
    with socket.create_connection(address(shared_gateway), timeout=10) as connection:
        taken = connection.send(start if endless != b"\r\n" else endless)
        started = time.monotonic()
        with suppress(ConnectionError):
            while taken < 16 * MIB and time.monotonic() - started < 20:
                taken += connection.send(endless * 4096)
            pytest.fail(f"{taken} bytes were taken")


async def test_the_body_limit_trusts_no_server_before_it() -> None:
    """Other servers than ours may hand on what ours refuses."""

    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("let in")

    for values in ((b"many",), (b"-1",), (b"+5",), (b"5_0",), ("٥".encode(),), (b"",), (b"5", b"6"), (b"5", b"5")):
        sent: list[dict[str, object]] = []

        async def send(message: dict[str, object], sent: list[dict[str, object]] = sent) -> None:
            sent.append(message)

        async def receive() -> dict[str, object]:
            raise AssertionError("read")

        headers = [(b"content-length", value) for value in values]
        limit = BodyLimit(app, max_bytes=100)  # type: ignore[arg-type]
        await limit({"type": "http", "headers": headers}, receive, send)  # type: ignore[arg-type]
        assert sent[0]["status"] == 400, values
