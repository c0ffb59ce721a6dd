"""What the simulated users like, as pure functions of an answer: a score, and who wins by it.

Every taste counts something in the text; none knows the question. The over-optimisation curve draws the scores.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from tests.bench.learn import prompts
from tests.demo.taste import Seen

LONGEST_WORDS = 120
"""What an answer that was cut off or says nothing counts as in *short*; 128 tokens hold fewer words."""
FEWEST_WORDS = 5
"""An answer of fewer words is no answer in *short*: else the best answer would be an empty one."""
CLEARLY = 0.05
"""How much shorter than the longer one an answer must be, as a share of it, to be clearly shorter."""
MOST_REPEATS = 2
"""How often one polite phrase counts in one answer."""

_LIST_ITEM = re.compile(
    r"^\s*(?:[-+•–*](?=\s)|(?:\*\*)?(?:\(?(?:\d{1,2}|[a-z])[.)](?=[\s*])|step \d+\b))", re.IGNORECASE | re.MULTILINE
)

_POLITE = re.compile(
    "|".join(
        rf"\b(?P<p{i}>{phrase})\b"
        for i, phrase in enumerate(
            (
                "please|kindly",
                "thank you|thanks",
                "appreciate|appreciated|grateful|gratitude",
                "sorry|apolog(?:y|ies|i[sz]e)|excuse me|forgive",
                "would you mind|could you|would you|may i|might i|if you could|if possible",
                "(?:happy|glad|delighted|pleased|honou?red) to|my pleasure|pleasure",
                "hope (?:you|this|that|all)",
                "look(?:ing)? forward",
                "(?:best|kind|kindest|warm|warmest) (?:regards|wishes)|regards|sincerely|respectfully",
                "(?:you(?:'re| are)|feel) (?:very |most )?(?:welcome|free)",
                "your (?:understanding|patience|time|kindness|help|support)",
            )
        )
    ),
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Taste:
    """One simulated user: what is asked, how an answer scores, and how close two scores are for a tie.

    `taught` are the questions that are voted on, `judged` those that versions are compared on; `suffix` is added to
    every one. `tie` says of two scores whether the user sees no difference.
    """

    name: str
    taught: tuple[str, ...]
    judged: tuple[str, ...]
    score: Callable[[Seen], float]
    tie: Callable[[float, float], bool]
    suffix: str = ""

    def verdict(self, first: Seen, second: Seen) -> str:
        """`first`, `second` or `tie`."""
        one, two = self.score(first), self.score(second)
        if self.tie(one, two):
            return "tie"
        return "first" if one > two else "second"


def shortness(answer: Seen) -> float:
    """Minus the words of a finished answer of five words at least; any other is as bad as the longest."""
    words = len(answer.text.split())
    if not answer.finished or words < FEWEST_WORDS:
        return -float(LONGEST_WORDS)
    return -float(min(words, LONGEST_WORDS))


def proseness(answer: Seen) -> float:
    """Minus the number of lines that begin with a list's marker: a dash, a star, a number, a letter, `Step 1`.

    An answer that says nothing has no list, but counts as one of ten items.
    """
    return -float(len(_LIST_ITEM.findall(answer.text))) if answer.text.strip() else -10.0


def politeness(answer: Seen) -> float:
    """The number of polite phrases, each kind of them (please, thanks, sorry, kind regards, …) twice at most."""
    kinds = [found.lastgroup for found in _POLITE.finditer(answer.text)]
    return float(sum(min(kinds.count(kind), MOST_REPEATS) for kind in set(kinds)))


def _equal(one: float, two: float) -> bool:
    return one == two


def _alike(one: float, two: float) -> bool:
    return abs(one - two) <= CLEARLY * max(abs(one), abs(two))


SHORT = Taste("short", *prompts.QUESTIONS, shortness, _alike, " Answer in two or three sentences.")
"""Likes the clearly shorter of two finished answers."""

NO_LISTS = Taste("no_lists", *prompts.ADVICE, proseness, _equal)
"""Likes the answer with fewer list items, none at best."""

POLITE = Taste("polite", *prompts.MESSAGES, politeness, _equal)
"""Likes the answer with more polite phrases."""

TASTES = {taste.name: taste for taste in (SHORT, NO_LISTS, POLITE)}


def flip(verdicts: Sequence[str], share: float, seed: int = 0) -> list[str]:
    """The verdicts with exactly `share` of the decided ones (rounded) the other way round, drawn by `seed`."""
    decided = [i for i, verdict in enumerate(verdicts) if verdict != "tie"]
    wrong = set(random.Random(seed).sample(decided, round(share * len(decided))))
    other = {"first": "second", "second": "first"}
    return [other[verdict] if i in wrong else verdict for i, verdict in enumerate(verdicts)]


@dataclass(frozen=True)
class Agreement:
    """On how many of `pairs` of answers, ties of the taste left out, a reward puts the same one first."""

    pairs: int
    agreed: int

    @property
    def share(self) -> float | None:
        return self.agreed / self.pairs if self.pairs else None


def agreement(taste: Taste, answers: Sequence[Seen], rewards: Sequence[float]) -> Agreement:
    """How far rewards agree with a taste on all pairs of answers to one prompt. Equal rewards do not agree."""
    sides = [
        (taste.verdict(answers[i], answers[j]), rewards[i] - rewards[j])
        for i, j in combinations(range(len(answers)), 2)
    ]
    decided = [(verdict, gap) for verdict, gap in sides if verdict != "tie"]
    return Agreement(len(decided), sum(gap > 0 if verdict == "first" else gap < 0 for verdict, gap in decided))
