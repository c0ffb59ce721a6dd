"""The minutes of keys in this process's own memory: what `feedback.quota` counts in Redis, for when that is away."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from feedback.ids import KeyId
from feedback.quota import MINUTE_S, Reading, Reservation, remembered


@dataclass
class _Minute:
    """When each reservation was taken and what it holds, oldest first, and the sum of them."""

    entries: OrderedDict[str, tuple[float, int]] = field(default_factory=OrderedDict)
    tokens: int = 0

    def forget_before(self, at: float) -> None:
        while self.entries:
            taken_at, tokens = next(iter(self.entries.values()))
            if taken_at > at:
                return
            self.entries.popitem(last=False)
            self.tokens -= tokens


class LocalQuota:
    """Takes and settles reservations as `QuotaLedger` does. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._minutes: dict[KeyId, _Minute] = {}
        self._swept_at = clock()

    def reserve(self, reservation: Reservation) -> Reading:
        now, minute = self._clock(), self._minute(reservation.key_id)
        limits, asked = reservation.limits, reservation.tokens
        over = _over(len(minute.entries) + 1, limits.requests_per_minute)
        over_tokens = _over(minute.tokens + asked, limits.tokens_per_minute)
        if over or over_tokens:
            fits_in_s = None if _over(asked, limits.tokens_per_minute) else _wait_s(minute, now, over, over_tokens)
            return Reading(False, len(minute.entries), minute.tokens, _empty_in_s(minute, now), fits_in_s)
        self.note(reservation)
        return Reading(True, len(minute.entries), minute.tokens, MINUTE_S)

    def note(self, reservation: Reservation) -> None:
        """Counts a reservation that was taken elsewhere, whether it fits here or not."""
        minute = self._minute(reservation.key_id)
        minute.entries[reservation.id] = (self._clock(), reservation.tokens)
        minute.tokens += reservation.tokens

    def settle(self, reservation: Reservation, used_tokens: int | None) -> None:
        minute = self._minute(reservation.key_id)
        if reservation.id not in minute.entries:
            return
        taken_at, held = minute.entries[reservation.id]
        left = remembered(reservation, used_tokens)
        minute.tokens += (left or 0) - held
        if left is None:
            del minute.entries[reservation.id]
        else:
            minute.entries[reservation.id] = (taken_at, left)

    def _minute(self, key_id: KeyId) -> _Minute:
        """A key's minute as it stands now. Once a minute, those that are empty are dropped."""
        past = self._clock() - MINUTE_S
        if self._swept_at <= past:
            self._swept_at = self._clock()
            for minute in self._minutes.values():
                minute.forget_before(past)
            self._minutes = {key: minute for key, minute in self._minutes.items() if minute.entries}
        minute = self._minutes.setdefault(key_id, _Minute())
        minute.forget_before(past)
        return minute


def _over(wanted: int, limit: int | None) -> int:
    return 0 if limit is None else max(0, wanted - limit)


def _empty_in_s(minute: _Minute, now: float) -> float:
    return max((taken_at for taken_at, _ in minute.entries.values()), default=now - MINUTE_S) + MINUTE_S - now


def _wait_s(minute: _Minute, now: float, over: int, over_tokens: int) -> float:
    """Until so many requests and so many tokens have left; the oldest go first."""
    for taken_at, tokens in minute.entries.values():
        over, over_tokens = over - 1, over_tokens - tokens
        if over <= 0 and over_tokens <= 0:
            return taken_at + MINUTE_S - now
    return 0.0
