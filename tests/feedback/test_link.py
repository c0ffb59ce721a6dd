"""A loop's own connection to Redis: scripts, breaks, and answers that come too late."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from feedback.connection import connect
from feedback.errors import LedgerUnavailable
from feedback.ids import TenantId, UserId
from feedback.ledger import Ledger
from feedback.link import Link
from feedback.turn_rows import TURN_TTL_S, TurnWriter
from tests.feedback.makers import TENANT, make_turn
from tests.serve.publish import LINE
from tests.services import free_port


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[Link]:
    link = Link(redis_url, timeout_s=0.3)
    yield link
    await link.close()


async def test_turns_written_by_a_loop_are_what_the_ledger_reads(redis_url: str, link: Link) -> None:
    writer, ledger = TurnWriter(link, LINE), Ledger(connect(redis_url), LINE)
    ann = UserId("ann")
    turns = [make_turn(user=ann, session="s", at=1000.5), make_turn(at=1001.25), make_turn(tenant=TenantId("other"))]
    await writer.append(turns)
    await writer.append(turns[:1])
    assert ledger.turns([turn.id for turn in turns]) == {turn.id: turn for turn in turns}
    assert [turn.id for turn in ledger.turns_of(TENANT)] == [turns[1].id, turns[0].id]
    assert ledger.turns_of(TENANT, user=ann) == ledger.turns_of(TENANT, session="s") == turns[:1]
    assert ledger.turns_of(TenantId("other")) == turns[2:]


async def test_an_index_forgets_what_is_older_than_a_turn_is_kept(redis_url: str, link: Link) -> None:
    writer, ledger = TurnWriter(link, LINE), Ledger(connect(redis_url), LINE)
    old, new = make_turn(at=1000.0), make_turn(at=1001.0 + TURN_TTL_S)
    await writer.append([old])
    await writer.append([new])
    assert ledger.turns_of(TENANT) == [new]


async def test_a_script_that_redis_has_forgotten_is_brought_again(redis_url: str, link: Link) -> None:
    writer, client = TurnWriter(link, LINE), connect(redis_url)
    for _ in range(2):
        client.script_flush()
        await writer.append([turn := make_turn()])
        assert Ledger(client, LINE).turn(turn.id) == turn


async def test_a_broken_connection_is_made_again_and_the_call_repeated(redis_url: str, link: Link) -> None:
    assert await link.call("PING") == "PONG"
    connect(redis_url).client_kill_filter(_type="normal", skipme=True)
    assert await link.call("PING") == "PONG"


async def test_a_late_answer_is_no_other_calls_answer(link: Link) -> None:
    with pytest.raises(LedgerUnavailable):
        await link.call("BLPOP", "nothing", 1)
    assert await link.call("ECHO", "mine") == "mine"
    waiting = asyncio.create_task(link.call("BLPOP", "nothing", 1))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await link.call("ECHO", "mine again") == "mine again"


async def test_calls_at_the_same_time_get_their_own_answers(link: Link) -> None:
    said = [str(number) for number in range(50)]
    assert await asyncio.gather(*(link.call("ECHO", each) for each in said)) == said


async def test_a_redis_that_is_away_is_the_ledgers_error() -> None:
    link = Link(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(LedgerUnavailable):
        await link.call("PING")
