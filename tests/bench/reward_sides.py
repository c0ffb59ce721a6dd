"""One side of `make bench-reward` in a process of its own: `python -m tests.bench.reward_sides SIDE`, task on stdin.

Times from the pairs' texts to the trained adapter with its head, and prints one line of JSON.
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.bench.pairs import conversation, token_pair
from tests.bench.sides import (
    ADAPTER,
    LEARNING_RATE,
    Task,
    Timed,
    load_base,
    lora,
    precision_of,
    run_side,
    trl_arguments,
    trl_best_arguments,
    watch,
)
from training.algorithms import RewardRecipe
from training.base.loading import load_chat_tokens
from training.loops.reward import train_reward
from training.loops.steps import Point
from training.recipe import parse_recipe
from training.rewards.reading import read_pairs


def ours(task: Task) -> Timed:
    """What a job does: tokens, the steps, checkpoints. Rewards are not centred, as in TRL."""
    folder = Path(task["model"])
    base = load_base(task)
    tokens = load_chat_tokens(folder)
    recipe = parse_recipe(
        {
            "algorithm": "reward",
            "centring": 0.0,
            "epochs": 1,
            "batch_pairs": task["batch_pairs"],
            "adapter": ADAPTER.model_dump(),
            "optimizer": {"learning_rate": LEARNING_RATE},
        }
    )
    assert isinstance(recipe, RewardRecipe)
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as work:
        start = time.perf_counter()
        pairs = [token_pair(row, tokens, str(i)) for i, row in enumerate(task["pairs"])]
        train_reward(base, read_pairs(pairs, recipe, tokens), recipe, Path(work), watch(points))
        return time.perf_counter() - start, [point["loss"] for point in points]


def trl_best(task: Task) -> Timed:
    """No checkpointing of activations, base as ours, least padding."""
    return _trl(task, precision_of(task).base, trl_best_arguments(task))


def trl_default(task: Task) -> Timed:
    """TRL with its defaults: base in fp32 (autocast as ours), activations checkpointed."""
    return _trl(task, torch.float32, {})


def _trl(task: Task, dtype: torch.dtype, options: Mapping[str, Any]) -> Timed:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    model = AutoModelForSequenceClassification.from_pretrained(task["model"], num_labels=1, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(task["model"])
    with tempfile.TemporaryDirectory() as work:
        arguments = RewardConfig(**trl_arguments(task, work), **options)
        start = time.perf_counter()
        rows = [conversation(row) for row in task["pairs"]]
        trainer = RewardTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora("SEQ_CLS", modules_to_save=["score"]),
        )
        trainer.train()
        seconds = time.perf_counter() - start
        return seconds, [point["loss"] for point in trainer.state.log_history if "loss" in point]


SIDES = {"ours": ours, "trl_best": trl_best, "trl_default": trl_default}

if __name__ == "__main__":
    sys.exit(run_side(SIDES, sys.argv[1]))
