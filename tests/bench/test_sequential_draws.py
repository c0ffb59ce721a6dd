"""The benchmark of the sequential test decides as the gateway would, vote by vote."""

import numpy as np

from feedback.canary import CanaryRules, Tally, decide
from feedback.traffic import Traffic
from tests.bench.sequential import LOSS, TIE, WIN, Crowd, Draw, borders, coin_votes, follow, measure

RULES = CanaryRules(most_votes=120, least_votes=20)


def by_hand(row: list[int]) -> tuple[str, int]:
    """How one run ends, and after how many decisive votes, asking `decide` after every vote."""
    wins = losses = ties = 0
    for vote in row:
        wins, losses, ties = wins + (vote == WIN), losses + (vote == LOSS), ties + (vote == TIE)
        kind = decide(RULES, Tally(wins=wins, losses=losses, ties=ties), Traffic(), Traffic(), 0.0).kind
        if kind != "wait":
            break
    return kind, wins + losses


def test_following_many_runs_at_once_ends_each_as_asking_after_every_vote_does() -> None:
    draw = Draw(np.random.default_rng(1), runs=60, most_votes=RULES.most_votes)
    votes = np.concatenate([next(coin_votes(draw, win, tie=0.2)) for win in (0.3, 0.5, 0.75, 0.99)])
    ends = [by_hand(row) for row in votes.tolist()]
    found = follow(iter([votes]), borders(RULES))
    promoted = [n for kind, n in ends if kind == "promote"]
    assert found.runs == 240
    assert found.promoted == len(promoted) > 60
    assert found.withdrawn == sum(kind == "withdraw" for kind, _ in ends) > 10
    assert sorted(found.votes.tolist()) == sorted(promoted)
    assert min(promoted) == 20


def test_the_median_counts_runs_that_were_never_promoted_as_endless() -> None:
    always, never = np.full((1, 50), WIN, np.uint8), np.full((1, 50), TIE, np.uint8)
    border = borders(RULES)
    assert follow(iter([always, always, never]), border).median_votes == 20
    assert follow(iter([always, never, never]), border).median_votes is None


def test_answers_asked_anew_favour_the_version_that_gives_the_second_one() -> None:
    draw = Draw(np.random.default_rng(2), runs=20, most_votes=1000)
    kinds = (*Crowd().duels(draw), *Crowd().regenerations(draw, 0.1), *Crowd().regenerations(draw, 0.9))
    shares = [(votes == WIN).sum() / (votes != TIE).sum() for votes in kinds]
    assert abs(shares[0] - 0.5) < 0.02
    assert shares[1] > 0.7
    assert shares[2] < 0.3


def test_every_share_has_its_interval_about_it() -> None:
    found = measure(RULES, runs=50, seed=3)
    assert {"wrong_promotions", "wrong_withdrawals", "median_votes_60", "power_60", "regenerate_wrong_promotions"} <= (
        set(found)
    )
    intervals = {name: bounds for name, bounds in found.items() if name.endswith("_interval")}
    assert len(intervals) == 15
    for name, (low, high) in intervals.items():
        assert low <= found[name.removesuffix("_interval")] <= high
