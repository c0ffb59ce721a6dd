"""Brings turns to the ledger without ever holding up or breaking a chat: one writing task, one bounded queue."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from feedback.errors import LedgerUnavailable
from feedback.ids import TenantId, TurnId
from feedback.turn_rows import TurnWriter
from feedback.turns import Turn

log = logging.getLogger(__name__)
_GROUP = 64
_RETRY_S = 0.25


@dataclass(frozen=True)
class _Waiting:
    turns: Sequence[Turn]
    written: asyncio.Future[None]


class TurnLog:
    """Appends turns in the order given, as many at once as are waiting (one fsync for all of them).

    While Redis is away turns wait, up to `capacity` of them; further ones are dropped and `dropped` is told how many.
    Belongs to the event loop that starts it; `queued_turns` and `is_queued` may be asked from any thread.
    """

    _task: asyncio.Task[None]

    def __init__(self, writer: TurnWriter, *, capacity: int, patience_s: float, dropped: Callable[[int], None]) -> None:
        self._writer = writer
        self._capacity = capacity
        self._patience_s = patience_s
        self._dropped = dropped
        self._queue: deque[_Waiting] = deque()
        self._queued: dict[TurnId, TenantId] = {}
        self._wake = asyncio.Event()
        self._closing = False
        self._failing = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._write_all(), name="turn-log")

    async def close(self, within_s: float) -> None:
        """Writes what is waiting, for at most `within_s` seconds."""
        self._closing = True
        self._wake.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._task, within_s)
        await self._writer.close()
        if self._queued:
            log.error("%d turns were not written: the ledger stayed away", len(self._queued))
            self._dropped(len(self._queued))

    @property
    def queued_turns(self) -> int:
        return len(self._queued)

    def is_queued(self, turn_id: TurnId, tenant: TenantId) -> bool:
        """Whether a turn of that tenant waits to be written. Ask this before the ledger, or it is in neither."""
        return self._queued.get(turn_id) == tenant

    def try_again(self) -> None:
        """The ledger is back: what waits is written now."""
        self._wake.set()

    async def append(self, turns: Sequence[Turn]) -> None:
        """Returns when the turns are on disk or patience has run out; at once while the ledger is known to be away."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        if not self._enqueue(_Waiting(turns, written)) or self._failing:
            return
        patience = loop.call_later(self._patience_s, _settle, written)
        try:
            await written
        finally:
            patience.cancel()

    def _enqueue(self, waiting: _Waiting) -> bool:
        if len(self._queued) + len(waiting.turns) > self._capacity:
            self._dropped(len(waiting.turns))
            return False
        self._queue.append(waiting)
        self._queued.update((turn.id, turn.tenant) for turn in waiting.turns)
        self._wake.set()
        return True

    async def _write_all(self) -> None:
        while True:
            while not self._queue and not self._closing:
                await self._woken()
            if not self._queue:
                return
            group = [*islice(self._queue, _GROUP)]
            if not await self._write(group):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken(), _RETRY_S)
                continue
            for waiting in group:
                self._queue.popleft()
                for turn in waiting.turns:
                    # A turn may wait twice: a caller who leaves at the very end has theirs appended again.
                    self._queued.pop(turn.id, None)
                _settle(waiting.written)

    async def _woken(self) -> None:
        await self._wake.wait()
        self._wake.clear()

    async def _write(self, group: Sequence[_Waiting]) -> bool:
        try:
            await self._writer.append([turn for waiting in group for turn in waiting.turns])
        except LedgerUnavailable as error:
            if not self._failing:
                log.warning("turns are queued until the ledger is back: %s", error)
            self._failing = True
            return False
        if self._failing:
            log.info("the ledger is back, queued turns are written")
        self._failing = False
        return True


def _settle(written: asyncio.Future[None]) -> None:
    if not written.done():
        written.set_result(None)
