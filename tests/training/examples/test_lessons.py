"""What a recipe learns from in a snapshot: by its kind, never what is held out."""

from typing import Any

import pytest

from feedback.holdout import is_held_out
from feedback.ids import TurnId
from tests.feedback.makers import comparison, make_event, make_turn, said
from tests.training.tiny import make_kto_recipe, make_recipe, make_reward_recipe, make_sft_recipe
from training.errors import TooFewDemonstrations, TooFewPairs, TooFewThumbs
from training.examples.example import TokenAnswer, TokenPair
from training.examples.lessons import Lessons, Snapshot, draw_lessons
from training.examples.tokens import ChatTokens
from training.recipe import parse_recipe

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


def points(name: str, good: int, bad: int) -> tuple[Any, Any]:
    """What everybody says of the good and of the bad answer in one aspect."""
    return (
        lambda i: said("aspect", turn_id=f"good-{i}", name=name, score=good),
        lambda i: said("aspect", turn_id=f"bad-{i}", name=name, score=bad),
    )


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


SCORED = make_snapshot(*points("helpful", 5, 2), *points("harmless", 1, 3), better)
N_TRAINED = N - len(HELD_OUT)


def pairs_of(lessons: Lessons) -> list[TokenPair]:
    return [pair for pair in lessons.train if isinstance(pair, TokenPair)]


@pytest.mark.parametrize(
    "recipe",
    [make_recipe(), make_reward_recipe(), make_reward_recipe(algorithm="pairwise_reward")],
    ids=lambda recipe: recipe.algorithm,
)
def test_a_recipe_without_heads_for_them_leaves_aspects_out_and_says_so(recipe: Any, tiny_tokens: ChatTokens) -> None:
    lessons = draw_lessons(SCORED, tiny_tokens, recipe)
    assert {(pair.aspect, pair.margin) for pair in pairs_of(lessons)} == {("overall", 0.0)}
    assert {pair.aspect for pair in (*lessons.held_out, *lessons.held_out_of_heads)} == {"overall"}
    left_out = lessons.report["left_out"]
    assert isinstance(left_out, dict)
    assert left_out["aspect helpful: not learned from by this recipe"] == N
    assert left_out["aspect harmless: not learned from by this recipe"] == N


def test_scores_in_the_overall_aspect_teach_policies_too(tiny_tokens: ChatTokens) -> None:
    lessons = draw_lessons(make_snapshot(*points("overall", 4, 2)), tiny_tokens, make_recipe())
    assert len(lessons.train) == N_TRAINED
    assert len(lessons.held_out) == len(HELD_OUT)
    assert {pair.margin for pair in pairs_of(lessons)} == {0.0}


@pytest.mark.parametrize(("per_step", "margins"), [(0.0, (0.0, 0.0)), (0.5, (1.5, 1.0))])
def test_each_head_gets_the_pairs_of_its_aspect_and_steps_become_nats(
    per_step: float, margins: tuple[float, float], tiny_tokens: ChatTokens
) -> None:
    recipe = make_reward_recipe(heads=["helpful", "harmless"], margin_per_step=per_step)
    lessons = draw_lessons(SCORED, tiny_tokens, recipe)
    good, bad = tiny_tokens.answer("Yes."), tiny_tokens.answer("No, not at all.")
    assert {(pair.aspect, pair.chosen, pair.rejected, pair.margin) for pair in pairs_of(lessons)} == {
        ("helpful", good, bad, margins[0]),
        ("harmless", bad, good, margins[1]),
    }
    assert len(lessons.train) == 2 * N_TRAINED
    assert not {pair.question for pair in pairs_of(lessons)} & HELD_OUT
    assert {pair.aspect for pair in lessons.held_out_of_heads} == {"helpful", "harmless"}
    assert {pair.question for pair in lessons.held_out_of_heads} <= HELD_OUT
    assert lessons.report["held_out"] == len(lessons.held_out_of_heads) == 2 * len(HELD_OUT)
    assert lessons.report["left_out"] == {"aspect overall: not learned from by this recipe": N}


def test_policies_are_judged_by_overall_votes_whatever_their_reward_model_is_about(tiny_tokens: ChatTokens) -> None:
    reward = make_reward_recipe(heads=["overall", "helpful"]).model_dump()
    recipe = parse_recipe({"algorithm": "online_preference", "reward": reward})
    lessons = draw_lessons(SCORED, tiny_tokens, recipe)
    assert {pair.aspect for pair in lessons.held_out} == {"overall"}
    assert {pair.aspect for pair in lessons.held_out_of_heads} == {"overall", "helpful"}
    assert {pair.aspect for pair in pairs_of(lessons)} == {"overall", "helpful"}
    assert {pair.aspect for pair in lessons.beside} == {"overall"}
    assert len(lessons.beside) == N_TRAINED


def test_votes_beside_own_answers_are_taken_as_their_loss_takes_them(tiny_tokens: ChatTokens) -> None:
    body = {"algorithm": "online_preference", "reward": make_reward_recipe().model_dump()}
    loss = make_recipe().model_dump()
    found = [
        draw_lessons(make_snapshot(better, tie), tiny_tokens, parse_recipe({**body, "loss": {**loss, **changed}}))
        for changed in ({"ties": False}, {"ties": True}, {"max_example_tokens": 32})
    ]
    assert [sorted({pair.label for pair in each.beside}) for each in found] == [[1.0], [0.5, 1.0], []]
    assert len({each.train for each in found}) == 1, "the reward model's own pairs are the same"


@pytest.mark.parametrize("algorithm", ["reward", "ppo"])
def test_a_head_without_pairs_enough_is_refused_by_name(algorithm: str, tiny_tokens: ChatTokens) -> None:
    reward = make_reward_recipe(heads=["overall", "helpful", "honest"], min_pairs=5)
    recipe = parse_recipe({"algorithm": "ppo", "reward": reward.model_dump()}) if algorithm == "ppo" else reward
    with pytest.raises(
        TooFewPairs, match=r"these heads on: honest \(0\); the recipe needs 5 for each .*or take the head"
    ):
        draw_lessons(SCORED, tiny_tokens, recipe)


def test_a_lone_head_of_an_aspect_learns_from_that_aspect_alone(tiny_tokens: ChatTokens) -> None:
    lessons = draw_lessons(SCORED, tiny_tokens, make_reward_recipe(heads=["harmless"]))
    assert {pair.aspect for pair in pairs_of(lessons)} == {"harmless"}
    with pytest.raises(TooFewPairs, match=r"harmless \(0\)"):
        draw_lessons(make_snapshot(better), tiny_tokens, make_reward_recipe(heads=["harmless"]))


def test_equal_scores_are_ties_in_their_aspect(tiny_tokens: ChatTokens) -> None:
    snapshot = make_snapshot(*points("helpful", 3, 3))
    lessons = draw_lessons(snapshot, tiny_tokens, make_reward_recipe(heads=["helpful"], ties=True, margin_per_step=1.0))
    assert {(pair.label, pair.margin) for pair in pairs_of(lessons)} == {(0.5, 0.0)}
    assert lessons.held_out_of_heads == ()
