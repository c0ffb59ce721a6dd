"""What a statement teaches, as far as it says by itself, and how much of that a recipe learns from. Pure.

This is what the schedule counts by. What is held out or turns out to be unusable, only the job sees.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from feedback.events import OVERALL, Comparison, Edit, Rating, Statement, Verdict
from feedback.ids import Lesson
from feedback.scores import scored

PREFERRED = Lesson("preferred")
"""One of two answers is the better one."""
TIE = Lesson("tie")
BOTH_BAD = Lesson("both_bad")
EDIT = Lesson("edit")
LIKED = Lesson("liked")
DISLIKED = Lesson("disliked")

Counted = Literal["pairs", "thumbs", "demonstrations"]
"""What a recipe learns from, in the words that people read."""


def lesson_of(said: Statement) -> Lesson | None:
    """What a statement teaches; None for one that teaches nothing, as a score does alone (`scores.scored`)."""
    if isinstance(said, Comparison):
        return {Verdict.tie: TIE, Verdict.both_bad: BOTH_BAD}.get(said.verdict, PREFERRED)
    if isinstance(said, Rating):
        return LIKED if said.value == "up" else DISLIKED
    return EDIT if isinstance(said, Edit) else None


class LearnsFrom(BaseModel):
    """What a recipe learns from. `worth` is how many of the counted things one statement of a lesson makes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    counted: Counted
    worth: dict[Lesson, int]

    def total(self, standing: Mapping[Lesson, int]) -> int:
        """How many there are, of so many standing statements of each lesson."""
        return sum(worth * standing.get(lesson, 0) for lesson, worth in self.worth.items())


PAIRS = LearnsFrom(counted="pairs", worth={PREFERRED: 1, EDIT: 1, scored(OVERALL): 1})
"""What makes a pair in everybody's eyes, and what a recipe learns from that says nothing of it."""
