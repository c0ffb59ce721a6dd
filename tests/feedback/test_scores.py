"""Scores of aspects: which make pairs, how they are counted in a real Redis, which stand."""

import pytest

from feedback.connection import connect
from feedback.ids import LineName, UserId
from feedback.ledger import Ledger, Speaker
from feedback.lessons import PAIRS, PREFERRED, lesson_of
from feedback.pairs import Pair, PairSet, build_pairs
from feedback.scores import scored
from feedback.standing import standing
from tests.feedback.makers import TENANT, comparison, make_event, make_turn, said

ANSWERS = ("short", "a longer answer", "the longest answer of all")
A, B, C = (make_turn(id=name, answer=answer) for name, answer in zip("abc", ANSWERS, strict=True))
ELSEWHERE = make_turn(id="e", answer="another", messages=({"role": "user", "content": "another prompt"},))
SAME = make_turn(id="s", answer=" short ")
COMPLETION = make_turn(id="c1", kind="completion", messages=(), prompt="Once")
TURNS = {turn.id: turn for turn in (A, B, C, ELSEWHERE, SAME, COMPLETION)}
ANN, BEN = Speaker(TENANT, UserId("ann")), Speaker(TENANT, UserId("ben"))
HELPFUL, OVERALL = scored("helpful"), scored("overall")


def score(turn: str, points: int, name: str = "helpful", **fields: object) -> object:
    return said("aspect", turn_id=turn, name=name, score=points, **fields)


def made_of(*statements: object) -> PairSet:
    return build_pairs([make_event(each, n) for n, each in enumerate(statements, start=1)], TURNS)


def told(pair: Pair) -> tuple[object, ...]:
    """Which answer is above which, in what, by how much, said by which event."""
    sides = pair.chosen.turn_id, pair.rejected.turn_id
    return (*sides, pair.aspect, pair.margin_steps, pair.preference, pair.event_id)


@pytest.mark.parametrize(
    ("first", "second", "pair"),
    [
        (5, 2, ("a", "b", "helpful", 3, 1.0, "ev-2")),
        (2, 3, ("b", "a", "helpful", 1, 1.0, "ev-2")),
        (4, 4, ("a", "b", "helpful", 0, 0.5, "ev-2")),
    ],
)
def test_two_scores_make_a_pair_under_the_later_ones_event(first: int, second: int, pair: tuple[object, ...]) -> None:
    made = made_of(score("a", first), score("b", second))
    assert [told(each) for each in made.pairs] == [pair]
    assert made.skipped == {}
    assert made.pairs[0].messages == A.messages
    assert made.pairs[0].prompt_token_ids == A.prompt_token_ids


def test_every_two_of_several_scores_make_a_pair_and_aspects_stay_apart() -> None:
    made = made_of(score("a", 1), score("a", 5, "overall"), score("b", 3), score("c", 5), score("c", 1, "overall"))
    assert [told(each) for each in made.pairs] == [
        ("b", "a", "helpful", 2, 1.0, "ev-3"),
        ("c", "a", "helpful", 4, 1.0, "ev-4"),
        ("c", "b", "helpful", 2, 1.0, "ev-4"),
        ("a", "c", "overall", 4, 1.0, "ev-5"),
    ]


def test_a_comparison_is_of_the_overall_aspect_and_has_no_steps() -> None:
    [pair] = made_of(comparison("a", "b")).pairs
    assert (pair.aspect, pair.margin_steps) == ("overall", 0)


def test_scores_that_make_no_pair_are_counted_under_their_reason() -> None:
    statements = [
        score("a", 1),
        score("e", 5),
        score("b", 5, "honest"),
        score("gone", 5),
        score("c1", 5),
        score("a", 3, "overall"),
        score("s", 5, "overall"),
    ]
    made = made_of(*statements)
    assert made.pairs == ()
    assert made.skipped == {
        "score of one answer alone": 3,
        "turn no longer kept": 1,
        "not a chat": 1,
        "equal answers": 1,
    }


@pytest.mark.parametrize("other", [{"user": "ben"}, {"tenant": "else"}])
def test_scores_of_different_people_are_not_set_against_each_other(other: dict[str, str]) -> None:
    made = build_pairs([make_event(score("a", 1), 1), make_event(score("b", 5), 2, **other)], TURNS)
    assert (made.pairs, made.skipped) == ((), {"score of one answer alone": 2})
    assert made_of(score("a", 1), score("b", 5, source="judge")).pairs == ()


def test_a_later_score_takes_the_place_of_an_earlier_one_in_the_same_aspect_alone() -> None:
    first, honest, again = (
        make_event(score("a", 1), 1),
        make_event(score("a", 1, "honest"), 2),
        make_event(score("a", 5), 3),
    )
    judged = make_event(score("a", 2, source="judge"), 4)
    assert standing([first, honest, again, judged]) == [honest, again, judged]
    assert standing([first, make_event(said("retract", event_id=first.id), 2)]) == []


def test_a_score_teaches_nothing_by_itself() -> None:
    assert lesson_of(score("a", 1)) is None


@pytest.fixture
def ledger(redis_url: str) -> Ledger:
    ledger = Ledger(connect(redis_url), LineName("burnish"))
    ledger.append_turns([A, B, C, ELSEWHERE, COMPLETION])
    return ledger


def say(ledger: Ledger, statement: object, speaker: Speaker = ANN) -> str:
    return ledger.append_event(statement, speaker).event.id


def counted(ledger: Ledger) -> int:
    """The later ones of helpful scores that make a pair; as many as after the view is made anew from the log."""
    there = ledger.lessons([HELPFUL])
    events = len(ledger.standing_events())
    ledger.rebuild()
    assert (ledger.lessons([HELPFUL]), len(ledger.standing_events())) == (there, events)
    made = build_pairs(ledger.standing_events(), TURNS)
    ids = {pair.event_id for pair in made.pairs if pair.preference == 1 and pair.aspect == "helpful"}
    assert there == {HELPFUL: len(ids)}
    return there[HELPFUL]


def test_a_score_counts_once_there_is_another_one_to_set_it_against(ledger: Ledger) -> None:
    say(ledger, score("a", 1))
    say(ledger, score("e", 5))
    say(ledger, score("c1", 5))
    say(ledger, score("b", 5), BEN)
    say(ledger, score("b", 5, "honest"))
    assert counted(ledger) == 0
    say(ledger, score("b", 1))
    assert counted(ledger) == 0, "a tie"
    say(ledger, score("c", 4))
    assert counted(ledger) == 1
    say(ledger, score("a", 2), BEN)
    assert counted(ledger) == 2
    assert ledger.lessons([HELPFUL], after=7) == {HELPFUL: 1}


def test_what_a_score_counts_for_follows_what_is_said_and_taken_back(ledger: Ledger) -> None:
    first, second, third = (say(ledger, score(turn, points)) for turn, points in (("a", 1), ("b", 3), ("c", 3)))
    assert counted(ledger) == 2
    say(ledger, score("a", 3))  # the oldest now is b's, and all are equal
    assert counted(ledger) == 0
    again = say(ledger, score("b", 5))
    assert counted(ledger) == 1
    for event in (first, second):  # which stand no more
        say(ledger, said("retract", event_id=event))
    assert counted(ledger) == 1
    say(ledger, said("retract", event_id=again))
    assert counted(ledger) == 0
    say(ledger, said("retract", event_id=third))
    assert counted(ledger) == 0


def test_a_score_whose_only_match_is_taken_back_counts_no_more(ledger: Ledger) -> None:
    first, second = say(ledger, score("a", 1)), say(ledger, score("b", 3))
    say(ledger, score("c", 1))
    assert counted(ledger) == 2, "the third is as the first, and differs from the second"
    say(ledger, said("retract", event_id=second))
    assert counted(ledger) == 0
    say(ledger, score("b", 3))
    say(ledger, said("retract", event_id=first))
    assert counted(ledger) == 1


def test_overall_scores_count_among_the_pairs_as_comparisons_do(ledger: Ledger) -> None:
    say(ledger, score("a", 1, "overall"))
    say(ledger, score("a", 1))
    say(ledger, score("b", 2))
    assert ledger.vote_counts().pairs == 0
    say(ledger, score("b", 4, "overall"))
    say(ledger, comparison("a", "b"))
    assert ledger.lessons(PAIRS.worth) == {PREFERRED: 1, OVERALL: 1, "edit": 0}
    assert ledger.vote_counts().pairs == 2


def test_lone_scores_are_not_taken_for_votes_that_were_never_counted(ledger: Ledger) -> None:
    say(ledger, score("a", 1))
    assert ledger.fill_lessons() == 0
    assert counted(ledger) == 0
