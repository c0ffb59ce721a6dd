"""Keeps keys' limits in Redis, and alone for as long as Redis is away: a chat never breaks because of Redis."""

import asyncio
import logging
from collections.abc import Callable

from feedback.errors import LedgerUnavailable
from feedback.quota import QuotaLedger, Reading, Reservation
from serve.limits.local_quota import LocalQuota

log = logging.getLogger(__name__)
_LOOK_S = 0.25


class Quotas:
    """Reservations for the requests of limited keys. `alone` is told 1 when Redis goes and 0 when it is back.

    What Redis has granted here is remembered here too, so that a limit is not had twice when Redis goes away. The first
    request to notice waits `patience_s` at most, later ones not at all.
    """

    def __init__(self, ledger: QuotaLedger, patience_s: float, alone: Callable[[float], None]) -> None:
        self._ledger = ledger
        self._patience_s = patience_s
        self._alone = alone
        self._local = LocalQuota()
        self._looking: asyncio.Task[None] | None = None

    @property
    def is_alone(self) -> bool:
        return self._looking is not None

    async def reserve(self, reservation: Reservation) -> Reading:
        if not self.is_alone:
            try:
                async with asyncio.timeout(self._patience_s):
                    reading = await self._ledger.reserve(reservation)
            except (LedgerUnavailable, TimeoutError) as error:
                self._go_alone(error)
            else:
                if reading.taken:
                    self._local.note(reservation)
                return reading
        return self._local.reserve(reservation)

    def settle(self, reservation: Reservation, used_tokens: int | None) -> None:
        """Counts what was used, None: nothing at all. Never waits."""
        self._local.settle(reservation, used_tokens)
        if not self.is_alone:
            self._ledger.settle(reservation, used_tokens)

    async def close(self, within_s: float) -> None:
        """Waits until Redis has what was settled."""
        if self._looking is not None:
            self._looking.cancel()
        try:
            async with asyncio.timeout(within_s):
                await self._ledger.close()
        except (LedgerUnavailable, TimeoutError) as error:
            log.warning("some requests' limits were not settled: %r", error)

    def _go_alone(self, error: Exception) -> None:
        if self.is_alone:
            return
        log.warning(
            "keys' limits are kept by this gateway alone until Redis is back: %s",
            error if str(error) else f"no answer in {self._patience_s:g} s",
        )
        self._alone(1)
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while not await self._ledger.is_up():  # noqa: ASYNC110 - another process comes back
            await asyncio.sleep(_LOOK_S)
        log.info("Redis is back, keys' limits are shared again")
        self._alone(0)
        self._looking = None
