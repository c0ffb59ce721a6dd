"""What becomes of turns while Redis is away, and of those who ask for them then."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from feedback.connection import connect
from feedback.ids import TenantId
from feedback.ledger import Ledger
from feedback.link import Link
from feedback.turn_rows import TurnWriter
from serve.answering.turn_log import TurnLog
from tests.feedback.makers import TENANT, make_turn
from tests.serve.publish import LINE
from tests.serve.test_redis_gone import MortalRedis
from tests.services import wait_until


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[MortalRedis]:
    """A Redis that is away."""
    server = MortalRedis(tmp_path / "redis")
    server.start()
    server.kill()
    yield server
    server.kill()


@pytest.fixture
async def turn_log(redis: MortalRedis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TurnLog]:
    """A log that tries again only when it is told to."""
    monkeypatch.setattr("serve.answering.turn_log._RETRY_S", 3600)
    log = TurnLog(TurnWriter(Link(redis.url), LINE), capacity=10, patience_s=1, dropped=lambda turns: None)
    log.start()
    yield log
    await log.close(within_s=5)


async def written(turn_log: TurnLog) -> None:
    await asyncio.to_thread(wait_until, lambda: not turn_log.queued_turns, within_s=5, what="the queue is empty")


async def test_a_turn_is_queued_for_its_own_tenant_until_it_is_written(redis: MortalRedis, turn_log: TurnLog) -> None:
    turn = make_turn()
    await turn_log.append([turn])
    assert turn_log.is_queued(turn.id, TENANT)
    assert not turn_log.is_queued(turn.id, TenantId("another"))
    redis.start()
    turn_log.try_again()
    await written(turn_log)
    assert not turn_log.is_queued(turn.id, TENANT)
    assert Ledger(connect(redis.url), LINE).turn(turn.id) == turn


async def test_a_turn_that_waits_twice_is_written_and_those_after_it_too(redis: MortalRedis, turn_log: TurnLog) -> None:
    twice, after = make_turn(), make_turn()
    for turn in (twice, twice, after):
        await turn_log.append([turn])
    redis.start()
    turn_log.try_again()
    await written(turn_log)
    await turn_log.append([last := make_turn()])
    ids = [twice.id, after.id, last.id]
    assert Ledger(connect(redis.url), LINE).turns(ids).keys() == set(ids)
