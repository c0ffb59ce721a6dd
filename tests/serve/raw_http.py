"""HTTP as bytes on a socket: clients' libraries tidy up what these tests want to send as it is."""

import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.services import Gateway

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class RawAnswer:
    """`status` is 0 where the connection was closed without an answer."""

    status: int
    head: str
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


def address(gateway: Gateway) -> tuple[str, int]:
    at = urlsplit(gateway.url)
    return at.hostname or "", at.port or 0


def request_bytes(method: str, target: str, headers: Headers = (), body: bytes = b"") -> bytes:
    """One request that asks for the connection to be closed; the target and the headers go out as they are."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "Connection: close"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def exchange(gateway: Gateway, sent: bytes, within_s: float = 20) -> RawAnswer:
    """What comes back until the gateway closes; TimeoutError when it does not."""
    received = b""
    with socket.create_connection(address(gateway), timeout=within_s) as connection:
        with suppress(ConnectionError):
            connection.sendall(sent)
        with suppress(ConnectionError):
            while chunk := connection.recv(65536):
                received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.1 ") else 0
    return RawAnswer(status, head.decode("latin-1"), body)
