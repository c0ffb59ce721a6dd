"""Writes a trained adapter as an immutable folder named after its bytes: bf16 safetensors, config, manifest.

Entering it in the registry is the caller's part.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from feedback.policies import version_name
from training.algorithms import AdapterRecipe
from training.base.convert import digest_of, file_digest
from training.base.model import SharedBase
from training.examples.batches import Item, make_pass
from training.examples.tokens import ChatTokens
from training.files import fsync_folder, read_object, write_json
from training.publishing.adapter_folders import CONFIG, MANIFEST, TENSORS, Published

PROBES: Sequence[tuple[str, str]] = (
    ("What is a good way to start the day?", "A short walk, a glass of water and a quiet breakfast help many people."),
    ("Name three things that float on water.", "A cork, a leaf and an empty bottle all float."),
    ("Why should I learn to cook?", "Cooking saves money, and you decide what goes into your food."),
    ("Explain what a map is for.", "A map shows where places lie, so that you can find a way between them."),
)
"""Fixed prompts with answers whose log-probs tell one adapter from another, and from the base."""


@dataclass(frozen=True)
class Origin:
    """Where an adapter comes from. `rollout`: of which round of its job's answers, for a policy still in training."""

    counter: int
    base_digest: str
    job_id: str
    recipe: str
    adapter: AdapterRecipe
    rollout: int | None = None


def publish(
    state: Mapping[str, Tensor], origin: Origin, adapters: Path, model: SharedBase, tokens: ChatTokens
) -> Published:
    """Write the adapter `state` below `adapters`. Publishing the same bytes again finds them there."""
    adapters.mkdir(parents=True, exist_ok=True)
    aside = adapters / f".{origin.job_id}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in state.items()}, aside / TENSORS, {"format": "pt"})
    (aside / TENSORS).chmod(0o644)
    write_json(aside / CONFIG, peft_config(origin.adapter))
    files = [aside / CONFIG, aside / TENSORS]
    digest = digest_of(files)
    version = version_name(origin.counter, digest)
    final = adapters / version
    if found := read_object(final / MANIFEST):
        shutil.rmtree(aside)
        if origin.rollout is None and found.get("rollout") is not None:
            write_json(final / MANIFEST, {**found, "rollout": None})  # sampled from first, and now the job's end
        return Published(version, digest, final)
    shutil.rmtree(final, ignore_errors=True)  # one whose manifest was damaged
    manifest = {
        "format": 1,
        "version": version,
        "base_digest": origin.base_digest,
        "digest": digest,
        "rank": origin.adapter.rank,
        "alpha": origin.adapter.alpha,
        "target_modules": sorted(origin.adapter.target_modules),
        "job_id": origin.job_id,
        "recipe": origin.recipe,
        "rollout": origin.rollout,
        "files": {path.name: file_digest(path) for path in files},
        "probes": probe(model, tokens, aside),
    }
    write_json(aside / MANIFEST, manifest)
    fsync_folder(aside)
    aside.rename(final)
    fsync_folder(adapters, files=False)
    return Published(version, digest, final)


def probe(model: SharedBase, tokens: ChatTokens, folder: Path) -> list[dict[str, Any]]:
    """Log-probs of the fixed answers under the base and under the adapter as it was written (rounded to bf16)."""
    items = [Item(tokens.prompt([{"role": "user", "content": ask}]), (tokens.answer(say),)) for ask, say in PROBES]
    name = "probe"
    model.load_adapter(name, folder)
    try:
        found = []
        for item in items:
            scored = {}
            for side, policy in (("base", None), ("adapter", name)):
                with torch.no_grad(), model.policy(policy):
                    scored[side] = [round(x, 5) for x in model.logprobs(make_pass([item])).tolist()]
            found.append({"token_ids": [*item.prompt, *item.answers[0]], "start": len(item.prompt), **scored})
        return found
    finally:
        model.drop_adapter(name)


def peft_config(recipe: AdapterRecipe) -> dict[str, Any]:
    """The adapter_config.json that peft and vLLM read; the same recipe gives the same bytes."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": recipe.kind == "rslora",
        "use_dora": False,
        "modules_to_save": None,
        "target_modules": sorted(recipe.target_modules),
        "inference_mode": True,
    }
