"""One side of `make bench-dpo` in a process of its own: `python -m tests.bench.dpo_sides SIDE` with the task on stdin.

Times from the pairs' texts to the trained adapter, and prints one line of JSON.
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

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
from training.base.loading import load_chat_tokens
from training.loops.preference import train_preference
from training.loops.steps import Point
from training.recipe import parse_recipe

BETA = 0.1


def ours(task: Task) -> Timed:
    """What a job does: tokens, the reference's pass, the steps, checkpoints."""
    folder = Path(task["model"])
    base = load_base(task)
    tokens = load_chat_tokens(folder)
    recipe = parse_recipe(
        {
            "algorithm": "dpo",
            "beta": BETA,
            "epochs": 1,
            "batch_pairs": task["batch_pairs"],
            "adapter": ADAPTER.model_dump(),
            "optimizer": {"learning_rate": LEARNING_RATE},
        }
    )
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as work:
        start = time.perf_counter()
        pairs = [token_pair(row, tokens, str(i)) for i, row in enumerate(task["pairs"])]
        train_preference(base, pairs, recipe, Path(work), watch(points))
        return time.perf_counter() - start, [point["loss"] for point in points]


def trl_best(task: Task) -> Timed:
    """No checkpointing of activations, reference computed once, base as ours, least padding."""
    return _trl(task, precision_of(task).base, {**trl_best_arguments(task), "precompute_ref_log_probs": True})


def trl_default(task: Task) -> Timed:
    """TRL with its defaults: base in fp32 (autocast as ours), activations checkpointed, reference in every step."""
    return _trl(task, torch.float32, {})


def _trl(task: Task, dtype: torch.dtype, options: Mapping[str, Any]) -> Timed:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(task["model"])
    with tempfile.TemporaryDirectory() as work:
        arguments = DPOConfig(beta=BETA, **trl_arguments(task, work), **options)
        start = time.perf_counter()
        rows = [conversation(row) for row in task["pairs"]]
        trainer = DPOTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora("CAUSAL_LM"),
        )
        trainer.train()
        seconds = time.perf_counter() - start
        return seconds, [point["loss"] for point in trainer.state.log_history if "loss" in point]


SIDES = {"ours": ours, "trl_best": trl_best, "trl_default": trl_default}

if __name__ == "__main__":
    sys.exit(run_side(SIDES, sys.argv[1]))
