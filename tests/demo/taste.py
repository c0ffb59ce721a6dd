"""What the simulated user likes, in one sentence: a finished answer of about thirty words."""

from dataclasses import dataclass

WORDS = 30
"""The length the simulated user likes best."""


@dataclass(frozen=True)
class Seen:
    """An answer as the user sees it: its text, and whether it came to an end by itself."""

    text: str
    finished: bool


def distance(answer: Seen) -> int:
    """How far an answer is from the taste: words too many or too few; one cut off is further than any finished."""
    return abs(len(answer.text.split()) - WORDS) + (0 if answer.finished else 10_000)


def verdict(first: Seen, second: Seen) -> str:
    """`first`, `second`, or `tie` when both are equally far from the taste (two cut-off answers always are)."""
    if not first.finished and not second.finished:
        return "tie"
    one, two = distance(first), distance(second)
    return "tie" if one == two else "first" if one < two else "second"
