"""Sides and verdicts: what a click on a side means for the older and the newer answer."""

import pytest

from feedback.events import Verdict
from tests.ui.makers import make_turn
from ui.chat.compare import Choice, Showing, comparison, draw_side, verdict_of

OLDER, NEWER = make_turn("old", "Hi", answer="One."), make_turn("new", "Hi", answer="Two.", compare_with="old")


@pytest.mark.parametrize(
    ("older_left", "choice", "verdict"),
    [
        (True, Choice.left, Verdict.first),
        (True, Choice.right, Verdict.second),
        (False, Choice.left, Verdict.second),
        (False, Choice.right, Verdict.first),
        (True, Choice.tie, Verdict.tie),
        (False, Choice.both_bad, Verdict.both_bad),
    ],
)
def test_a_choice_of_a_side_is_a_verdict_on_older_and_newer(older_left: bool, choice: Choice, verdict: Verdict) -> None:
    assert verdict_of(Showing(OLDER, NEWER, older_left), choice) is verdict


@pytest.mark.parametrize(("older_left", "left"), [(True, "old"), (False, "new")])
def test_the_statement_says_what_stood_left_and_for_how_long(older_left: bool, left: str) -> None:
    said = comparison(Showing(OLDER, NEWER, older_left), Choice.left, user="me", ms=1234)
    assert said.turn_ids == ("old", "new")
    assert said.shown is not None
    assert (said.shown.left, said.shown.mode, said.shown.ms) == (left, "regenerate", 1234)
    assert said.user == "me"


def test_of_a_duel_the_statement_says_that_both_came_at_once() -> None:
    pair = [make_turn("x", "Hi", duel=True), make_turn("x.1", "Hi", answer="Two.", compare_with="x", duel=True)]
    said = comparison(Showing(pair[0], pair[1], older_left=True), Choice.right, user="me", ms=5)
    assert (said.turn_ids, said.verdict) == (("x", "x.1"), Verdict.second)
    assert said.shown is not None
    assert (said.shown.left, said.shown.mode) == ("x", "at_once")


def test_both_sides_are_drawn() -> None:
    assert {draw_side() for _ in range(64)} == {True, False}
