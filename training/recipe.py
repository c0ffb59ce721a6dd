"""Reads recipes from TOML files and tables; what they may say is `algorithms`' to tell. Never imports torch."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from training.algorithms import Recipe
from training.errors import RecipeRefused

RECIPES = Path(__file__).parent / "recipes"

ALGORITHMS: Mapping[str, type[Recipe]] = {
    get_args(model.model_fields["algorithm"].annotation)[0]: model for model in get_args(Recipe)
}


def parse_recipe(body: Mapping[str, Any], *, name: str = "recipe") -> Recipe:
    """The recipe a table describes; RecipeRefused names field, value and bound."""
    algorithm = body.get("algorithm")
    if algorithm not in ALGORITHMS:
        known = ", ".join(sorted(ALGORITHMS))
        raise RecipeRefused(f"{name}: algorithm = {algorithm!r} is not known; choose one of: {known}")
    try:
        return ALGORITHMS[str(algorithm)].model_validate(dict(body))
    except ValidationError as error:
        problems = "; ".join(_problem(detail) for detail in error.errors())
        raise RecipeRefused(f"{name}: {problems}") from error


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file."""
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RecipeRefused(f"{path.name} is no valid TOML: {error}") from error
    return parse_recipe(body, name=path.name)


def load_recipes(folder: Path = RECIPES) -> dict[str, Recipe]:
    """Every recipe of a folder by its name: the file's, without `.toml`."""
    return {path.stem: load_recipe(path) for path in sorted(folder.glob("*.toml"))}


def _problem(detail: Mapping[str, Any]) -> str:
    field = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{field} = {detail['input']!r} is no field of this recipe; remove it or mend its name"
    if detail["type"] == "missing":
        return f"{field} is missing"
    if not field:  # fields that do not go together
        return _bound(str(detail["msg"]).removeprefix("Value error, "))
    return f"{field} = {detail['input']!r} is refused: {_bound(str(detail['msg']))}"


def _bound(message: str) -> str:
    return message[:1].lower() + message[1:]
