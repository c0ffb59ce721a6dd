"""The cells of the table: which taste is taught by which recipe, with which votes. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from training.recipe import RECIPES, load_recipe, parse_recipe

ALL = ("dpo", "robust_dpo", "kto", "online_dpo", "ppo", "grpo")
OTHERS = ("kto", "online_dpo", "ppo", "grpo")
REWARDED = ("online_dpo", "ppo", "grpo")
"""Those that learn from a reward model."""
CUT_OFF = ("no_lists", "polite")
"""Tastes of which most taught answers end at the limit (97 and 54 %): their last token says nothing of the whole."""
BEST = "best"
"""Stands for the best of OTHERS, once the cells that say so are there."""
WRONG = 0.2
MOST_ADDED_LOSS = 0.10
"""Nats a token that a recipe may add to the base's loss to be among the best."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run. `wrong` is the share of votes that are flipped, `changes` what differs from the shipped recipe."""

    name: str
    taste: str
    recipe: str
    wrong: float = 0.0
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def thumbs(self) -> bool:
        """Whether the user gives thumbs instead of comparisons."""
        return self.recipe == "kto"

    @property
    def votes(self) -> str:
        """Names the votes that the cell learns from; cells with one name learn from the same."""
        return f"{self.taste}-{'thumbs' if self.thumbs else 'comparisons'}-{round(100 * self.wrong)}"


WITHOUT_KL = Cell(
    "short:ppo_without_kl",
    "short",
    "ppo",
    changes={
        "kl_weight": 0.0,
        "rollouts": {"rounds": 30},
        "optimizer": {"learning_rate": 5e-4},
    },
)
"""The over-optimisation curve."""

_KNOWN_RATE = {"flip_rate": WRONG}


def make_cell(taste: str, recipe: str) -> Cell:
    """A taste taught by a recipe as it is shipped; where answers are cut off, reward models look at every token."""
    looks_at_all = taste in CUT_OFF and recipe in REWARDED
    return Cell(f"{taste}:{recipe}", taste, recipe, changes={"reward": {"pooling": "mean"}} if looks_at_all else {})


CELLS: tuple[Cell, ...] = (
    *(make_cell(taste, recipe) for taste in ("short", "no_lists") for recipe in ALL),
    WITHOUT_KL,
    *(make_cell("polite", recipe) for recipe in ("dpo", "robust_dpo", BEST)),
    Cell("short_flipped:dpo", "short", "dpo", WRONG),
    Cell("short_flipped:robust_dpo", "short", "robust_dpo", WRONG, _KNOWN_RATE),
    Cell(f"short_flipped:{BEST}", "short", BEST, WRONG),
)
"""In the order in which they are run: BEST is known when its turn comes."""


def best_other(rows: Iterable[Row]) -> str | None:
    """The recipe of OTHERS that won most on *short* and *no lists*, of those that added little loss on both.

    None while a missing cell could still make another one the best, if it won every time; where all of them added too
    much, the one that won most.
    """
    by_cell = {row["cell"]: row for row in rows}
    reached: dict[str, tuple[bool, float]] = {}
    reachable: dict[str, tuple[bool, float]] = {}
    for recipe in OTHERS:
        own = [by_cell[name] for taste in ("short", "no_lists") if (name := f"{taste}:{recipe}") in by_cell]
        if any(row["state"] != "done" for row in own):
            continue
        natural = all(row["added_loss"] <= MOST_ADDED_LOSS for row in own)
        wins, missing = sum(row["wins"] for row in own), 2 - len(own)
        reachable[recipe] = (natural, wins + missing)
        if not missing:
            reached[recipe] = (natural, wins)
    best = max(reached, key=lambda recipe: reached[recipe], default=None)
    return None if best is None or max(reachable.values()) > reached[best] else best


def settled(cell: Cell, rows: Iterable[Row]) -> Cell | None:
    """The cell with the best recipe in place of BEST; None while it is not known which that is."""
    if cell.recipe != BEST:
        return cell
    best = best_other(rows)
    return None if best is None else replace(cell, recipe=best, changes=make_cell(cell.taste, best).changes)


def recipe_body(cell: Cell, smoke: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The shipped recipe with the cell's changes, as a job's row holds it. RecipeRefused when they do not fit."""
    body = merge(load_recipe(RECIPES / f"{cell.recipe}.toml").model_dump(mode="json"), cell.changes)
    return parse_recipe(merge(body, fitting(smoke or {}, body)), name=cell.name).model_dump(mode="json")


def merge(body: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A table with another laid over it, tables within them likewise."""
    merged = dict(body)
    for key, value in changes.items():
        merged[key] = merge(body.get(key, {}), value) if isinstance(value, Mapping) else value
    return merged


def fitting(changes: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the changes whose fields a recipe has."""
    return {
        key: fitting(value, body[key]) if isinstance(value, Mapping) else value
        for key, value in changes.items()
        if key in body
    }


SMOKE: Mapping[str, Any] = {
    "epochs": 1,
    "rollouts": {"rounds": 2, "prompts": 4, "answers": 2, "max_tokens": 48},
    "reward": {"epochs": 1},
    "loss": {"epochs": 1},
}
"""Over every recipe, to see in minutes that all of it works."""

SMOKE_SETTINGS: Mapping[str, str] = {"BURNISH_GATE_MAX_TOKENS": "16"}
"""The gate asks 64 questions of every version at least: most of a small job's time."""
