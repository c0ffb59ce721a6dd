"""Recipes: what ships is sound, and a wrong one is refused with field, value and bound."""

import math
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from training.algorithms import (
    AdapterRecipe,
    OptimizerRecipe,
    PpoRecipe,
    RolloutRecipe,
    SafetyFirst,
    SftRecipe,
    WeightedSum,
)
from training.errors import RecipeRefused
from training.recipe import ALGORITHMS, load_recipe, load_recipes, parse_recipe


def test_every_recipe_that_ships_can_be_read() -> None:
    shipped = load_recipes()
    assert not shipped.refused
    assert {"dpo", "smoke"} <= shipped.recipes.keys()
    assert {recipe.algorithm for recipe in shipped.recipes.values()} == ALGORITHMS.keys(), "one for every algorithm"


def test_every_field_says_what_it_means() -> None:
    silent = [
        name
        for recipe in (*ALGORITHMS.values(), AdapterRecipe, OptimizerRecipe, RolloutRecipe, WeightedSum, SafetyFirst)
        for name, field in recipe.model_fields.items()
        if not field.description and name not in ("algorithm", "adapter", "optimizer", "kind", "rollouts")
    ]
    assert not silent


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"beta": 7}, ["beta = 7", "less than or equal to 5"]),
        ({"beta": 0}, ["beta = 0", "greater than 0"]),
        ({"bata": 0.1}, ["bata = 0.1", "no field"]),
        ({"epochs": 0}, ["epochs = 0", "greater than or equal to 1"]),
        ({"epochs": "three"}, ["epochs = 'three'", "integer"]),
        ({"adapter": {"kind": "dora"}}, ["adapter.kind = 'dora'", "vLLM serves no such adapter", "rslora"]),
        ({"adapter": {"kind": "lara"}}, ["adapter.kind = 'lara'", "'lora' or 'rslora'"]),
        ({"adapter": {"rank": 12}}, ["adapter.rank = 12", "1, 8, 16, 32 or 64"]),
        ({"optimizer": {"learning_rate": 1.0}}, ["optimizer.learning_rate = 1.0", "less than or equal to 0.01"]),
        ({"optimizer": {"lr": 1.0}}, ["optimizer.lr = 1.0", "no field"]),
        ({"algorithm": "dop"}, ["algorithm = 'dop'", "dpo"]),
        ({"algorithm": None}, ["algorithm = None", "dpo"]),
        ({"algorithm": ["dpo"]}, ["algorithm = ['dpo']", "dpo"]),
        ({"beta": 7, "epochs": 0}, ["beta = 7", "epochs = 0"]),
    ],
)
def test_a_wrong_recipe_is_refused_with_field_value_and_bound(body: dict[str, object], says: list[str]) -> None:
    with pytest.raises(RecipeRefused) as refused:
        parse_recipe({"algorithm": "dpo", **body}, name="mine.toml")
    for words in ["mine.toml", *says]:
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"margin": -1}, ["margin = -1", "greater than or equal to 0"]),
        ({"centring": 11}, ["centring = 11", "less than or equal to 10"]),
        ({"ensemble": 0}, ["ensemble = 0", "greater than or equal to 1"]),
        ({"ensemble": 17}, ["ensemble = 17", "less than or equal to 16"]),
        ({"heads": []}, ["heads = []", "at least 1 item"]),
        ({"heads": ["Safe!"]}, ["heads.0 = 'Safe!'", "match pattern"]),
        ({"heads": ["helpful", "helpful"]}, ["heads names one twice: helpful, helpful"]),
        ({"rule": {"kind": "vote"}}, ["rule", "weighted_sum", "safety_first"]),
        ({"rule": {"kind": "weighted_sum", "weights": {"honest": 1}}}, ["rule names honest, but heads are overall"]),
        ({"heads": ["harmless"], "rule": {"kind": "safety_first"}}, ["needs another head beside harmless"]),
        ({"rule": {"kind": "safety_first"}}, ["rule names harmless, but heads are overall"]),
        ({"beta": 0.1}, ["beta = 0.1", "no field"]),
    ],
)
def test_a_wrong_reward_recipe_is_refused_with_field_value_and_bound(body: dict[str, object], says: list[str]) -> None:
    with pytest.raises(RecipeRefused) as refused:
        parse_recipe({"algorithm": "reward", **body}, name="mine.toml")
    for words in ["mine.toml", *says]:
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"shares": {}}, ["shares = {}", "at least 1 item"]),
        ({"shares": {"edit": 0}}, ["shares = {'edit': 0}", "greater than 0"]),
        ({"shares": {"edit": 0.0, "replay": 0.0}}, ["shares = ", "greater than 0"]),
        ({"shares": {"edit": -3}}, ["shares.edit = -3", "greater than or equal to 0"]),
        ({"shares": {"edit": 1000.5}}, ["shares.edit = 1000.5", "less than or equal to 1000"]),
        ({"shares": {"edit": math.nan}}, ["shares.edit = nan", "finite"]),
        ({"shares": {"edit": math.inf}}, ["shares.edit = inf", "finite"]),
        ({"algorithm": "kto", "up_weight": 0}, ["up_weight = 0", "greater than 0"]),
        ({"algorithm": "kto", "down_weight": 0}, ["down_weight = 0", "greater than 0"]),
        ({"algorithm": "ppo", "rollouts": {"answers": 0}}, ["rollouts.answers = 0", "greater than or equal to 1"]),
        ({"algorithm": "rloo", "rollouts": {"answers": 1}}, ["rollouts.answers = 1", "greater than or equal to 2"]),
        ({"algorithm": "grpo", "rollouts": {"answers": 1}}, ["rollouts.answers = 1", "greater than or equal to 2"]),
        (
            {"algorithm": "online_preference", "rollouts": {"answers": 1}},
            ["rollouts.answers = 1", "greater than or equal to 2"],
        ),
        (
            {"algorithm": "ppo", "reward_model": "pairwise_reward-0123456789ab"},
            ["reward_model = 'pairwise_reward-0123456789ab'", "no reward of a single answer"],
        ),
        (
            {"algorithm": "online_preference", "reward_model": "dpo-0123456789ab"},
            ["reward_model = 'dpo-0123456789ab'", "^reward-[0-9a-f]{12}$"],
        ),
    ],
)
def test_a_recipe_that_could_learn_nothing_is_refused(body: dict[str, object], says: list[str]) -> None:
    with pytest.raises(RecipeRefused) as refused:
        parse_recipe({"algorithm": "sft", **body}, name="mine.toml")
    for words in ["mine.toml", *says]:
        assert words in str(refused.value)


def test_one_answer_is_enough_for_who_has_a_value_to_hold_it_against() -> None:
    recipe = parse_recipe({"algorithm": "ppo", "rollouts": {"answers": 1}, "reward_model": "reward-0123456789ab"})
    assert isinstance(recipe, PpoRecipe)
    assert recipe.rollouts.answers == 1


def test_a_share_of_nothing_is_as_good_as_none() -> None:
    recipe = parse_recipe({"algorithm": "sft", "shares": {"edit": 2, "replay": 0}})
    assert isinstance(recipe, SftRecipe)
    assert recipe.shares == {"edit": 2.0}


NUMBERS = [
    (model, name)
    for model in (*ALGORITHMS.values(), OptimizerRecipe, AdapterRecipe, RolloutRecipe, SafetyFirst)
    for name, field in model.model_fields.items()
    if float in (field.annotation, *get_args(field.annotation))
]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_refused_in_every_field(number: float) -> None:
    assert len(NUMBERS) > 50
    for model, name in NUMBERS:
        with pytest.raises(ValidationError) as refused:
            model.model_validate({name: number})
        assert ((name,), "finite_number") in [(each["loc"], each["type"]) for each in refused.value.errors()]


def test_a_file_that_is_no_toml_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("algorithm = dpo")
    with pytest.raises(RecipeRefused, match=r"mine\.toml is no valid TOML"):
        load_recipe(tmp_path / "mine.toml")


def test_a_recipe_survives_the_way_through_json() -> None:
    rule = {"kind": "safety_first", "threshold": 0.5, "weights": {"helpful": 2.0}}
    for body in (
        {"algorithm": "dpo", "beta": 0.3},
        {"algorithm": "reward", "heads": ["helpful", "harmless"], "rule": rule},
        {"algorithm": "pairwise_reward", "ensemble": 3},
    ):
        recipe = parse_recipe(body)
        assert parse_recipe(recipe.model_dump(mode="json")) == recipe
