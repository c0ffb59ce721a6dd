"""Turns and words → the path on screen, on tables."""

from dataclasses import replace

import pytest

from feedback.events import Aspect, Verdict
from tests.ui.makers import asked, compared, edited, make_turn, rated, retracted
from ui.chat.conversations import (
    STOPPED,
    Message,
    Path,
    Said,
    Standing,
    Turn,
    conversations,
    path_of,
    standing,
    title_of,
    undo,
)

NONE: frozenset[str] = frozenset()
A = make_turn("a", "Hi", answer="Hello.")
B = make_turn("b", "Hi", answer="Good day.", compare_with="a")
C = make_turn("c", "Hi", "Hello.", "And then?", answer="Then this.")


def texts(path: Path) -> list[str]:
    return [message.text for message in path.messages]


def test_the_newest_turn_holds_the_conversation() -> None:
    path = path_of([A, C], NONE, Standing())
    assert texts(path) == ["Hi", "Hello.", "And then?", "Then this."]
    assert [step.turn and step.turn.id for step in path.steps] == [None, "a", None, "c"]
    assert path.tip == C


def test_no_turns_make_an_empty_path() -> None:
    assert path_of([], NONE, Standing()) == Path()
    assert path_of([A], frozenset("a"), Standing()) == Path()


def test_a_pair_without_a_verdict_is_open() -> None:
    path = path_of([A, B], NONE, Standing())
    assert path.pair == (A, B)
    assert texts(path) == ["Hi"]
    assert path.tip is None


@pytest.mark.parametrize(
    ("said", "goes_on"),
    [
        (compared("e", "a", "b", Verdict.first), "a"),
        (compared("e", "a", "b", Verdict.second), "b"),
        (compared("e", "b", "a", Verdict.first), "b"),
        (compared("e", "b", "a", Verdict.second), "a"),
        (compared("e", "a", "b", Verdict.tie), "a"),
        (compared("e", "a", "b", Verdict.both_bad), "b"),
    ],
)
def test_a_verdict_says_which_answer_goes_on(said: Said, goes_on: str) -> None:
    path = path_of([A, B], NONE, standing([said]))
    assert path.tip is not None
    assert path.tip.id == goes_on


def test_a_comparison_taken_back_is_open_again() -> None:
    words = standing([compared("e1", "a", "b", Verdict.first), retracted("e2", "e1")])
    assert path_of([A, B], NONE, words).pair == (A, B)


def test_identical_answers_are_not_asked_about() -> None:
    same = make_turn("b", "Hi", answer="Hello. ", compare_with="a")
    path = path_of([A, same], NONE, Standing())
    assert path.tip == A


LEFT = make_turn("x", "Hi", answer="Hello.", duel=True)
RIGHT = make_turn("x.1", "Hi", answer="Good day.", compare_with="x", duel=True)


@pytest.mark.parametrize(
    ("first", "second", "goes_on"),
    [
        ({"finish_reason": STOPPED}, {}, "x"),
        ({}, {"finish_reason": STOPPED}, "x"),
        ({"finish_reason": STOPPED, "answer": ""}, {"finish_reason": STOPPED}, "x.1"),
        ({"finish_reason": STOPPED, "answer": " "}, {"finish_reason": STOPPED, "answer": ""}, "x"),
    ],
)
def test_half_a_duel_is_not_asked_about(first: dict[str, str], second: dict[str, str], goes_on: str) -> None:
    path = path_of([replace(LEFT, **first), replace(RIGHT, **second)], NONE, Standing())
    assert path.tip is not None
    assert path.tip.id == goes_on


def test_a_whole_duel_without_a_verdict_is_open() -> None:
    assert path_of([LEFT, RIGHT], NONE, Standing()).pair == (LEFT, RIGHT)
    assert path_of([LEFT, RIGHT], frozenset({"x.1"}), Standing()).tip == LEFT


def test_a_second_answer_taken_off_the_screen_leaves_the_first() -> None:
    assert path_of([A, B], frozenset("b"), Standing()).tip == A


def test_a_third_answer_is_compared_with_the_one_that_won() -> None:
    third = make_turn("d", "Hi", answer="Hey.", compare_with="b")
    words = standing([compared("e1", "a", "b", Verdict.second)])
    assert path_of([A, B, third], NONE, words).pair == (B, third)


def test_a_correction_of_the_last_answer_is_what_goes_on() -> None:
    words = standing([edited("e", "a", "Hello, friend.")])
    path = path_of([A], NONE, words)
    assert texts(path) == ["Hi", "Hello, friend."]
    assert path.steps[1].turn == A
    later = make_turn("d", "Hi", "Hello, friend.", "Bye", answer="Bye.")
    assert path_of([A, later], NONE, words).steps[1].turn == A


def test_a_stopped_answer_is_known_by_its_beginning() -> None:
    stopped = make_turn("a", "Hi", answer="Hello, my dear fr", finish_reason=STOPPED)
    later = make_turn("b", "Hi", "Hello, my", "Bye", answer="Bye.")
    assert path_of([stopped, later], NONE, Standing()).steps[1].turn == stopped


def test_an_answer_whose_turn_is_no_longer_kept_has_none() -> None:
    assert path_of([C], NONE, Standing()).steps[1].turn is None


@pytest.mark.parametrize(
    ("turns", "gone", "left"),
    [
        ([A, C], {"c"}, ["Hi", "Hello."]),
        ([A, B], {"a", "b"}, []),
        ([A, C, make_turn("d", "Hello?", answer="Yes.")], {"d"}, ["Hi", "Hello.", "And then?", "Then this."]),
    ],
)
def test_undo_takes_the_last_exchange_with_all_its_answers(turns: list[Turn], gone: set[str], left: list[str]) -> None:
    """The third case: undoing an edited first message brings back what was said before the edit."""
    taken = undo(path_of(turns, NONE, Standing()), turns)
    assert taken == gone
    assert texts(path_of(turns, taken, Standing())) == left


def test_a_later_word_supersedes_and_a_retraction_empties() -> None:
    words = standing([rated("e1", "a", "up"), rated("e2", "a", "down")])
    assert words.ratings["a"].event_id == "e2"
    assert not standing([rated("e1", "a"), retracted("e2", "e1")]).ratings
    superseded = standing([rated("e1", "a", "up"), rated("e2", "a", "down"), retracted("e3", "e1")])
    assert superseded.ratings["a"].event_id == "e2"


def test_scores_that_somebody_gave_elsewhere_change_nothing_on_screen() -> None:
    score = Said("e2", Aspect(kind="aspect", turn_id="a", name="helpful", score=1))
    assert standing([rated("e1", "a"), score]) == standing([rated("e1", "a")])
    assert standing([score, retracted("e3", "e2")]) == Standing()


def test_the_list_has_the_conversation_spoken_in_last_first() -> None:
    other = make_turn("x", "Other", session="s2")
    listed = conversations([A, other, C], undone=NONE, hidden=NONE)
    assert [(one.session, one.title) for one in listed] == [("s1", "Hi"), ("s2", "Other")]
    assert [one.session for one in conversations([A, other], undone=frozenset("x"), hidden=NONE)] == ["s1"]
    assert [one.session for one in conversations([A, other], undone=NONE, hidden=frozenset({"s1"}))] == ["s2"]


def test_titles_are_one_line_and_not_too_long() -> None:
    assert title_of(asked("Two\n lines")) == "Two lines"
    assert len(title_of([Message("user", "word " * 40)])) == 60
    assert title_of([Message("system", "x")]) == ""
