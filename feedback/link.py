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
from redis.exceptions import NoScriptError, ResponseError

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
        """The answer to one command; LedgerUnavailable when there is none in time, or Redis refuses it."""
        return _told(*await self.trip([command]))

    async def run(self, script: "LoopScript", keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """The answer of a script, which is brought to Redis where it is not known there."""
        (reply,) = await self.trip([("EVALSHA", script.digest, len(keys), *keys, *args)])
        if isinstance(reply, NoScriptError):
            (reply,) = await self.trip([("EVAL", script.text, len(keys), *keys, *args)])
        return _told(reply)

    async def trip(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """The answers to commands that are sent at once; in the place of one that Redis refused stands its RedisError.

        LedgerUnavailable when they do not all come in time. As `connection.connect` does, it sends everything again
        once when the connection breaks, though Redis may have done it already.
        """
        async with self._turn:
            with translated():
                async with asyncio.timeout(self._timeout_s):
                    try:
                        return await self._sent(commands)
                    except Broken:
                        return await self._sent(commands)

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)

    async def _sent(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """A trip that fails, or is cancelled, takes the connection with it: nobody else gets its answers."""
        await self._connection.send_packed_command(b"".join(map(_packed, commands)), check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await self._connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies


class LoopScript:
    """The script `feedback/lua/NAME.lua`, for `Link.run`."""

    def __init__(self, name: str) -> None:
        self.text = files("feedback").joinpath("lua", f"{name}.lua").read_text()
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def _told(reply: Any) -> Any:
    if isinstance(reply, ResponseError):
        with translated():
            raise reply
    return reply


def _packed(command: Sequence[Argument]) -> bytes:
    """A command as Redis reads it: an array of strings. In one piece, which is one write."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
