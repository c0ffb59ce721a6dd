"""Two answers to one message, side by side and blind: which stands where, and what a choice means. Pure."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from feedback.events import Comparison, Shown, Verdict
from ui.chat.conversations import Turn

Draw = Callable[[], bool]
"""Whether the older answer stands left; drawn anew for every pair shown but a duel's, whose order the gateway drew."""


class Choice(StrEnum):
    """What a person may say of the two, as it is on screen."""

    left = "left"
    right = "right"
    tie = "tie"
    both_bad = "both_bad"


@dataclass(frozen=True)
class Showing:
    """A pair on screen. The browser learns the texts and the sides, never the ids or which answer is the newer.

    Of a duel `older` is the first answer, although both were written at once.
    """

    older: Turn
    newer: Turn
    older_left: bool

    @property
    def is_duel(self) -> bool:
        return self.newer.duel

    @property
    def left(self) -> Turn:
        return self.older if self.older_left else self.newer

    @property
    def right(self) -> Turn:
        return self.newer if self.older_left else self.older


def draw_side() -> bool:
    return secrets.randbelow(2) == 0


def verdict_of(showing: Showing, choice: Choice) -> Verdict:
    """The verdict on (older, newer), in that order."""
    if choice is Choice.tie:
        return Verdict.tie
    if choice is Choice.both_bad:
        return Verdict.both_bad
    return Verdict.first if (choice is Choice.left) == showing.older_left else Verdict.second


def comparison(showing: Showing, choice: Choice, *, user: str, ms: int) -> Comparison:
    """The statement to send; `ms` is how long both answers were on screen, whole."""
    mode: Literal["at_once", "regenerate"] = "at_once" if showing.is_duel else "regenerate"
    return Comparison(
        kind="comparison",
        user=user,
        turn_ids=(showing.older.id, showing.newer.id),
        verdict=verdict_of(showing, choice),
        shown=Shown(left=showing.left.id, mode=mode, ms=min(max(ms, 0), 7 * 24 * 3600 * 1000)),
    )
