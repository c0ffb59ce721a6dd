"""The demo's taste and figures, on tables."""

import pytest

from tests.demo import prompts
from tests.demo.figures import changed_midway, loss_per_token, wins
from tests.demo.taste import WORDS, Seen, verdict


def words(count: int, *, finished: bool = True) -> Seen:
    return Seen(" ".join(["word"] * count), finished)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (words(WORDS), words(WORDS + 5), "first"),
        (words(WORDS - 9), words(WORDS + 3), "second"),
        (words(WORDS + 4), words(WORDS - 4), "tie"),
        (words(WORDS, finished=False), words(3 * WORDS), "second"),
        (words(WORDS, finished=False), words(2, finished=False), "tie"),
    ],
)
def test_the_simulated_user_likes_finished_answers_of_about_that_length(
    first: Seen, second: Seen, expected: str
) -> None:
    assert verdict(first, second) == expected


def test_wins_count_every_answer_against_every_other_and_ties_half() -> None:
    good, bad = [words(WORDS)] * 2, [words(90)] * 2
    share = wins([good, good, good, bad], [bad, bad, good, good])
    assert share.value == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert share.low < share.value < share.high
    assert wins([good] * 9, [bad] * 9).low == 1.0


def test_the_loss_weighs_tokens_not_answers() -> None:
    assert loss_per_token([[-1.0, -1.0, -1.0], [-3.0]]) == pytest.approx(1.5)


def test_an_answer_that_changed_midway_is_told_from_one_that_did_not() -> None:
    one = [-0.5, -1.0, -2.0, -0.1] * 10
    two = [value - 0.8 for value in one]
    noise = [0.03 * (-1) ** i for i in range(40)]
    said_by_one = [value + off for value, off in zip(one, noise, strict=True)]
    mixed = said_by_one[:25] + two[25:]
    assert not changed_midway(said_by_one, one, two)
    assert changed_midway(said_by_one, two, one)
    assert changed_midway(mixed, one, two)
    assert changed_midway(mixed, two, one)


def test_no_question_is_used_twice() -> None:
    rounds = [prompts.FIRST_ROUND, prompts.SECOND_ROUND, prompts.EVALUATION, prompts.SMALL_TALK]
    asked = [question for questions in rounds for question in questions]
    assert [len(questions) for questions in rounds[:3]] == [96, 96, 60]
    assert len(asked) == len(set(asked))
