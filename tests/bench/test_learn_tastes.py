"""The tastes, the flipped votes and the questions of `make learn`, on tables."""

import pytest

from tests.bench.learn import prompts
from tests.bench.learn.tastes import NO_LISTS, POLITE, SHORT, TASTES, agreement, flip
from tests.demo.taste import Seen
from training.judging.prompts import everyday


def words(count: int, *, finished: bool = True) -> Seen:
    return Seen(" ".join(["word"] * count), finished)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (words(20), words(40), "first"),
        (words(40), words(20), "second"),
        (words(40), words(38), "tie"),
        (words(20, finished=False), words(90), "second"),
        (words(20, finished=False), words(90, finished=False), "tie"),
        (words(2), words(90), "second"),
        (words(0), words(100, finished=False), "tie"),
    ],
)
def test_short_likes_the_clearly_shorter_finished_answer(first: Seen, second: Seen, expected: str) -> None:
    assert SHORT.verdict(first, second) == expected


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("Pack a coat - it is cold. There are 2. That is all.", 0),
        ("Here are some:\n\n1. One\n2. Two\n3) Three", 3),
        ("- one\n* two\n  • three\n– four", 4),
        ("**Start** with one.\nIn 1. place", 0),
        ("1. **Bold**: text\n\nStep 2: more\na) letter", 3),
        ("I am here.\nA dog barks.", 0),
        ("-5 degrees\n10.5 metres", 0),
        ("", 10),
    ],
)
def test_no_lists_counts_lines_that_begin_with_a_marker(text: str, items: int) -> None:
    assert NO_LISTS.score(Seen(text, True)) == -items


def test_no_lists_likes_prose_and_fewer_items() -> None:
    prose, one, two = Seen("All prose.", False), Seen("1. one", True), Seen("1. one\n2. two", True)
    assert NO_LISTS.verdict(prose, one) == "first"
    assert NO_LISTS.verdict(two, one) == "second"
    assert NO_LISTS.verdict(prose, Seen("Other prose.", True)) == "tie"


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("Please pay the rent.", 1),
        ("Pay the rent, please. Thank you for your patience. I appreciate it. Kind regards", 5),
        ("Please, please, please, please", 2),
        ("I am pleased to hear that; I look forward to it.", 2),
        ("The unpleasant pleasantries of thanksgiving", 0),
        ("", 0),
    ],
)
def test_polite_counts_kinds_of_phrases_twice_at_most(text: str, phrases: int) -> None:
    assert POLITE.score(Seen(text, True)) == phrases


def test_exactly_a_fifth_of_the_decided_votes_is_flipped_and_ties_stay() -> None:
    verdicts = ["first", "second", "tie"] * 30
    flipped = flip(verdicts, 0.2)
    changed = [(was, now) for was, now in zip(verdicts, flipped, strict=True) if was != now]
    assert len(changed) == 12
    assert set(changed) <= {("first", "second"), ("second", "first")}
    assert flip(verdicts, 0.2) == flipped
    assert flip(verdicts, 0.2, seed=1) != flipped
    assert flip(verdicts, 0.0) == verdicts


def test_agreement_leaves_out_what_the_taste_does_not_tell_apart() -> None:
    found = agreement(SHORT, [words(20), words(21), words(60)], [1.0, -1.0, 0.5])
    assert (found.pairs, found.agreed, found.share) == (2, 1, 0.5)
    assert agreement(SHORT, [words(20), words(60)], [1.0, 1.0]).agreed == 0, "equal rewards say nothing"
    assert agreement(SHORT, [words(20), words(20)], [1.0, 2.0]).share is None


def folded(text: str) -> str:
    return " ".join(text.split()).casefold()


@pytest.mark.parametrize("name", TASTES)
def test_no_question_is_both_taught_and_judged_or_the_gates(name: str) -> None:
    taste = TASTES[name]
    assert (len(taste.taught), len(taste.judged)) == (prompts.TAUGHT, prompts.JUDGED)
    asked = {folded(text) for text in (*taste.taught, *taste.judged)}
    assert len(asked) == prompts.TAUGHT + prompts.JUDGED
    assert not asked & {folded(text) for text in everyday()}
