"""A TCP hop to a real Redis, on which a script's reply can be lost."""

import select
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Fault:
    """What befalls one script: `before` runs when it is asked for, `after` when Redis has run it."""

    lose_reply: bool = True
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None


class LossyLink(socketserver.ThreadingTCPServer):
    """Forwards to the Redis at `target`; `fault` strikes the next script that Redis knows, once."""

    daemon_threads = True

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Hop)
        self.target = target
        self.fault: Fault | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server_address[1]}/0"


class _Hop(socketserver.BaseRequestHandler):
    server: LossyLink

    def handle(self) -> None:
        with suppress(OSError), socket.create_connection(self.server.target) as redis:
            while self._forward(redis):
                pass

    def _forward(self, redis: socket.socket) -> bool:
        """One request or one reply; False when the connection has ended."""
        ready, _, _ = select.select([self.request, redis], [], [])
        if self.request not in ready:
            reply = redis.recv(65536)
            self.request.sendall(reply)
            return reply != b""
        asked = self.request.recv(65536)
        fault = self.server.fault if b"EVALSHA" in asked else None
        if fault is None:
            redis.sendall(asked)
            return bool(asked != b"")
        fault.before()
        redis.sendall(asked)
        reply = redis.recv(65536)
        if not reply.startswith(b"-NOSCRIPT"):
            self.server.fault = None
            fault.after()
            if fault.lose_reply:
                return False
        self.request.sendall(reply)
        return True


@contextmanager
def lossy_link(redis_url: str) -> Iterator[LossyLink]:
    at = urlsplit(redis_url)
    with LossyLink((at.hostname or "127.0.0.1", at.port or 6379)) as link:
        thread = threading.Thread(target=link.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield link
        finally:
            link.shutdown()
            thread.join()
