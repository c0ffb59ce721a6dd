"""Recipes: what an algorithm may be told, with the meaning and the bounds of every field. Never imports torch."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import RecipeRefused

RECIPES = Path(__file__).parent / "recipes"


class AdapterRecipe(BaseModel):
    """The LoRA that is trained: W + (alpha / rank)·B·A on the named linear layers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Literal[1, 8, 16, 32, 64] = Field(default=16, description="Rank of A and B; the ranks vLLM serves.")
    alpha: int = Field(default=32, ge=1, le=1024, description="Scale of the update, divided by the rank.")
    dropout: float = Field(default=0.0, ge=0, le=0.5, description="Dropout on the adapter's input.")
    target_modules: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        max_length=16,
        description="Linear layers that get an adapter, by the last part of their name.",
    )


class OptimizerRecipe(BaseModel):
    """AdamW with a warmup, a decay and clipped gradients."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(default=1e-4, gt=0, le=1e-2, description="Peak learning rate.")
    schedule: Literal["constant", "linear", "cosine"] = Field(default="linear", description="Decay to 0 after warmup.")
    warmup_share: float = Field(default=0.1, ge=0, le=0.5, description="Share of the steps that warm up from 0.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Decoupled weight decay.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of the gradient's mean.")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="Decay of the gradient's square.")
    max_grad_norm: float = Field(default=1.0, gt=0, le=100, description="Norm that gradients are clipped to.")


class DpoRecipe(BaseModel):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), with an optional NLL term."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm: Literal["dpo"]
    beta: float = Field(default=0.1, gt=0, le=5, description="How strongly the policy is held to the reference.")
    nll_weight: float = Field(
        default=0.0, ge=0, le=10, description="Weight of the chosen answer's negative log-likelihood per token."
    )
    epochs: int = Field(default=2, ge=1, le=50, description="Passes over all pairs.")
    batch_pairs: int = Field(default=8, ge=1, le=1024, description="Least pairs an optimizer step learns from.")
    pass_tokens: int = Field(
        default=512, ge=32, le=1_048_576, description="Most tokens in one forward pass; a longer pair goes alone."
    )
    max_pair_tokens: int = Field(
        default=2048, ge=32, le=1_048_576, description="Longest prompt with both answers; longer pairs are left out."
    )
    min_pairs: int = Field(default=4, ge=1, le=1_000_000, description="Fewest training pairs to go on with.")
    max_mismatched_share: float = Field(
        default=0.02,
        ge=0,
        le=0.5,
        description="Share of pairs whose tokens may differ from the engine's and be left out, one pair at least; "
        "above it the job stops. 0 tolerates none.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the adapter, the order and the dropout.")
    adapter: AdapterRecipe = AdapterRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()


Recipe = DpoRecipe
"""Any recipe: a union over `algorithm`."""

ALGORITHMS: Mapping[str, type[Recipe]] = {"dpo": DpoRecipe}


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
    return f"{field} = {detail['input']!r} is refused: {_bound(str(detail['msg']))}"


def _bound(message: str) -> str:
    return message[:1].lower() + message[1:]
