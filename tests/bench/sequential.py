"""`make bench-sequential`: how often the sequential test promotes, withdraws and finds. Ends with one JSON line.

Drawn votes are looked at one after another by the rules that a canary has in service. Votes of one made-up crowd are
drawn twice: from blind duels, and from the answers that they asked anew because the first was bad.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from feedback.canary import CanaryRules, DecisionKind, Tally, decide
from feedback.traffic import Traffic

Votes = NDArray[np.uint8]
"""A run to a row, its votes in order: WIN, LOSS or TIE as the canary's."""

WIN, LOSS, TIE = range(3)
CHUNK = 1000


@dataclass(frozen=True)
class Borders:
    """By decisive votes so far: the fewest wins that promote, and the most that withdraw."""

    promote: NDArray[np.int64]
    withdraw: NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """How many of the runs ended which way, and the decisive votes it took those that were promoted."""

    runs: int
    promoted: int
    withdrawn: int
    votes: NDArray[np.int64]

    def told(self, name: str) -> dict[str, Any]:
        """The shares with exact (Clopper-Pearson) 95 % intervals, as `NAME_promotions` and `NAME_withdrawals`."""
        rows: dict[str, Any] = {}
        for word, count in (("promotions", self.promoted), ("withdrawals", self.withdrawn)):
            interval = stats.binomtest(count, self.runs).proportion_ci(0.95, "exact")
            rows[f"{name}_{word}"] = round(count / self.runs, 4)
            rows[f"{name}_{word}_interval"] = [round(float(interval.low), 4), round(float(interval.high), 4)]
        return rows

    @property
    def median_votes(self) -> int | None:
        """The decisive votes within which half of all runs were promoted; None if fewer ever were."""
        middle = (self.runs + 1) // 2
        return int(np.sort(self.votes)[middle - 1]) if self.promoted >= middle else None


def borders(rules: CanaryRules) -> Borders:
    """Where `decide` promotes and withdraws, found by asking it: more wins never speak against a canary."""
    votes = rules.most_votes

    def kind(wins: int, n: int) -> DecisionKind:
        return decide(rules, Tally(wins=wins, losses=n - wins), Traffic(), Traffic(), 0.0).kind

    promote, withdraw = np.zeros(votes + 1, int), np.zeros(votes + 1, int)
    fewest, most = 0, -1
    for n in range(votes + 1):
        fewest = fewest if n > rules.least_votes else 0  # until then nothing promotes
        while fewest <= n and kind(fewest, n) != "promote":
            fewest += 1
        while most + 1 <= n and kind(most + 1, n) == "withdraw":
            most += 1
        promote[n], withdraw[n] = fewest, most
    return Borders(promote, withdraw)


def follow(chunks: Iterator[Votes], border: Borders) -> Outcome:
    """Looks after every vote of every run until it is decided, or until its votes are at an end."""
    runs = promoted = withdrawn = 0
    needed: list[NDArray[np.int64]] = []
    for votes in chunks:
        wins = np.cumsum(votes == WIN, axis=1)
        decisive = np.cumsum(votes != TIE, axis=1)
        up, down = wins >= border.promote[decisive], wins <= border.withdraw[decisive]
        never = votes.shape[1]
        first_up = np.where(up.any(axis=1), up.argmax(axis=1), never)
        first_down = np.where(down.any(axis=1), down.argmax(axis=1), never)
        risen = first_up < first_down
        runs, promoted = runs + len(votes), promoted + int(risen.sum())
        withdrawn += int((first_down < first_up).sum())
        needed.append(decisive[risen, first_up[risen]])
    return Outcome(runs, promoted, withdrawn, np.concatenate(needed))


@dataclass(frozen=True)
class Draw:
    """Where the numbers come from, how many runs there are and how many votes each may have."""

    random: np.random.Generator
    runs: int
    most_votes: int

    def sizes(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self.runs, CHUNK):
            yield min(CHUNK, self.runs - start), self.most_votes


def coin_votes(draw: Draw, win: float, tie: float = 0.0) -> Iterator[Votes]:
    """Votes of which a share `tie` are ties, and a share `win` of the others are the canary's."""
    for size in draw.sizes():
        votes = np.where(draw.random.random(size) < win, WIN, LOSS)
        yield np.where(draw.random.random(size) < tie, TIE, votes).astype(np.uint8)


@dataclass(frozen=True)
class Crowd:
    """People, and what the two versions give them: answers of a quality drawn from a normal distribution about 0.

    `spread_live` and `spread_canary` are its deviations, so that either version's answer is as likely to be the better
    one. People see qualities with an error of deviation `blur`, and call answers within `alike` of each other the same.
    Whoever sees an answer asks for another with the chance 1 / (1 + exp(3 (quality + 1))): at 0 in one of 21 cases, at
    -1 in every other, at -2 in 19 of 20.
    """

    spread_live: float = 1.0
    spread_canary: float = 1.0
    blur: float = 0.5
    alike: float = 0.3

    def duels(self, draw: Draw) -> Iterator[Votes]:
        """Votes on prompts that were drawn before anything was seen."""
        for size in draw.sizes():
            live = draw.random.normal(0, self.spread_live, size)
            canary = draw.random.normal(0, self.spread_canary, size)
            yield self._votes(draw, canary - live)

    def regenerations(self, draw: Draw, canary_first: float) -> Iterator[Votes]:
        """Votes on an answer and the one asked for in its place, from the other version.

        In a share `canary_first` of all prompts it is the canary that answers first.
        """
        for rows, columns in draw.sizes():
            difference = np.empty(0)
            while len(difference) < rows * columns:
                starts = draw.random.random(rows * columns) < canary_first
                live = draw.random.normal(0, self.spread_live, len(starts))
                canary = draw.random.normal(0, self.spread_canary, len(starts))
                first = np.where(starts, canary, live) + draw.random.normal(0, self.blur, len(starts))
                again = draw.random.random(len(starts)) < 1 / (1 + np.exp(3 * (first + 1)))
                difference = np.concatenate([difference, (canary - live)[again]])
            yield self._votes(draw, difference[: rows * columns].reshape(rows, columns))

    def _votes(self, draw: Draw, canary_is_better_by: NDArray[np.float64]) -> Votes:
        seen = canary_is_better_by + draw.random.normal(0, self.blur, canary_is_better_by.shape)
        return np.where(np.abs(seen) < self.alike, TIE, np.where(seen > 0, WIN, LOSS)).astype(np.uint8)


def measure(rules: CanaryRules, runs: int, seed: int) -> dict[str, Any]:
    """Every case under one set of rules; all cases are drawn from one seed, one after another."""
    border, draw = borders(rules), Draw(np.random.default_rng(seed), runs, rules.most_votes)
    equal, steady = Crowd(), Crowd(spread_canary=0.5)
    sixty = follow(coin_votes(draw, 0.6), border)
    sixty_ties = follow(coin_votes(draw, 0.6, tie=0.35), border)
    power = stats.binomtest(sixty.promoted, runs).proportion_ci(0.95, "exact")
    return {
        **follow(coin_votes(draw, 0.5), border).told("wrong"),
        **follow(coin_votes(draw, 0.5, tie=0.35), border).told("ties_wrong"),
        "median_votes_60": sixty.median_votes,
        "power_60": round(sixty.promoted / runs, 4),
        "power_60_interval": [round(float(power.low), 4), round(float(power.high), 4)],
        "ties_median_votes_60": sixty_ties.median_votes,
        "ties_power_60": round(sixty_ties.promoted / runs, 4),
        **follow(equal.duels(draw), border).told("blind_wrong"),
        **follow(equal.regenerations(draw, rules.share), border).told("regenerate_wrong"),
        **follow(equal.regenerations(draw, 0.5), border).told("regenerate_fair_wrong"),
        **follow(steady.duels(draw), border).told("steady_blind_wrong"),
        **follow(steady.regenerations(draw, 0.5), border).told("steady_regenerate_fair_wrong"),
    }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench-sequential", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="canaries drawn for each case (10000)")
    parser.add_argument("--seed", type=int, default=7, help="of the draws (7)")
    told = parser.parse_args(arguments)
    rules = CanaryRules()
    found = measure(rules, told.runs, told.seed)
    for name, value in found.items():
        if not name.endswith("_interval"):
            print(f"{name:42} {value!s:>8}  {found.get(f'{name}_interval', '')}", file=sys.stderr)
    about = {"runs": told.runs, "seed": told.seed, "most_votes": rules.most_votes, "alpha": rules.alpha}
    print(json.dumps({"bench": "sequential", **found, **about}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
