"""The reward model of `make bench-ppo`, made once: as we export one, and merged into a model as TRL reads it.

Both are of the same weights; that they give the same rewards is checked when they are made.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification

from tests.bench.pairs import BATCH_PAIRS, Row, token_pair
from tests.bench.rounds import say
from tests.bench.sides import ADAPTER, watch
from training.algorithms import RewardRecipe
from training.base.convert import model_digest
from training.base.loading import PRECISIONS, load_chat_tokens
from training.base.model import SharedBase
from training.examples.example import TokenPair
from training.files import write_json
from training.loops.reward import train_reward
from training.publishing.publish import peft_config
from training.recipe import parse_recipe
from training.rewards.reading import read_pairs
from training.rewards.reward_files import RewardOrigin, export_reward
from training.rewards.reward_model import Answered, RewardModel, assess

MOST_GAP = 0.15
"""Nats that the two may lie apart: the adapter is beside the base in one, rounded into bf16 weights in the other."""


@dataclass(frozen=True)
class RewardModels:
    """The same reward model in both forms."""

    exported: Path
    merged: Path


def make_reward_models(model: Path, rows: Sequence[Row], home: Path, precision: str) -> RewardModels:
    """What is kept in `home`, else a model trained on `rows`, once over."""
    home.mkdir(parents=True, exist_ok=True)
    merged = home / "merged"
    if (merged / "complete").exists():
        return RewardModels(next((home / "exported").glob("reward-*")), merged)
    shutil.rmtree(home)
    say(f"making a reward model from {len(rows)} pairs")
    base, tokens = SharedBase(model, torch.device("cpu"), PRECISIONS[precision]), load_chat_tokens(model)
    recipe = parse_recipe(
        {"algorithm": "reward", "epochs": 1, "batch_pairs": BATCH_PAIRS, "adapter": ADAPTER.model_dump()}
    )
    assert isinstance(recipe, RewardRecipe)
    pairs = [token_pair(row, tokens, str(i)) for i, row in enumerate(rows)]
    members = train_reward(base, read_pairs(pairs, recipe, tokens), recipe, home / "work", watch([]))
    trained = RewardModel(base, tokens, recipe, members)
    origin = RewardOrigin(model_digest(model), "bench-ppo", "reward")
    exported = export_reward(trained, origin, home / "exported", lambda written: assess(written, [], []))
    (member,) = members
    merge(base, member, model, merged, home / "adapter")
    check_same(trained, merged, pairs[:4])
    (merged / "complete").touch()
    return RewardModels(exported.folder, merged)


def merge(base: SharedBase, member: str, model: Path, merged: Path, adapter: Path) -> None:
    """Write a sequence classifier in bf16 that rewards as the adapter `member` with its head does."""
    adapter.mkdir(parents=True, exist_ok=True)
    state = base.adapter_state(member)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, adapter / "adapter_model.safetensors")
    write_json(adapter / "adapter_config.json", {**peft_config(ADAPTER), "task_type": None})
    classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
    classifier = PeftModel.from_pretrained(classifier, adapter).merge_and_unload()
    head = base.head_parameters(member)["head.weight"]
    with torch.no_grad():
        classifier.score.weight.copy_(head)
    classifier.to(torch.bfloat16).save_pretrained(merged)


def check_same(trained: RewardModel, merged: Path, pairs: Sequence[TokenPair]) -> None:
    """SystemExit when the two give an answer rewards that lie apart."""
    classifier = AutoModelForSequenceClassification.from_pretrained(merged, dtype=torch.bfloat16).eval()
    asked = [Answered(pair.prompt, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    for each, reward in zip(asked, trained.rewards(asked), strict=True):
        ids = torch.tensor([[*each.prompt, *each.answer]])
        with torch.no_grad():
            hidden_TH = classifier.model(input_ids=ids).last_hidden_state[0]
            theirs = float(classifier.score(hidden_TH[-1]))
        if abs(theirs - reward.value) > MOST_GAP:
            raise SystemExit(f"bench: the reward models differ: ours gives {reward.value:.3f}, the merged {theirs:.3f}")
