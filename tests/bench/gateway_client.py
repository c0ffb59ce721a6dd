"""The load of `make bench-gateway`: requests over plain blocking sockets, timed to the first token and to the end.

Nothing is parsed but where the first token is and where the answer ends, so that the client costs little beside what
it measures.
"""

import re
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson

_FIRST_TOKEN = re.compile(rb'"content": ?"[^"]')
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Seen:
    """One answer: seconds to its first token (streamed) and to its last byte, and the bytes after the headers."""

    first_s: float
    whole_s: float
    raw: bytes

    @property
    def events(self) -> int:
        """Of a stream, `[DONE]` left out."""
        return self.raw.count(b"data: ") - 1


class Connection:
    """One kept-alive connection, one request at a time."""

    def __init__(self, url: str, key: str) -> None:
        at = urlsplit(url)
        self._address = (at.hostname or "", at.port or 80)
        self._head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {at.netloc}\r\nauthorization: Bearer {key}\r\n"
            "content-type: application/json\r\ncontent-length: "
        ).encode()
        self._socket = socket.create_connection(self._address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def ask(self, body: bytes) -> Seen:
        """SystemExit on anything but a 200 that comes to its end."""
        started = time.perf_counter()
        self._socket.sendall(self._head + b"%d\r\n\r\n%b" % (len(body), body))
        got, first_s, starts_at, length = b"", 0.0, 0, -1
        while True:
            piece = self._socket.recv(262_144)
            if not piece:
                raise SystemExit(f"bench: the connection to {self._address} was closed in the answer:\n{got[-500:]!r}")
            got += piece
            if not starts_at:
                starts_at, length = self._headers_of(got)
            if not first_s and _FIRST_TOKEN.search(got):
                first_s = time.perf_counter() - started
            if starts_at and _is_whole(got, starts_at, length):
                return Seen(first_s, time.perf_counter() - started, got[starts_at:])

    def _headers_of(self, got: bytes) -> tuple[int, int]:
        """Where the body starts (0: not here yet) and its declared length (-1: it is chunked)."""
        end = got.find(b"\r\n\r\n")
        if end < 0:
            return 0, -1
        if not got.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"bench: a request to {self._address} failed:\n{got[:1000].decode(errors='replace')}")
        declared = _LENGTH.search(got, 0, end)
        return end + 4, int(declared[1]) if declared else -1


def body_of(text: str, *, stream: bool, **fields: object) -> bytes:
    messages = [{"role": "user", "content": text}]
    return orjson.dumps({"model": "burnish", "messages": messages, "stream": stream, **fields})


def at_once(connections: Sequence[Connection], bodies: Sequence[bytes]) -> list[Seen]:
    """Each connection asks with its own body, all at the same time."""
    with ThreadPoolExecutor(len(connections)) as pool:
        return list(pool.map(Connection.ask, connections, bodies))


def tokens_of(answers: Sequence[Seen]) -> int:
    """Tokens that a real engine says it has written, by the usage in the last event of each stream."""
    return sum(_usage(answer.raw)["completion_tokens"] for answer in answers)


def _usage(raw: bytes) -> Mapping[str, int]:
    (last,) = (line for line in raw.split(b"\n") if line.startswith(b"data: ") and b'"usage":{' in line)
    usage: Mapping[str, int] = orjson.loads(last[6:])["usage"]
    return usage


def _is_whole(got: bytes, starts_at: int, length: int) -> bool:
    return got.endswith(b"\r\n0\r\n\r\n") if length < 0 else len(got) - starts_at >= length
