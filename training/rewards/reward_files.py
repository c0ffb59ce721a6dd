"""Writes a reward model as an immutable folder named after its bytes, and loads it again with the same rewards.

`reward_model.safetensors` holds the adapters with their heads in fp32, `recipe.json` how they are read and joined,
`manifest.json` the digests, the temperature and the report.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.algorithms import AnyRewardRecipe
from training.base.convert import digest_of, file_digest
from training.base.model import SharedBase
from training.errors import AdapterDamaged, ModelRefused, RewardRefused
from training.examples.tokens import ChatTokens
from training.files import fsync_folder, read_json, read_object, write_json
from training.recipe import parse_recipe
from training.rewards.reward_model import Assessment, RewardModel

TENSORS = "reward_model.safetensors"
RECIPE = "recipe.json"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class RewardOrigin:
    """Where a reward model comes from."""

    base_digest: str
    job_id: str
    recipe_name: str


@dataclass(frozen=True)
class Exported:
    """A reward model's folder, and what its manifest says."""

    folder: Path
    manifest: Mapping[str, Any]


def export_reward(
    trained: RewardModel, origin: RewardOrigin, folder: Path, assess: Callable[[RewardModel], Assessment]
) -> Exported:
    """Write the trained members below `folder`.

    `assess` is given the model as it was written: without dropout, frozen. Where another job has exported the same
    bytes their folder stays as it is, with the temperature that was fitted then; the manifest returned is this job's
    own, and tells what the model is worth on its votes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{origin.job_id}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    save_file(_tensors(trained), aside / TENSORS, {"format": "pt"})
    (aside / TENSORS).chmod(0o644)
    write_json(aside / RECIPE, trained.recipe.model_dump(mode="json"))
    digest = digest_of([aside / RECIPE, aside / TENSORS])
    name = f"{trained.recipe.algorithm}-{digest[:12]}"
    final = folder / name
    known = final.exists()
    if known:
        check_folder(final)
    written = _adopt(aside, trained.base, trained.tokens, name)
    try:
        found = assess(written)
    finally:
        for member in written.members:
            trained.base.drop_adapter(member)
    manifest = {
        "format": 1,
        "name": name,
        "kind": trained.recipe.algorithm,
        "base_digest": origin.base_digest,
        "digest": digest,
        "job_id": origin.job_id,
        "recipe": origin.recipe_name,
        "files": {path.name: file_digest(path) for path in (aside / RECIPE, aside / TENSORS)},
        **found.as_json(),
    }
    if known:
        shutil.rmtree(aside)
        return Exported(final, manifest)
    write_json(aside / MANIFEST, manifest)
    fsync_folder(aside)
    aside.rename(final)
    fsync_folder(folder, files=False)
    return Exported(final, manifest)


def load_reward(folder: Path, base: SharedBase, tokens: ChatTokens, base_digest: str) -> RewardModel:
    """An exported reward model on a base in memory.

    RewardRefused when the folder is none or was trained on another base, AdapterDamaged when its bytes changed.
    """
    manifest = check_made_for(folder, base_digest)
    loaded = _adopt(folder, base, tokens, manifest["name"])
    return loaded.with_temperature(manifest["calibration"]["temperature"])


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """What a folder says of the reward model in it; None when it holds none, or says it in no way that can be read."""
    manifest = read_object(folder / MANIFEST)
    is_whole = manifest.get("format") == 1 and "calibration" in manifest
    return manifest if is_whole else None


def check_folder(folder: Path) -> dict[str, Any]:
    """The manifest of an exported reward model whose bytes are those it was named after."""
    manifest = manifest_of(folder)
    if manifest is None:
        raise RewardRefused(f"{folder} holds no exported reward model (a folder with {MANIFEST}, {RECIPE}, {TENSORS})")
    try:
        found = digest_of([folder / RECIPE, folder / TENSORS])
    except OSError as error:
        raise AdapterDamaged(f"{folder.name} cannot be read: {error}") from error
    if found != manifest["digest"]:
        raise AdapterDamaged(
            f"{folder.name}: its files have digest {found[:12]}, it was exported with {manifest['digest'][:12]}; "
            "restore the folder or train it again"
        )
    return manifest


def check_made_for(folder: Path, base_digest: str) -> dict[str, Any]:
    """The manifest of a reward model for this base. Raises what `load_reward` does, before anything is loaded."""
    manifest = check_folder(folder)
    if manifest["base_digest"] != base_digest:
        raise RewardRefused(
            f"{folder.name} was trained on base {manifest['base_digest'][:12]}, this one is {base_digest[:12]}; "
            "point BURNISH_MODEL_PATH at its base, or train a reward model on this one"
        )
    return manifest


def _adopt(folder: Path, base: SharedBase, tokens: ChatTokens, name: str) -> RewardModel:
    """The members as they were written, frozen, as adapters `NAME-0`, `NAME-1` and so on."""
    recipe = parse_recipe(read_json(folder / RECIPE) or {}, name=f"{folder.name}/{RECIPE}")
    if not isinstance(recipe, AnyRewardRecipe):
        raise RewardRefused(f"{folder.name}/{RECIPE} is a recipe for {recipe.algorithm}, not for a reward model")
    try:
        tensors = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise ModelRefused(f"{folder.name}/{TENSORS} cannot be read: {error}") from error
    members = [f"{name}-{number}" for number in range(recipe.ensemble)]
    for number, member in enumerate(members):
        base.adopt_adapter(member, recipe.adapter, _below(f"{number}/adapter/", tensors))
        base.adopt_head(member, tensors[f"{number}/head.weight"])
    return RewardModel(base, tokens, recipe, members)


def _tensors(trained: RewardModel) -> dict[str, Tensor]:
    """Every member's tensors in fp32, by number."""
    found: dict[str, Tensor] = {}
    for number, member in enumerate(trained.members):
        state = trained.base.adapter_state(member)
        found |= {f"{number}/adapter/{key}": value.contiguous() for key, value in state.items()}
        head = trained.base.head_parameters(member)
        found |= {f"{number}/{key}": value.detach().cpu().float().clone() for key, value in head.items()}
    return found


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
