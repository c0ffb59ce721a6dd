"""Reads recipes from TOML files and tables; what they may say is `algorithms`' to tell. Never imports torch."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from training.algorithms import Recipe
from training.errors import RecipeRefused

RECIPES = Path(__file__).parent / "recipes"

ALGORITHMS: Mapping[str, type[Recipe]] = {
    get_args(model.model_fields["algorithm"].annotation)[0]: model for model in get_args(Recipe)
}


@dataclass(frozen=True)
class Folder:
    """A folder's recipes by their names (the files', without `.toml`), and why the others in it are refused."""

    recipes: dict[str, Recipe]
    refused: dict[str, str]


def parse_recipe(body: Mapping[str, Any], *, name: str = "recipe") -> Recipe:
    """The recipe a table describes; RecipeRefused names field, value and bound."""
    algorithm = body.get("algorithm")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        known = ", ".join(sorted(ALGORITHMS))
        raise RecipeRefused(f"{name}: algorithm = {algorithm!r} is not known; choose one of: {known}")
    try:
        return ALGORITHMS[algorithm].model_validate(dict(body))
    except ValidationError as error:
        problems = "; ".join(_problem(detail) for detail in error.errors())
        raise RecipeRefused(f"{name}: {problems}") from error


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file. RecipeRefused as `parse_recipe`, and for what is none at all."""
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RecipeRefused(f"{path.name} is no valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise RecipeRefused(f"{path.name} is no text in UTF-8: {error}; save it as UTF-8") from error
    except OSError as error:
        raise RecipeRefused(f"{path.name} cannot be read: {error.strerror}") from error
    return parse_recipe(body, name=path.name)


def load_recipes(folder: Path = RECIPES) -> Folder:
    """Every recipe of a folder; one that is wrong is in nobody's way. Hidden files are an editor's own."""
    recipes: dict[str, Recipe] = {}
    refused: dict[str, str] = {}
    for path in sorted(folder.glob("[!.]*.toml")):
        try:
            recipes[path.stem] = load_recipe(path)
        except RecipeRefused as error:
            refused[path.stem] = str(error)
    return Folder(recipes, refused)


def _problem(detail: Mapping[str, Any]) -> str:
    field = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{field} = {detail['input']!r} is no field of this recipe; remove it or mend its name"
    if detail["type"] == "missing":
        return f"{field} is missing"
    if not field:  # fields that do not go together
        return _bound(str(detail["msg"]))
    return f"{field} = {detail['input']!r} is refused: {_bound(str(detail['msg']))}"


def _bound(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
