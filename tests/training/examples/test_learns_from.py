"""What the schedule counts for a recipe is what its examples are made of."""

from typing import Any

import pytest

from feedback.demonstrations import build_demonstrations
from feedback.ids import Lesson
from feedback.lessons import PAIRS, TIE, lesson_of
from feedback.pairs import build_pairs
from feedback.scores import scored
from feedback.thumbs import build_thumbs
from tests.feedback.makers import comparison, make_event, make_turn, said
from tests.training.tiny import make_kto_recipe, make_recipe, make_reward_recipe, make_sft_recipe
from training.algorithms import KtoRecipe, PairTraining, Recipe, SftRecipe
from training.examples.learns_from import learns_from
from training.recipe import load_recipes, parse_recipe

STATEMENTS = [
    *(comparison(f"a{i}", f"b{i}", verdict) for i, verdict in enumerate(("first", "second", "tie", "both_bad"))),
    said("edit", turn_id="a4", text="better"),
    *(said("rating", turn_id=f"{side}5", value=value) for side, value in (("a", "up"), ("b", "down"))),
    *(said("rating", turn_id=f"a{i}", value="up") for i in (6, 7)),
]
EVENTS = [make_event(each, number) for number, each in enumerate(STATEMENTS, start=1)]
TURNS = {
    turn.id: turn
    for i in range(8)
    for turn in (make_turn(id=f"a{i}", answer="one"), make_turn(id=f"b{i}", answer="another"))
}


def made_of(recipe: Recipe) -> int:
    """How many examples the events make."""
    match recipe:
        case KtoRecipe():
            return len(build_thumbs(EVENTS, TURNS, from_pairs=recipe.from_pairs).thumbs)
        case SftRecipe():
            return sum(
                each.origin.value in recipe.shares for each in build_demonstrations(EVENTS, TURNS).demonstrations
            )
        case PairTraining():
            return sum(pair.preference == 1 or recipe.ties for pair in build_pairs(EVENTS, TURNS).pairs)
    raise AssertionError(recipe)


@pytest.mark.parametrize(
    ("recipe", "counted", "n"),
    [
        (make_recipe(), "pairs", 3),
        (make_recipe(ties=True), "pairs", 4),
        (make_reward_recipe(), "pairs", 3),
        (make_kto_recipe(), "thumbs", 12),
        (make_kto_recipe(from_pairs=False), "thumbs", 6),
        (make_sft_recipe(), "demonstrations", 1),
        (make_sft_recipe(shares={"liked": 1.0, "edit": 1.0}), "demonstrations", 4),
        (make_sft_recipe(shares={"preferred": 1.0, "replay": 1.0}), "demonstrations", 2),
    ],
)
def test_what_is_counted_is_what_is_learned_from(recipe: Any, counted: str, n: int) -> None:
    taught = learns_from(recipe)
    standing: dict[Lesson, int] = {}
    for event in EVENTS:
        lesson = lesson_of(event.said)
        assert lesson is not None
        standing[lesson] = standing.get(lesson, 0) + 1
    assert (taught.counted, taught.total(standing)) == (counted, n)
    assert made_of(recipe) == n


def test_a_reward_model_with_heads_counts_what_their_aspects_were_scored_in() -> None:
    recipe = make_reward_recipe(heads=["helpful", "harmless"], ties=True)
    assert learns_from(recipe).worth == {scored("helpful"): 1, scored("harmless"): 1}
    both = learns_from(make_reward_recipe(heads=["overall", "helpful"], ties=True)).worth
    assert both == {**PAIRS.worth, TIE: 1, scored("helpful"): 1}


def test_a_recipe_with_rounds_counts_what_its_reward_model_learns_from() -> None:
    body = {"algorithm": "ppo", "reward": {"algorithm": "reward", "ties": True}}
    assert learns_from(parse_recipe(body)) == learns_from(make_recipe(ties=True))
    assert learns_from(parse_recipe({**body, "reward_model": "reward-0123456789ab"})) == PAIRS


def test_every_recipe_that_ships_says_what_it_learns_from() -> None:
    found = {name: learns_from(recipe).counted for name, recipe in load_recipes().recipes.items()}
    assert {name: counted for name, counted in found.items() if counted != "pairs"} == {
        "kto": "thumbs",
        "sft": "demonstrations",
    }


def test_a_retraction_teaches_nothing() -> None:
    assert lesson_of(said("retract", event_id="ev-1")) is None
