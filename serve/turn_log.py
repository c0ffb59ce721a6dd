"""Brings turns to the ledger without ever holding up or breaking a chat: one writer thread, one bounded queue."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from feedback.errors import LedgerUnavailable
from feedback.ids import TenantId, TurnId
from feedback.ledger import Ledger
from feedback.turns import Turn

log = logging.getLogger(__name__)
_GROUP = 64
_RETRY_S = 0.25


@dataclass(frozen=True)
class _Waiting:
    turns: Sequence[Turn]
    written: Callable[[], object]


class TurnLog:
    """Appends turns in the order given, as many at once as are waiting (one fsync for all of them).

    While Redis is away turns wait, up to `capacity` of them; further ones are dropped and `dropped` is told how many.
    """

    def __init__(self, ledger: Ledger, *, capacity: int, patience_s: float, dropped: Callable[[int], None]) -> None:
        self._ledger = ledger
        self._capacity = capacity
        self._patience_s = patience_s
        self._dropped = dropped
        self._queue: deque[_Waiting] = deque()
        self._queued: dict[TurnId, TenantId] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._failing = False
        self._thread = threading.Thread(target=self._write_all, name="turn-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, within_s: float) -> None:
        """Writes what is waiting, for at most `within_s` seconds."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(within_s)
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
        with self._wake:
            self._wake.notify()

    async def append(self, turns: Sequence[Turn]) -> None:
        """Returns when the turns are on disk or patience has run out; at once while the ledger is known to be away."""
        written = asyncio.Event()
        loop = asyncio.get_running_loop()
        if not self._enqueue(_Waiting(turns, lambda: loop.call_soon_threadsafe(written.set))) or self._failing:
            return
        try:
            await asyncio.wait_for(written.wait(), self._patience_s)
        except TimeoutError:
            return

    def _enqueue(self, waiting: _Waiting) -> bool:
        with self._wake:
            if len(self._queued) + len(waiting.turns) > self._capacity:
                self._dropped(len(waiting.turns))
                return False
            self._queue.append(waiting)
            self._queued.update((turn.id, turn.tenant) for turn in waiting.turns)
            self._wake.notify()
            return True

    def _write_all(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue:
                    return
                group = [self._queue[i] for i in range(min(_GROUP, len(self._queue)))]
            if not self._write(group):
                with self._wake:
                    self._wake.wait(_RETRY_S)
                continue
            with self._wake:
                for _ in group:
                    for turn in self._queue.popleft().turns:
                        # A turn may wait twice: a caller who leaves at the very end has theirs appended again.
                        self._queued.pop(turn.id, None)
            for waiting in group:
                waiting.written()

    def _write(self, group: Sequence[_Waiting]) -> bool:
        try:
            self._ledger.append_turns([turn for waiting in group for turn in waiting.turns])
        except LedgerUnavailable as error:
            if not self._failing:
                log.warning("turns are queued until the ledger is back: %s", error)
            self._failing = True
            return False
        if self._failing:
            log.info("the ledger is back, queued turns are written")
        self._failing = False
        return True
