"""Limits without Redis: the same answers from this process's own memory, for as long as it is away."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback.ids import KeyId
from feedback.link import Link
from feedback.quota import KeyLimits, QuotaLedger, Reservation
from serve.limits.local_quota import LocalQuota
from serve.limits.quotas import Quotas
from tests.serve.test_redis_gone import MortalRedis, mortal_redis

KEY = KeyId("key-1")


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[MortalRedis]:
    with mortal_redis(tmp_path / "redis") as server:
        yield server


async def until_shared(quotas: Quotas) -> None:
    async with asyncio.timeout(20):
        while quotas.is_alone:  # noqa: ASYNC110 - another process comes back
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("limits", [KeyLimits(5, 100), KeyLimits(None, 100), KeyLimits(5, None)])
async def test_memory_and_redis_say_the_same(limits: KeyLimits, redis_url: str) -> None:
    ledger, local = QuotaLedger(Link(redis_url)), LocalQuota()
    draw, open_ones = random.Random(3), []
    for _ in range(300):
        if open_ones and draw.random() < 0.5:
            reservation = open_ones.pop(draw.randrange(len(open_ones)))
            used = draw.choice([None, 0, draw.randrange(40)])
            ledger.settle(reservation, used)
            local.settle(reservation, used)
            continue
        tokens = draw.choice([draw.randrange(1, 60), 101]) if limits.tokens_per_minute else 0
        reservation = Reservation(KEY, limits, tokens)
        theirs, ours = await ledger.reserve(reservation), local.reserve(reservation)
        assert (theirs.taken, theirs.requests, theirs.tokens) == (ours.taken, ours.requests, ours.tokens)
        assert (theirs.fits_in_s is None) == (ours.fits_in_s is None)
        if theirs.fits_in_s is not None and ours.fits_in_s is not None:
            assert theirs.fits_in_s == pytest.approx(ours.fits_in_s, abs=5)
        if theirs.taken:
            open_ones.append(reservation)
    await ledger.close()


def test_memory_forgets_after_a_minute_and_says_when() -> None:
    clock = Clock()
    local = LocalQuota(clock)
    limits = KeyLimits(2, 100)
    for _ in range(2):
        assert local.reserve(Reservation(KEY, limits, 40)).taken
        clock.at += 20
    refused = local.reserve(Reservation(KEY, limits, 70))
    assert (refused.taken, refused.fits_in_s, refused.empty_in_s) == (False, 40, 40)
    assert local.reserve(Reservation(KEY, limits, 10)).fits_in_s == 20
    clock.at += 20
    assert local.reserve(Reservation(KEY, limits, 60)).taken
    clock.at += 61
    local.reserve(Reservation(KeyId("another"), limits, 1))
    assert len(local._minutes) == 1, "a minute that is over is not kept"


async def test_without_redis_the_limit_goes_on_from_what_was_granted_here(
    redis: MortalRedis, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[float] = []
    ledger = QuotaLedger(Link(redis.url))
    quotas = Quotas(ledger, 0.5, told.append)
    limits = KeyLimits(5)
    for _ in range(3):
        assert (await quotas.reserve(Reservation(KEY, limits, 0))).taken
    redis.kill()
    taken = [(await quotas.reserve(Reservation(KEY, limits, 0))).taken for _ in range(4)]
    assert taken == [True, True, False, False]
    assert told == [1]
    assert sum("by this gateway alone" in record.message for record in caplog.records) == 1
    redis.start()
    await until_shared(quotas)
    assert told == [1, 0]
    reading = await quotas.reserve(Reservation(KEY, limits, 0))
    assert (reading.taken, reading.requests) == (True, 1), "a Redis that was killed has forgotten its minute"
    await quotas.close(5)


async def test_a_redis_that_hangs_is_waited_for_once(redis: MortalRedis) -> None:
    quotas = Quotas(QuotaLedger(Link(redis.url, timeout_s=0.3)), 0.05, lambda alone: None)
    limits = KeyLimits(100)
    await quotas.reserve(Reservation(KEY, limits, 0))
    redis.freeze()
    assert (await quotas.reserve(Reservation(KEY, limits, 0))).requests == 2
    assert quotas.is_alone
    redis.thaw()
    await until_shared(quotas)
    await quotas.close(5)
