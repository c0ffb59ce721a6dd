"""HTTP/1.1 POSTs to one engine over kept connections, and nothing else of HTTP: every token comes through here.

A general client costs several times as much for each request. What the answers mean is `engine`'s affair.
"""

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import httptools

# vLLM closes idle connections after 5 s; a request sent at that moment would fail although the engine is well.
_IDLE_S = 3
_CONNECT_S = 5
_SILENCE_S = 600
_LINGER_S = 1
_UNREAD_BYTES = 256 * 1024


class WireFailed(Exception):
    """The engine could not be reached, or did not answer in HTTP to the end; the message says why in a few words."""


class EngineWire:
    """As many connections as there are requests. Every method raises WireFailed."""

    def __init__(self, url: str) -> None:
        at = urlsplit(url)
        secure = at.scheme == "https"
        self._ssl = True if secure else None
        self._address = (at.hostname or "", at.port or (443 if secure else 80))
        self._prefix = at.path.rstrip("/")
        self._host = at.netloc.rpartition("@")[2]
        self._idle: list[WireAnswer] = []
        self._open: set[WireAnswer] = set()

    async def post(self, path: str, body: bytes) -> "WireAnswer":
        """The answer as soon as its status is known; whoever asks must `close` it."""
        connection = self._kept() or await self._connect()
        head = (
            f"POST {self._prefix}{path} HTTP/1.1\r\nhost: {self._host}\r\naccept: */*\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        try:
            await connection.ask(head.encode() + body)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Ends everything; requests that are running fail."""
        for connection in [*self._open]:
            connection.abort()

    def keep(self, connection: "WireAnswer") -> None:
        self._idle.append(connection)

    def forget(self, connection: "WireAnswer") -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _kept(self) -> "WireAnswer | None":
        """The connection that was used last; those that have been idle for too long are ended."""
        while self._idle:
            connection = self._idle.pop()
            if time.monotonic() - connection.heard_at < _IDLE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> "WireAnswer":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, connection = await loop.create_connection(lambda: WireAnswer(self), *self._address, ssl=self._ssl)
        except OSError as error:  # TimeoutError is one
            raise WireFailed(type(error).__name__) from error
        self._open.add(connection)
        return connection


class WireAnswer(asyncio.Protocol):
    """One connection, and the answer that is coming over it."""

    status: int
    nothing_follows: bool
    """To be set by who reads the body, once all has come that matters but not its end."""
    _transport: Any  # uvloop's own, which is no asyncio.Transport

    def __init__(self, wire: EngineWire) -> None:
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._failure: WireFailed | None = None
        self._unread_bytes = 0
        self._begin()

    # For those who ask ------------------------------------------------------------------------------------------
    async def ask(self, request: bytes) -> None:
        """Sends a request and waits for the status of its answer."""
        self._begin()
        self._expects = True
        self._watch = self._loop.call_later(_SILENCE_S, self._look)
        self._transport.write(request)
        while not self.status:
            await self._news()

    async def read(self) -> bytes:
        """The whole body."""
        whole: list[bytes] = []
        while piece := await self.piece():
            whole.append(piece)
        return b"".join(whole)

    async def piece(self) -> bytes:
        """What has come of the body since the last piece; b"" at its end."""
        while not self._body:
            if self._is_whole:
                return b""
            await self._news()
        piece = b"".join(self._body)
        self._body.clear()
        if self._unread_bytes > _UNREAD_BYTES and self._failure is None:
            self._transport.resume_reading()
        self._unread_bytes = 0
        return piece

    def close(self) -> None:
        """Keeps the connection where the answer is whole, or about to be (`nothing_follows`); else ends it at once."""
        if self._watch is not None:
            self._watch.cancel()
        if self._is_whole and self._can_stay and self._failure is None:
            self._wire.keep(self)
        elif self.nothing_follows and self._failure is None:
            self._lingers = True
            self._watch = self._loop.call_later(_LINGER_S, self.abort)
        else:
            self.abort()

    def abort(self) -> None:
        self._transport.abort()

    # What asyncio and the parser say ----------------------------------------------------------------------------
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(WireFailed(f"no HTTP answer: {error}"))
            self.abort()
        if self._unread_bytes > _UNREAD_BYTES:
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._wire.forget(self)
        self._fail(WireFailed("connection closed"))

    def on_message_begin(self) -> None:
        if not self._expects:
            raise WireFailed("an answer that nobody asked for")  # which ends the parsing
        self._expects = False

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._unread_bytes += len(body)

    def on_message_complete(self) -> None:
        self._is_whole = True
        self._can_stay = self._parser.should_keep_alive()
        if self._lingers:
            self._lingers = False
            self.close()

    # Inside -----------------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        self.status = 0
        self.heard_at = time.monotonic()
        self._body: list[bytes] = []
        self._unread_bytes = 0
        self.nothing_follows = self._expects = self._is_whole = self._can_stay = self._lingers = False

    async def _news(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, failure: WireFailed) -> None:
        self._failure = self._failure or failure
        self._wake()

    def _look(self) -> None:
        """Set off rarely instead of again with every token."""
        silent_s = time.monotonic() - self.heard_at
        if silent_s < _SILENCE_S:
            self._watch = self._loop.call_later(_SILENCE_S - silent_s, self._look)
            return
        self._fail(WireFailed(f"nothing came for {silent_s:.0f} s"))
        self.abort()
