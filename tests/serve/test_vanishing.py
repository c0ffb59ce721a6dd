"""Callers who vanish while they are answered: the engine is free again within a second of each, on a real vLLM."""

import json
import re
import socket
import struct
import time
from collections.abc import Callable, Sequence

import httpx

from tests.serve.conftest import ask
from tests.serve.raw_http import address
from tests.services import Engine, Gateway, wait_until

CLIENTS = 200
BATCH = 20
WITHIN_S = 1.0
_COUNT = re.compile(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)$", re.MULTILINE)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def half_close(connection: socket.socket) -> None:
    """Says that nothing more will be sent, and goes on holding the connection."""
    connection.shutdown(socket.SHUT_WR)


LEAVINGS: Sequence[Callable[[socket.socket], None]] = (reset, half_close, socket.socket.close)


def busy(engine: httpx.Client) -> int:
    """Requests that the engine runs or has waiting."""
    counts = _COUNT.findall(engine.get("/metrics").text)
    assert len(counts) >= 2, "vLLM names its counts otherwise"
    return round(sum(map(float, counts)))


def asking(gateway: Gateway, number: int, *, stream: bool) -> socket.socket:
    """A client that has asked for an answer of more than a minute."""
    question = ask(f"Count from {number} on.", stream=stream, max_tokens=1800, ignore_eos=True, store=False)
    body = json.dumps(question).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key()}\r\n"
    connection = socket.create_connection(address(gateway), timeout=60)
    connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def read_some_words(connection: socket.socket) -> None:
    received = b""
    while received.count(b"data: ") < 3:
        chunk = connection.recv(65536)
        assert chunk, received
        received += chunk


def test_200_clients_that_vanish_in_mid_answer_leave_the_engine_free(real_gateway: Gateway, engine: Engine) -> None:
    with httpx.Client(base_url=engine.url, timeout=30) as metrics:
        wait_until(lambda: busy(metrics) == 0, within_s=30, what="the engine is free")
        for first in range(0, CLIENTS, BATCH):
            clients = [asking(real_gateway, first + i, stream=i % 2 == 0) for i in range(BATCH)]
            for client in clients[::2]:
                read_some_words(client)
            wait_until(lambda: busy(metrics) == BATCH, within_s=60, what="the engine answers them all")
            for i, client in enumerate(clients):
                LEAVINGS[(first // BATCH + i // 2) % len(LEAVINGS)](client)
            left_at = time.monotonic()
            wait_until(
                lambda: busy(metrics) == 0,
                within_s=WITHIN_S,
                what=lambda: f"the engine is free; {busy(metrics)} of {BATCH} are still answered",
                every_s=0.02,
            )
            assert time.monotonic() - left_at < WITHIN_S + 0.5
            for client in clients:
                client.close()
