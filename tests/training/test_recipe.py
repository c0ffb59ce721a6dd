"""Recipes: what ships is sound, and a wrong one is refused with field, value and bound."""

from pathlib import Path

import pytest

from training.algorithms import AdapterRecipe, OptimizerRecipe, RolloutRecipe, SafetyFirst, WeightedSum
from training.errors import RecipeRefused
from training.recipe import ALGORITHMS, load_recipe, load_recipes, parse_recipe


def test_every_recipe_that_ships_can_be_read() -> None:
    assert {"dpo", "smoke", "reward", "pairwise_reward"} <= load_recipes().keys()


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
