"""What a key may use in a minute: taken, refused, settled; in Redis and in one process's memory alike."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from feedback.connection import connect
from feedback.errors import LedgerUnavailable
from feedback.ids import KeyId
from feedback.keyspace import minute, quota
from feedback.link import Link
from feedback.quota import KeyLimits, QuotaLedger, Reading, Reservation
from tests.feedback.lossy_link import Fault, LossyLink, lossy_link

KEY = KeyId("key-1")


@pytest.fixture
async def ledger(redis_url: str) -> AsyncIterator[QuotaLedger]:
    ledger = QuotaLedger(Link(redis_url))
    yield ledger
    await ledger.close()


@pytest.fixture
def link(redis_url: str) -> Iterator[LossyLink]:
    with lossy_link(redis_url) as link:
        yield link


def make_reservation(tokens: int = 0, requests: int | None = None, most: int | None = None) -> Reservation:
    return Reservation(KEY, KeyLimits(requests, most), tokens)


def held(redis_url: str) -> dict[str, int]:
    """What stands in the minute of KEY; checks that the sum is that of the entries."""
    client = connect(redis_url)
    rows = {name: int(tokens) for name, tokens in client.hgetall(quota(KEY)).items()}
    total = rows.pop("sum", 0)
    assert total == sum(rows.values())
    assert set(client.zrange(minute(KEY), 0, -1)) == rows.keys()
    return rows


def age(redis_url: str, reservation: Reservation, by_s: float) -> None:
    """Makes a reservation older than it is."""
    connect(redis_url).zincrby(minute(KEY), -by_s * 1e6, reservation.id)


async def settled(ledger: QuotaLedger, reservation: Reservation, used: int | None) -> None:
    ledger.settle(reservation, used)
    await ledger.reserve(Reservation(KeyId("another"), KeyLimits(1), 0))  # calls arrive in the order given


async def test_as_many_requests_as_the_limit_says_and_no_more(ledger: QuotaLedger, redis_url: str) -> None:
    readings = [await ledger.reserve(make_reservation(requests=3)) for _ in range(5)]
    assert [reading.taken for reading in readings] == [True, True, True, False, False]
    assert [reading.requests for reading in readings] == [1, 2, 3, 3, 3]
    assert len(held(redis_url)) == 3
    assert readings[-1].fits_in_s == pytest.approx(60, abs=5)


async def test_a_refused_reservation_holds_nothing(ledger: QuotaLedger, redis_url: str) -> None:
    assert (await ledger.reserve(make_reservation(60, most=100))).taken
    refused = await ledger.reserve(make_reservation(50, most=100))
    assert (refused.taken, refused.tokens) == (False, 60)
    exact = await ledger.reserve(make_reservation(40, most=100))
    assert (exact.taken, exact.tokens) == (True, 100)
    assert sorted(held(redis_url).values()) == [40, 60]


async def test_more_tokens_than_the_whole_limit_never_fit(ledger: QuotaLedger) -> None:
    reading = await ledger.reserve(make_reservation(101, most=100))
    assert not reading.taken
    assert reading.fits_in_s is None


async def test_settling_counts_what_was_used_or_gives_all_back(ledger: QuotaLedger, redis_url: str) -> None:
    first, second = make_reservation(60, 5, 100), make_reservation(30, 5, 100)
    await ledger.reserve(first)
    await ledger.reserve(second)
    await settled(ledger, first, 10)
    assert held(redis_url) == {first.id: 10, second.id: 30}
    await settled(ledger, second, None)
    assert held(redis_url) == {first.id: 10}
    await settled(ledger, first, 0)
    assert held(redis_url) == {first.id: 0}, "where requests are limited, one of no tokens counts as one"
    await settled(ledger, make_reservation(7, 5, 100), 3)
    assert held(redis_url) == {first.id: 0}, "what was never taken cannot be settled"


async def test_where_only_tokens_are_limited_a_request_of_none_leaves_nothing(
    ledger: QuotaLedger, redis_url: str
) -> None:
    reservation = make_reservation(60, most=100)
    await ledger.reserve(reservation)
    await settled(ledger, reservation, 0)
    assert held(redis_url) == {}


async def test_what_is_older_than_a_minute_counts_no_more(ledger: QuotaLedger, redis_url: str) -> None:
    old, young = make_reservation(50, most=100), make_reservation(50, most=100)
    await ledger.reserve(old)
    await ledger.reserve(young)
    age(redis_url, old, 40)
    refused = await ledger.reserve(make_reservation(30, most=100))
    assert not refused.taken
    assert refused.fits_in_s == pytest.approx(20, abs=5), "the old one leaves first"
    assert refused.empty_in_s == pytest.approx(60, abs=5)
    age(redis_url, old, 20)
    fresh = make_reservation(30, most=100)
    assert (await ledger.reserve(fresh)).tokens == 80
    await settled(ledger, old, 1)
    assert held(redis_url) == {young.id: 50, fresh.id: 30}


async def test_thousands_that_have_gone_leave_at_once(ledger: QuotaLedger, redis_url: str) -> None:
    client = connect(redis_url)
    ids = [f"old{i}" for i in range(2500)]
    client.zadd(minute(KEY), {name: i for i, name in enumerate(ids)})
    client.hset(quota(KEY), mapping={"sum": 2500, **dict.fromkeys(ids, 1)})
    reading = await ledger.reserve(make_reservation(5, most=10))
    assert (reading.taken, reading.tokens) == (True, 5)
    assert list(held(redis_url).values()) == [5]


async def test_a_minute_that_is_left_alone_goes_by_itself(ledger: QuotaLedger, redis_url: str) -> None:
    await ledger.reserve(make_reservation(5, 5, 10))
    client = connect(redis_url)
    for name in (minute(KEY), quota(KEY)):
        assert 60_000 < client.pttl(name) <= 61_000


async def test_several_gateways_share_a_limit_exactly(redis_url: str) -> None:
    """Each with a connection of its own, all at once, settling as they go: never more than the limit stands."""
    ledgers = [QuotaLedger(Link(redis_url)) for _ in range(6)]

    async def ask(ledger: QuotaLedger) -> Reading:
        return await ledger.reserve(make_reservation(7, most=100))

    readings = await asyncio.gather(*(ask(ledger) for ledger in ledgers for _ in range(20)))
    assert sum(reading.taken for reading in readings) == 14
    assert max(reading.tokens for reading in readings) == 98
    assert len(held(redis_url)) == 14
    for ledger in ledgers:
        await ledger.close()


@pytest.mark.parametrize("settling", [False, True])
async def test_a_call_whose_reply_is_lost_counts_once(settling: bool, redis_url: str, link: LossyLink) -> None:
    ledger = QuotaLedger(Link(link.url))
    reservation = make_reservation(60, 5, 100)
    if settling:
        await ledger.reserve(reservation)
        link.fault = Fault()
        await settled(ledger, reservation, 10)
    else:
        link.fault = Fault()
        reading = await ledger.reserve(reservation)
        assert (reading.taken, reading.requests, reading.tokens) == (True, 1, 60)
    assert link.fault is None
    assert held(redis_url) == {reservation.id: 10 if settling else 60}
    await ledger.close()


async def test_a_reservation_that_comes_again_late_changes_nothing(ledger: QuotaLedger, redis_url: str) -> None:
    reservation = make_reservation(60, 5, 100)
    await ledger.reserve(reservation)
    await settled(ledger, reservation, 10)
    assert (await ledger.reserve(replace(reservation))).taken
    assert held(redis_url) == {reservation.id: 10}


async def test_closing_sends_what_was_settled(redis_url: str) -> None:
    ledger = QuotaLedger(Link(redis_url))
    reservations = [make_reservation(10, most=10_000) for _ in range(600)]
    await asyncio.gather(*(ledger.reserve(reservation) for reservation in reservations))
    for reservation in reservations:
        ledger.settle(reservation, 1)
    await ledger.close()
    assert set(held(redis_url).values()) == {1}
    assert len(held(redis_url)) == 600


async def test_a_redis_that_has_forgotten_the_scripts_is_told_them_again(ledger: QuotaLedger, redis_url: str) -> None:
    await ledger.reserve(make_reservation(1, most=10))
    connect(redis_url).script_flush()
    assert (await ledger.reserve(make_reservation(1, most=10))).tokens == 2


async def test_a_redis_that_is_gone_is_told_as_such() -> None:
    ledger = QuotaLedger(Link("redis://127.0.0.1:1/0"))
    assert not await ledger.is_up()
    with pytest.raises(LedgerUnavailable):
        await ledger.reserve(make_reservation(1, most=10))
    await ledger.close()


async def test_a_minute_waits_for_no_disk(ledger: QuotaLedger, redis_url: str) -> None:
    def written_bytes() -> int:
        return int(connect(redis_url).info("persistence")["aof_current_size"])

    await ledger.reserve(Reservation(KeyId("another"), KeyLimits(1), 0))  # brings the scripts
    before = written_bytes()
    for _ in range(20):
        reservation = Reservation(KEY, KeyLimits(100, 10_000), 50)
        assert (await ledger.reserve(reservation)).taken
        ledger.settle(reservation, 7)
    reading = await ledger.reserve(Reservation(KEY, KeyLimits(100, 10_000), 50))
    assert (reading.requests, reading.tokens) == (21, 20 * 7 + 50)
    assert written_bytes() == before
