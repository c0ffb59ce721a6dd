"""What a recipe learns from in a snapshot: by its kind, never what is held out."""

from typing import Any

import pytest

from feedback.holdout import is_held_out
from feedback.ids import TurnId
from tests.feedback.makers import comparison, make_event, make_turn, said
from tests.training.tiny import make_kto_recipe, make_recipe, make_sft_recipe
from training.curate import TokenAnswer, TokenPair
from training.errors import TooFewDemonstrations, TooFewPairs, TooFewThumbs
from training.lessons import Snapshot, draw_lessons
from training.tokens import ChatTokens

N = 40


def make_snapshot(*statements: Any) -> Snapshot:
    """N questions with a good and a bad answer each; `statements` are made for every question by its number."""
    turns = {}
    for i in range(N):
        for side, answer in (("good", "Yes."), ("bad", "No, not at all.")):
            turn = make_turn(
                id=f"{side}-{i}",
                messages=({"role": "user", "content": f"Question {i}?"},),
                answer=answer,
                prompt_token_ids=(),
                token_ids=(),
            )
            turns[TurnId(turn.id)] = turn
    made = [statement(i) for statement in statements for i in range(N)]
    return Snapshot([make_event(each, number) for number, each in enumerate(made)], turns)


def better(i: int) -> Any:
    return comparison(f"good-{i}", f"bad-{i}")


def tie(i: int) -> Any:
    return comparison(f"bad-{i}", f"good-{i}", "tie")


def thumb(i: int) -> Any:
    return said("rating", turn_id=f"{'good' if i % 2 else 'bad'}-{i}", value="up" if i % 2 else "down")


def edit(i: int) -> Any:
    return said("edit", turn_id=f"bad-{i}", text="Yes, surely.")


HELD_OUT = {f"question {i}?" for i in range(N) if is_held_out([{"role": "user", "content": f"Question {i}?"}])}


@pytest.mark.parametrize(
    ("snapshot", "recipe", "kind"),
    [
        (make_snapshot(better), make_recipe(), TokenPair),
        (make_snapshot(better, tie), make_recipe(ties=True), TokenPair),
        (make_snapshot(thumb), make_kto_recipe(), TokenAnswer),
        (make_snapshot(edit), make_sft_recipe(), TokenAnswer),
    ],
)
def test_no_recipe_learns_from_what_is_held_out(
    snapshot: Snapshot, recipe: Any, kind: type, tiny_tokens: ChatTokens
) -> None:
    lessons = draw_lessons(snapshot, tiny_tokens, recipe)
    assert {type(each) for each in lessons.train} == {kind}
    learned_from = {each.question for each in lessons.train}
    assert len(learned_from) == N - len(HELD_OUT)
    assert not learned_from & HELD_OUT
    assert {each.question for each in lessons.held_out} <= HELD_OUT


def test_ties_are_learned_from_where_the_recipe_says_so_and_never_judge(tiny_tokens: ChatTokens) -> None:
    with_ties = draw_lessons(make_snapshot(better, tie), tiny_tokens, make_recipe(ties=True))
    without = draw_lessons(make_snapshot(better, tie), tiny_tokens, make_recipe())
    assert sorted({pair.label for pair in with_ties.train if isinstance(pair, TokenPair)}) == [0.5, 1.0]
    assert {pair.label for pair in without.train if isinstance(pair, TokenPair)} == {1.0}
    assert len(with_ties.train) == 2 * len(without.train)
    assert {pair.label for pair in with_ties.held_out} == {1.0}
    assert with_ties.held_out == without.held_out


def test_a_kto_recipe_judges_by_the_votes_it_does_not_learn_from(tiny_tokens: ChatTokens) -> None:
    lessons = draw_lessons(make_snapshot(better, thumb), tiny_tokens, make_kto_recipe(from_pairs=False))
    assert len(lessons.held_out) == len(HELD_OUT)
    assert len(lessons.train) == N - len(HELD_OUT)


def test_replayed_text_stands_beside_what_people_showed(tiny_tokens: ChatTokens) -> None:
    recipe = make_sft_recipe(shares={"edit": 1.0, "replay": 1.0})
    replayed = [TokenAnswer("replay-1", "", (1,), (2,), source="replay")]
    lessons = draw_lessons(make_snapshot(edit), tiny_tokens, recipe, replayed)
    assert {each.source for each in lessons.train if isinstance(each, TokenAnswer)} == {"edit", "replay"}


@pytest.mark.parametrize(
    ("snapshot", "recipe", "error", "says"),
    [
        (make_snapshot(tie), make_recipe(), TooFewPairs, "'tie': 40"),
        (make_snapshot(better), make_kto_recipe(from_pairs=False), TooFewThumbs, "0 thumbs up and 0 down"),
        (make_snapshot(better), make_sft_recipe(), TooFewDemonstrations, "preferred: not learned from"),
    ],
)
def test_too_little_to_learn_from_is_refused_with_what_was_left_out(
    snapshot: Snapshot, recipe: Any, error: type[Exception], says: str, tiny_tokens: ChatTokens
) -> None:
    with pytest.raises(error, match=says):
        draw_lessons(snapshot, tiny_tokens, recipe)


def test_thumbs_of_one_side_alone_are_refused(tiny_tokens: ChatTokens) -> None:
    def up(i: int) -> Any:
        return said("rating", turn_id=f"good-{i}", value="up")

    with pytest.raises(TooFewThumbs, match=r"thumbs up and 0 down"):
        draw_lessons(make_snapshot(up), tiny_tokens, make_kto_recipe())
