"""What standing events teach besides pairs: thumbs, and answers to imitate."""

import pytest

from feedback.demonstrations import build_demonstrations
from feedback.thumbs import build_thumbs
from tests.feedback.makers import comparison, make_event, make_turn, said

A = make_turn(id="a", answer="short")
B = make_turn(id="b", answer="a longer answer")
COMPLETION = make_turn(id="c", kind="completion", messages=(), prompt="Once")
TURNS = {turn.id: turn for turn in (A, B, COMPLETION)}


def thumbs_of(*statements: object, from_pairs: bool = False) -> list[tuple[str, bool]]:
    events = [make_event(statement, i) for i, statement in enumerate(statements)]
    return [(thumb.answer.text, thumb.up) for thumb in build_thumbs(events, TURNS, from_pairs=from_pairs).thumbs]


@pytest.mark.parametrize(("value", "up"), [("up", True), ("down", False)])
def test_a_rating_is_a_thumb_with_the_engines_tokens(value: str, up: bool) -> None:
    (thumb,) = build_thumbs([make_event(said("rating", turn_id="a", value=value))], TURNS).thumbs
    assert (thumb.up, thumb.answer.token_ids, thumb.prompt_token_ids) == (up, A.token_ids, A.prompt_token_ids)


def test_two_answers_said_to_be_bad_are_two_thumbs_down() -> None:
    assert thumbs_of(comparison("a", "b", "both_bad")) == [("short", False), ("a longer answer", False)]


@pytest.mark.parametrize(("verdict", "ups"), [("first", [True, False]), ("second", [False, True])])
def test_a_preference_makes_thumbs_only_when_asked_to(verdict: str, ups: list[bool]) -> None:
    assert thumbs_of(comparison("a", "b", verdict)) == []
    assert [up for _, up in thumbs_of(comparison("a", "b", verdict), from_pairs=True)] == ups


def test_a_tie_makes_no_thumbs() -> None:
    assert thumbs_of(comparison("a", "b", "tie"), from_pairs=True) == []


@pytest.mark.parametrize("verdict", ["first", "second"])
def test_a_preference_between_equal_answers_makes_no_thumbs(verdict: str) -> None:
    turns = {**TURNS, "e": A.model_copy(update={"id": "e"})}
    made = build_thumbs([make_event(comparison("a", "e", verdict), 0)], turns, from_pairs=True)
    assert (made.thumbs, made.skipped) == ((), {"equal answers": 1})
    both = build_thumbs([make_event(comparison("a", "e", "both_bad"), 0)], turns, from_pairs=True)
    assert [thumb.up for thumb in both.thumbs] == [False, False]


def test_an_answer_that_was_asked_for_with_tools_is_not_learned_from() -> None:
    with_tools = A.model_copy(update={"sampling": {"tools": [{"type": "function", "function": {"name": "f"}}]}})
    events = [make_event(said("rating", turn_id="a", value="up"), 0), make_event(comparison("a", "b", "first"), 1)]
    made = build_thumbs(events, {**TURNS, "a": with_tools}, from_pairs=True)
    assert (made.thumbs, made.skipped) == ((), {"asked with tools": 2})


def test_an_edit_is_a_thumb_down_for_the_answer_and_one_up_for_the_persons_own() -> None:
    assert thumbs_of(said("edit", turn_id="b", text="better"), from_pairs=True) == [
        ("a longer answer", False),
        ("better", True),
    ]


def test_a_rating_of_an_answer_counts_alone_beside_a_preference() -> None:
    found = thumbs_of(comparison("a", "b", "first"), said("rating", turn_id="b", value="up"), from_pairs=True)
    assert found == [("short", True), ("a longer answer", True)]


def test_events_that_make_no_thumb_are_counted_under_their_reason() -> None:
    statements = [
        said("rating", turn_id="gone", value="up"),
        said("rating", turn_id="c", value="up"),
        said("edit", turn_id="a", text="better"),
    ]
    made = build_thumbs([make_event(each, i) for i, each in enumerate(statements)], TURNS)
    assert made.thumbs == ()
    assert made.skipped == {"turn no longer kept": 1, "not a chat": 1, "edit makes no thumb": 1}


def test_edits_better_answers_and_liked_ones_are_demonstrations() -> None:
    statements = [
        said("edit", turn_id="a", text="better"),
        comparison("a", "b", "second"),
        said("rating", turn_id="a", value="up"),
        said("rating", turn_id="b", value="down"),
        comparison("a", "b", "tie"),
    ]
    made = build_demonstrations([make_event(each, i) for i, each in enumerate(statements)], TURNS)
    found = [(each.origin.value, each.answer.text, each.answer.token_ids) for each in made.demonstrations]
    assert found == [
        ("edit", "better", None),
        ("preferred", "a longer answer", B.token_ids),
        ("liked", "short", A.token_ids),
    ]
    assert made.skipped == {
        "rating shows no answer to imitate": 1,
        "comparison shows no answer to imitate": 1,
    }
