"""Duels in the ledger and what their votes come to, on a real Redis; and who may decide on a canary."""

import time
from collections.abc import Callable

import pytest

from feedback.canary import Tally
from feedback.connection import connect
from feedback.duels import Duel, DuelRows, tally
from feedback.events import Source
from feedback.ids import LineName, TurnId, Version
from feedback.lease import Lease
from feedback.ledger import Ledger, Speaker
from feedback.traffic import Traffic
from feedback.traffic_rows import TrafficRows
from tests.feedback.makers import comparison, make_turn
from tests.services import wait_until

LINE = LineName("burnish")
LIVE, CANARY = Version("v0001-aaaaaaaaaaaa"), Version("v0002-bbbbbbbbbbbb")
Vote = Callable[..., TurnId]


@pytest.fixture
def ledger(redis_url: str) -> Ledger:
    return Ledger(connect(redis_url), LINE)


@pytest.fixture
def rows(redis_url: str, ledger: Ledger) -> DuelRows:
    return DuelRows(connect(redis_url), LINE, ledger)


def opened(ledger: Ledger, rows: DuelRows, number: int, first: Version) -> Duel:
    """A duel whose two answers are recorded."""
    duel = Duel(turn=TurnId(f"chatcmpl-{number}"), at=time.time() + number, live=LIVE, canary=CANARY, first=first)
    rows.open(duel)
    ledger.append_turns([make_turn(id=turn, answer=turn, duel=True) for turn in duel.turns])
    return duel


def say(ledger: Ledger, duel: Duel, verdict: str, **more: object) -> None:
    said = comparison(*duel.turns, verdict=verdict, **more)
    ledger.append_event(said, Speaker(make_turn().tenant))


def test_a_verdict_counts_for_the_side_that_the_canary_stood_on(ledger: Ledger, rows: DuelRows) -> None:
    said = [(CANARY, "first"), (LIVE, "first"), (LIVE, "second"), (CANARY, "tie"), (LIVE, "both_bad")]
    for number, (first, verdict) in enumerate(said):
        say(ledger, opened(ledger, rows, number, first), verdict)
    opened(ledger, rows, 99, LIVE)
    assert tally(rows.votes(CANARY)) == Tally(wins=2, losses=1, ties=1, both_bad=1)
    assert rows.votes(LIVE) == []


def test_turns_named_the_other_way_round_mean_the_same(ledger: Ledger, rows: DuelRows) -> None:
    duel = opened(ledger, rows, 1, CANARY)
    ledger.append_event(comparison(*duel.turns[::-1], verdict="second"), Speaker(make_turn().tenant))
    assert tally(rows.votes(CANARY)) == Tally(wins=1)


def test_the_first_human_word_on_a_duel_is_the_one_that_counts(ledger: Ledger, rows: DuelRows) -> None:
    duel = opened(ledger, rows, 1, CANARY)
    assert rows.undecided(duel.turns) == set(duel.turns)
    say(ledger, duel, "second", source=Source.judge)
    assert rows.undecided(duel.turns) == set(duel.turns)
    say(ledger, duel, "first", source=Source.simulated)
    say(ledger, duel, "second", source=Source.simulated)
    assert tally(rows.votes(CANARY)) == Tally(wins=1)
    assert rows.undecided([*duel.turns, TurnId("chatcmpl-of-no-duel")]) == set()


def test_a_comparison_with_another_answer_is_no_vote_on_the_duel(ledger: Ledger, rows: DuelRows) -> None:
    duel = opened(ledger, rows, 1, CANARY)
    again = make_turn(id="chatcmpl-again", answer="again")
    ledger.append_turns([again])
    ledger.append_event(comparison(duel.turn, again.id), Speaker(again.tenant))
    assert rows.votes(CANARY) == []


def test_entering_a_duel_again_changes_nothing(ledger: Ledger, rows: DuelRows) -> None:
    duel = opened(ledger, rows, 1, CANARY)
    say(ledger, duel, "first")
    rows.open(duel)
    assert tally(rows.votes(CANARY)) == Tally(wins=1)


def test_what_several_gateways_counted_is_added_up_and_each_says_it_anew(redis_url: str) -> None:
    rows = TrafficRows(connect(redis_url), LINE)
    rows.put(CANARY, "one", {CANARY: Traffic(requests=2, errors=1, first_tokens={7: 2}), LIVE: Traffic(requests=9)})
    rows.put(CANARY, "two", {CANARY: Traffic(requests=3, refusals=1, first_tokens={7: 1, 8: 1})})
    rows.put(CANARY, "one", {CANARY: Traffic(requests=4, errors=1, first_tokens={7: 3})})
    rows.put(CANARY, "three", {})
    assert rows.of(CANARY) == {
        CANARY: Traffic(requests=7, errors=1, refusals=1, first_tokens={7: 4, 8: 1}),
        LIVE: Traffic(requests=9),
    }
    assert rows.of(LIVE) == {}


def test_one_at_a_time_holds_a_lease_and_another_takes_it_over(redis_url: str) -> None:
    redis = connect(redis_url)
    one, two = (Lease(redis, "burnish:test:lease", holder=name, ttl_s=1) for name in ("one", "two"))
    assert one.held()
    assert not two.held()
    assert one.held()
    wait_until(two.held, within_s=5, what="a lease that nobody asks for ends")
    assert not one.held()
