"""The watch outlives rows that make no sense and a Redis that comes back without what it knew."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from feedback.access_keys import KeyStore, Scope
from feedback.connection import connect
from feedback.ids import TenantId
from feedback.keyspace import KEYS, KEYS_EPOCH
from feedback.registry import Registry
from serve.access.doors import KeyRing
from serve.ledger_watch import LedgerWatch
from tests.fake_engine import FakeEngine
from tests.serve.access.test_doors import knows
from tests.serve.conftest import ask
from tests.serve.publish import LINE, Publisher
from tests.serve.replicas.test_swap import go_live, live_now
from tests.serve.test_redis_gone import MortalRedis
from tests.serve.test_streams import CHAT
from tests.services import Gateway, wait_until


def test_a_row_that_makes_no_sense_is_told_and_the_watch_goes_on(api: httpx.Client, gateway: Gateway) -> None:
    redis = connect(gateway.redis_url)
    redis.hset(KEYS, "key-odd", "a secret that is no JSON")
    redis.incr(KEYS_EPOCH)
    wait_until(lambda: api.get("/readyz").status_code == 503, within_s=5, what="/readyz tells")
    assert "unforeseen" in api.get("/readyz").text
    assert "secret" not in api.get("/readyz").text
    assert api.post(CHAT, json=ask()).status_code == 200
    redis.hdel(KEYS, "key-odd")
    _, secret = KeyStore(redis).make("late", frozenset({Scope.chat}), TenantId("home"))
    wait_until(lambda: knows(api, secret), within_s=5, what="keys are read again")
    wait_until(lambda: api.get("/readyz").status_code == 200, within_s=5, what="the gateway is ready again")


def test_a_redis_that_comes_back_empty_is_begun_anew(
    api: httpx.Client, gateway: Gateway, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine
) -> None:
    redis = connect(gateway.redis_url)
    lost = go_live(api, publisher, two_adapters[0])
    _, gone = KeyStore(redis).make("gone", frozenset({Scope.chat}), TenantId("home"))
    wait_until(lambda: knows(api, gone), within_s=5, what="the new key is known")
    redis.flushall()
    wait_until(lambda: live_now(api) == "v0000-base", within_s=5, what="the base is live")
    wait_until(lambda: lost not in fake.adapters, within_s=5, what="what nobody knows any more is unloaded")
    wait_until(lambda: not knows(api, gone), within_s=5, what="keys that are lost are refused")
    assert {key.name for key in KeyStore(redis).all()} == {"operator", "page", "worker"}
    assert api.get("/readyz").status_code == 200
    assert live_now(api) != (again := go_live(api, publisher, two_adapters[1]))
    assert live_now(api) == again


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[MortalRedis]:
    server = MortalRedis(tmp_path / "redis")
    server.start()
    yield server
    server.kill()


async def test_the_watch_says_when_the_ledger_is_back(mortal: MortalRedis) -> None:
    redis = connect(mortal.url)
    came_back = asyncio.Event()
    watch = LedgerWatch(
        Registry(redis, LINE),
        KeyStore(redis),
        KeyRing(),
        poll_s=0.01,
        prepare=lambda: None,
        back=came_back.set,
    )
    loop = asyncio.create_task(watch.run())
    async with asyncio.timeout(20):
        await came_back.wait()
        mortal.kill()
        while watch.problem is None:  # noqa: ASYNC110 - the watch tells nobody that it is away
            await asyncio.sleep(0.01)
        came_back.clear()
        await asyncio.to_thread(mortal.start)
        await came_back.wait()
    loop.cancel()


async def test_the_watch_outlives_a_home_that_cannot_be_read(redis_url: str) -> None:
    redis, tries = connect(redis_url), iter([OSError("no such disk"), TypeError("odd")])

    def prepare() -> None:
        if (error := next(tries, None)) is not None:
            raise error

    came_up = asyncio.Event()
    watch = LedgerWatch(Registry(redis, LINE), KeyStore(redis), KeyRing(), 0.01, prepare, back=came_up.set)
    loop = asyncio.create_task(watch.run())
    async with asyncio.timeout(20):
        await came_up.wait()
    assert not loop.done()
    loop.cancel()
