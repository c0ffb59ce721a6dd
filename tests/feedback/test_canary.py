"""What becomes of a canary: tables, its promises under equal traffic, and whose sessions it answers."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from feedback.canary import CanaryRules, Decision, Tally, decide, on_canary_side, tripwires
from feedback.sequential import log_e_value
from feedback.traffic import (
    LAST_BUCKET,
    Interval,
    Traffic,
    bucket_edge_s,
    compare_rates,
    latency_bucket,
    median_first_token_s,
    rate,
)

RULES = CanaryRules()
NONE = Traffic()
DAY_S = 86_400.0
COUNTS = st.integers(0, 2000)


def make_traffic(requests: int = 500, first_token_s: float = 0.2, **counts: int) -> Traffic:
    return Traffic(requests=requests, first_tokens={latency_bucket(first_token_s): requests}, **counts)


def asked(
    tally: Tally | None = None, canary: Traffic = NONE, live: Traffic = NONE, age_s: float = 0.0, **rules: Any
) -> Decision:
    return decide(RULES.model_copy(update=rules), tally or Tally(), canary, live, age_s)


@pytest.mark.parametrize(
    ("votes", "rules", "age_s", "kind", "words"),
    [
        ({}, {}, 0, "wait", "no decisive vote has come (0 ties and 0 both bad aside): not enough to tell"),
        ({"losses": 1, "ties": 1}, {}, 0, "wait", "won 0 of 1 decisive vote (1 tie and 0 both bad aside), so between"),
        ({"wins": 24, "losses": 16}, {}, 0, "wait", "won 24 of 40 decisive votes"),
        ({"wins": 80, "losses": 40}, {}, 0, "promote", "people prefer the canary"),
        ({"wins": 40, "losses": 80}, {}, 0, "withdraw", "people prefer the live version"),
        ({"wins": 15}, {}, 0, "wait", "enough to tell, but 20 decisive votes are the least"),
        ({"wins": 15, "ties": 50}, {}, 0, "wait", "50 ties"),
        ({"wins": 15}, {"least_votes": 15}, 0, "promote", "won 15 of 15"),
        ({"losses": 15}, {}, 0, "withdraw", "won 0 of 15"),
        ({"wins": 500, "losses": 499}, {}, 0, "wait", "not enough"),
        ({"wins": 500, "losses": 500}, {}, 0, "inconclusive", "no winner after 1000 votes, 1000 are the most"),
        ({"wins": 5, "losses": 5, "ties": 600, "both_bad": 390}, {}, 0, "inconclusive", "1000 votes"),
        ({"wins": 580, "losses": 420}, {}, 0, "promote", "won 580 of 1000"),
        ({"wins": 5}, {}, 13.9 * DAY_S, "wait", "not enough"),
        ({"wins": 5}, {}, 14 * DAY_S, "inconclusive", "no winner after 14.0 days, 14 are the most"),
        ({"wins": 15}, {}, 15 * DAY_S, "inconclusive", "15.0 days"),
        ({"wins": 40, "losses": 80}, {}, 15 * DAY_S, "withdraw", "won 40 of 120"),
    ],
)
def test_votes_and_limits_decide_and_the_reason_has_the_numbers(
    votes: dict[str, int], rules: dict[str, Any], age_s: float, kind: str, words: str
) -> None:
    decision = asked(Tally(**votes), age_s=age_s, **rules)
    assert decision.kind == kind
    assert words in decision.reason
    assert decision.fired == ()


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_ties_are_reported_and_move_neither_the_evidence_nor_its_bounds(
    wins: int, losses: int, ties: int, both_bad: int
) -> None:
    without, mixed = Tally(wins=wins, losses=losses), Tally(wins=wins, losses=losses, ties=ties, both_bad=both_bad)
    one, other = asked(without).numbers["votes"], asked(mixed).numbers["votes"]
    for name in ("log_e_better", "log_e_worse", "lower", "upper", "win_share", "decisive"):
        assert one[name] == other[name]
    assert (other["ties"], other["both_bad"]) == (ties, both_bad)
    assert f"({ties} {'tie' if ties == 1 else 'ties'} and {both_bad} both bad aside)" in asked(mixed).reason


def test_the_score_counts_ties_as_halves_and_decides_nothing() -> None:
    assert Tally(wins=6, losses=2, ties=1, both_bad=1).score_with_ties_as_halves == 0.7
    assert Tally().score_with_ties_as_halves is None
    # All of many votes: the score goes to one half, the decision stays.
    assert asked(Tally(wins=80, losses=40, ties=800)).kind == "promote"


@pytest.mark.parametrize(
    ("canary", "live", "rules", "fired", "words"),
    [
        ({"errors": 100}, {"errors": 5}, {}, ("errors",), "its share of errors is 20.0% and above"),
        ({"empty": 100}, {}, {}, ("empty",), "its share of empty answers is 20.0%"),
        ({"refusals": 100}, {}, {}, ("refusals",), "its share of refusals is 20.0%"),
        ({"errors": 100, "empty": 100}, {}, {}, ("errors", "empty"), "; its share of empty answers"),
        ({"errors": 100}, {"errors": 100}, {}, (), ""),
        ({"errors": 40}, {"errors": 5}, {}, (), ""),
        ({"errors": 100}, {"errors": 5}, {"error_rate": 0.2}, (), ""),
        ({"requests": 49, "errors": 49}, {}, {}, (), ""),
        ({"requests": 50, "errors": 50}, {}, {}, ("errors",), "100.0%"),
        ({"requests": 49, "errors": 49}, {}, {"least_requests": 49}, ("errors",), "100.0%"),
        ({"errors": 400}, {"requests": 0}, {}, (), ""),
        ({"first_token_s": 0.6}, {}, {}, ("first_token",), "its median time to the first token is above 0.5"),
        ({"first_token_s": 0.6}, {}, {"first_token_ratio": 3.0}, (), ""),
        ({"first_token_s": 0.39}, {}, {}, (), ""),
        ({"first_token_s": 0.1}, {}, {}, (), ""),
        ({"first_token_s": 2000.0}, {}, {}, ("first_token",), "above 891.251 s"),
        ({"first_token_s": 2000.0}, {"first_token_s": 2000.0}, {}, (), ""),
        ({"requests": 60, "first_token_s": 0.6}, {"requests": 3}, {}, (), ""),
    ],
)
def test_a_tripwire_withdraws_where_the_canary_is_worse_beyond_its_limit_and_beyond_chance(
    canary: dict[str, Any], live: dict[str, Any], rules: dict[str, Any], fired: tuple[str, ...], words: str
) -> None:
    decision = asked(canary=make_traffic(**canary), live=make_traffic(**live), **rules)
    assert decision.fired == fired
    assert decision.kind == ("withdraw" if fired else "wait")
    assert words in decision.reason


def test_a_tripwire_goes_before_votes() -> None:
    decision = asked(Tally(wins=80, losses=40), make_traffic(errors=100), make_traffic(errors=5))
    assert decision.kind == "withdraw"
    assert decision.fired == ("errors",)
    assert decision.numbers["votes"]["lower"] > 0.5


def test_the_numbers_are_json_for_the_audit_trail() -> None:
    for canary, live in [(NONE, NONE), (make_traffic(errors=100), make_traffic(first_token_s=5000.0))]:
        numbers = asked(Tally(wins=80, losses=40, ties=7), canary, live, age_s=60.0).numbers
        assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
        assert numbers["votes"]["log_e_better"] > numbers["votes"]["log_e_needed"] == round(math.log(20), 6)
        assert set(numbers["tripwires"]) == {"errors", "empty", "refusals", "first_token"}
        assert numbers["rules"]["when_inconclusive"] == "retire"
        assert numbers["age_s"] == 60.0


def test_a_count_that_is_ahead_of_its_requests_for_a_moment_is_a_rate_of_one() -> None:
    assert rate(3, 2, 0.05).value == 1.0
    assert rate(0, 0, 0.05) == Interval(None, 0.0, 1.0)


@given(st.floats(0.0001, 5000))
def test_a_time_falls_into_the_bucket_whose_edge_is_the_first_it_keeps_to(first_token_s: float) -> None:
    bucket = latency_bucket(first_token_s)
    assert first_token_s <= bucket_edge_s(bucket) * (1 + 1e-9)
    assert bucket == 0 or first_token_s > bucket_edge_s(bucket - 1) * (1 - 1e-9)


@given(st.lists(st.integers(0, LAST_BUCKET), min_size=1, max_size=300))
def test_the_median_and_its_bounds_are_those_found_by_trying_every_edge(buckets: list[int]) -> None:
    counts = {bucket: buckets.count(bucket) for bucket in buckets}
    edges = [(bucket_edge_s(b), sum(each <= b for each in buckets)) for b in range(LAST_BUCKET)]
    needed, total = math.log(20), len(buckets)
    found = median_first_token_s(Traffic(first_tokens=counts), 0.05)
    above = [edge for edge, up_to in edges if log_e_value(up_to, total - up_to, 0.5) >= needed]
    below = [edge for edge, up_to in edges if log_e_value(total - up_to, up_to, 0.5) >= needed]
    assert (found.lower, found.upper) == (max(below, default=0.0), min(above, default=math.inf))
    assert found.value == min((edge for edge, up_to in edges if 2 * up_to >= total), default=math.inf)
    assert found.value is not None
    assert found.lower < found.value <= found.upper


def first_looks(hits: np.ndarray[Any, Any], every: int) -> np.ndarray[Any, Any]:
    return np.cumsum(hits, axis=1)[:, every - 1 :: every]


def test_equal_traffic_trips_at_most_as_often_as_promised_even_with_nothing_allowed() -> None:
    runs, requests, every = 80, 1600, 100
    draw = np.random.default_rng(3)
    allowed = {"error_rate": 0.0, "empty_rate": 0.0, "refusal_rate": 0.0, "first_token_ratio": 1.0}
    rules = RULES.model_copy(update={**allowed, "alpha": 0.2, "least_requests": 1})
    counts = {
        name: first_looks(draw.random((2 * runs, requests)) < chance, every)
        for name, chance in {"errors": 0.02, "empty": 0.1, "refusals": 0.3}.items()
    }
    times_s = np.exp(draw.normal(-1.5, 0.6, (2 * runs, requests)))
    buckets = np.ceil(20 * np.log10(times_s * 1000)).astype(int)
    fired = single = 0
    for run in range(runs):
        trips = looked_once = False
        for look in range(requests // every):
            sides = [
                Traffic(
                    requests=(look + 1) * every,
                    first_tokens=dict(enumerate(np.bincount(buckets[row, : (look + 1) * every]).tolist())),
                    **{name: int(column[row, look]) for name, column in counts.items()},
                )
                for row in (run, runs + run)
            ]
            trips |= any(wire.fires for wire in tripwires(rules, *sides).values())
            refusals = [side.refusals for side in sides]
            n = sides[0].requests
            looked_once |= (refusals[0] - refusals[1]) / math.sqrt(2 * n * 0.3 * 0.7) > 1.2816
        fired += trips
        single += looked_once
    assert stats.binomtest(fired, runs, rules.alpha, alternative="greater").pvalue > 0.001
    # The same looks with a test made for one (at 10 %) would trip far more often, so the promise can be broken here.
    assert single > 2 * 0.1 * runs


def test_a_canary_that_fails_often_is_seen_within_few_requests() -> None:
    draw = np.random.default_rng(8)
    needed = []
    for _ in range(20):
        errors = np.cumsum(draw.random(2000) < 0.25)
        live = rate(40, 4000, RULES.alpha / 8)
        seen = (
            n for n in range(1, 2000) if compare_rates(rate(int(errors[n]), n + 1, RULES.alpha / 8), live, 0.05).fires
        )
        needed.append(next(seen))
    assert np.median(needed) < 150


def test_a_session_keeps_its_side_and_every_canary_draws_anew() -> None:
    sessions = [f"s{i}" for i in range(20_000)]
    first = [on_canary_side(each, "v0007-3f9a12c04b1e", 0.1) for each in sessions]
    second = [on_canary_side(each, "v0008-0123456789ab", 0.1) for each in sessions]
    assert first == [on_canary_side(each, "v0007-3f9a12c04b1e", 0.1) for each in sessions]
    assert sum(first) == pytest.approx(2000, abs=200)
    assert sum(a and b for a, b in zip(first, second, strict=True)) == pytest.approx(200, abs=70)
    assert not any(on_canary_side(each, "v0007", 0.0) for each in sessions)
    wider = [on_canary_side(each, "v0007-3f9a12c04b1e", 0.3) for each in sessions]
    assert all(b for a, b in zip(first, wider, strict=True) if a)


def test_the_side_of_a_session_is_the_one_worked_out_by_hand() -> None:
    # sha256("s1\0v0007") begins with the hex below: that part of 2^64 is the session's place between 0 and 1.
    place = int("26cda6eef0c56fd0", 16) / 2**64
    assert on_canary_side("s1", "v0007", place + 0.001)
    assert not on_canary_side("s1", "v0007", place - 0.001)


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 0.6},
        {"share": -0.1},
        {"duel_share": 1.1},
        {"alpha": 0.0},
        {"alpha": 0.3},
        {"most_days": 0},
        {"first_token_ratio": 0.9},
        {"when_inconclusive": "promote"},
        {"least_votes": 50, "most_votes": 49},
        {"shares": 0.1},
    ],
)
def test_rules_out_of_their_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CanaryRules(**wrong)


def test_every_rule_says_what_it_means() -> None:
    assert all(field.description for field in CanaryRules.model_fields.values())
