"""What an API key may use in a minute: reserved in Redis when a request is admitted, settled when it has ended.

One script decides, by Redis's own clock, so that any number of gateways share a limit exactly. What a request holds
counts from its admission on, for 60 s; a gateway that dies leaves only reservations that go by themselves. None of it
waits for the disk: a Redis that is restarted has forgotten the minute.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from redis.exceptions import NoScriptError, RedisError

from feedback.errors import LedgerUnavailable
from feedback.ids import KeyId, new_nonce
from feedback.keyspace import minute, quota
from feedback.link import Argument, Link, LoopScript

MINUTE_S = 60
_TRIP = 256


@dataclass(frozen=True)
class KeyLimits:
    """Requests, and tokens read and written, in any 60 seconds; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def any(self) -> bool:
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


UNLIMITED = KeyLimits()


@dataclass(frozen=True)
class Reservation:
    """One request, and the most tokens that it may use. Its id makes a call that is sent again the same call."""

    key_id: KeyId
    limits: KeyLimits
    tokens: int
    id: str = field(default_factory=new_nonce)


@dataclass(frozen=True)
class Reading:
    """How a key's minute stands after a reservation was taken or refused.

    `empty_in_s`: until all that counts now has left. `fits_in_s`: until a refused request would fit, at the latest if
    others use all that they have reserved; None when it never will.
    """

    taken: bool
    requests: int
    tokens: int
    empty_in_s: float
    fits_in_s: float | None = 0.0


def remembered(reservation: Reservation, used_tokens: int | None) -> int | None:
    """What a settled reservation goes on counting; None when it is given back whole.

    Where requests are not limited, one that used no token holds nothing: so a minute never has more entries than its
    limit says.
    """
    limited = reservation.limits.requests_per_minute is not None
    return used_tokens if limited else used_tokens or None


@dataclass(frozen=True)
class _Call:
    script: LoopScript
    key_id: KeyId
    args: Sequence[Argument]
    reply: asyncio.Future[list[int]] | None


class QuotaLedger:
    """The minutes of all keys. Belongs to one event loop; calls that wait at the same time go in one trip."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._reserve = LoopScript("reserve_quota")
        self._settle = LoopScript("settle_quota")
        self._calls: list[_Call] = []
        self._sender: asyncio.Task[None] | None = None

    async def reserve(self, reservation: Reservation) -> Reading:
        """Takes the reservation if it fits; else nothing is taken. LedgerUnavailable when Redis does not answer."""
        limits = reservation.limits
        most: list[Argument] = [
            "" if limit is None else limit for limit in (limits.requests_per_minute, limits.tokens_per_minute)
        ]
        reply: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._send(_Call(self._reserve, reservation.key_id, (reservation.id, reservation.tokens, *most), reply))
        taken, requests, tokens, empty_ms, fits_ms = await reply
        fits_in_s = None if fits_ms < 0 else fits_ms / 1000
        return Reading(bool(taken), requests, tokens, empty_ms / 1000, fits_in_s)

    def settle(self, reservation: Reservation, used_tokens: int | None) -> None:
        """Has the reservation count what was used, None: nothing at all. Returns at once; `close` waits for it.

        Lost where Redis does not answer: the reservation then counts in full until its minute is over.
        """
        left = remembered(reservation, used_tokens)
        if left != reservation.tokens:
            self._send(_Call(self._settle, reservation.key_id, (reservation.id, -1 if left is None else left), None))

    async def is_up(self) -> bool:
        try:
            return bool(await self._link.call("PING"))
        except LedgerUnavailable:
            return False

    async def close(self) -> None:
        """Sends what waits and closes the connection."""
        if self._sender is not None:
            await self._sender
        await self._link.close()

    def _send(self, call: _Call) -> None:
        self._calls.append(call)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all())

    async def _send_all(self) -> None:
        while self._calls:
            trip, self._calls = self._calls[:_TRIP], self._calls[_TRIP:]
            try:
                replies = await self._travel(trip)
            except LedgerUnavailable as error:
                replies = [error] * len(trip)
            for call, reply in zip(trip, replies, strict=True):
                _deliver(call, reply)

    async def _travel(self, trip: Sequence[_Call]) -> list[object]:
        commands: list[Sequence[Argument]] = [
            ("EVALSHA", call.script.digest, 2, minute(call.key_id), quota(call.key_id), *call.args) for call in trip
        ]
        replies: list[object] = await self._link.trip(commands)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            for script in (self._reserve, self._settle):
                await self._link.call("SCRIPT", "LOAD", script.text)
            replies = await self._link.trip(commands)
        return replies


def _deliver(call: _Call, reply: object) -> None:
    if call.reply is None or call.reply.done():
        return
    if isinstance(reply, list):
        call.reply.set_result(reply)
    elif isinstance(reply, LedgerUnavailable):
        call.reply.set_exception(reply)
    else:
        assert isinstance(reply, RedisError), reply
        call.reply.set_exception(LedgerUnavailable(f"Redis would not count a request ({reply}); try again"))
