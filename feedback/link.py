"""One connection to Redis for an event loop, for what every chat waits for: a call costs a third of a client's.

No pool, and no threads: calls are made one after another, and those who have much to say say it in one script.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import NoScriptError

from feedback.connection import translated

Argument = str | bytes | int | float


class Link:
    """Connects on first use, and again after a failure. Belongs to the event loop that uses it first."""

    def __init__(self, url: str, *, timeout_s: float = 2.0) -> None:
        # A timeout here holds for a whole call, which is cheaper than redis-py's own for each write and each read.
        pool: Any = ConnectionPool.from_url(url, decode_responses=True, socket_timeout=None)
        self._connection = pool.make_connection()
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()

    async def call(self, *command: Argument) -> Any:
        """The answer to one command; LedgerUnavailable when there is none in time.

        As `connection.connect` does, it sends a call again once when the connection breaks, though Redis may have done
        it already.
        """
        async with self._turn:
            with translated():
                async with asyncio.timeout(self._timeout_s):
                    return await self._call(command)

    async def run(self, script: "LoopScript", keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """The answer of a script, which is brought to Redis where it is not known there."""
        async with self._turn:
            with translated():
                async with asyncio.timeout(self._timeout_s):
                    try:
                        return await self._call(("EVALSHA", script.digest, len(keys), *keys, *args))
                    except NoScriptError:
                        return await self._call(("EVAL", script.text, len(keys), *keys, *args))

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)

    async def _call(self, command: Sequence[Argument]) -> Any:
        was_connected = self._connection.is_connected
        try:
            return await self._sent(command)
        except Broken:
            if not was_connected:
                raise
            return await self._sent(command)

    async def _sent(self, command: Sequence[Argument]) -> Any:
        """A call that fails, or is cancelled, takes the connection with it: nobody else gets its answer."""
        await self._connection.send_packed_command(_packed(command), check_health=False)
        return await self._connection.read_response()


class LoopScript:
    """The script `feedback/lua/NAME.lua`, for `Link.run`."""

    def __init__(self, name: str) -> None:
        self.text = files("feedback").joinpath("lua", f"{name}.lua").read_text()
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def _packed(command: Sequence[Argument]) -> bytes:
    """A command as Redis reads it: an array of strings. In one piece, which is one write."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
