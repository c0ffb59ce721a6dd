"""What every side of a benchmark shares: its task on stdin, one line of JSON on stdout, the adapter it trains."""

import json
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import LoraConfig

from training.algorithms import AdapterRecipe
from training.loops.steps import Point, Watch

ADAPTER = AdapterRecipe(rank=16, alpha=32)
LEARNING_RATE = 1e-4

Task = Mapping[str, Any]
Timed = tuple[float, list[float]]
"""Seconds, and the loss of each step."""


def run_side(sides: Mapping[str, Callable[[Task], Timed]], side: str) -> int:
    """One side on pairs, in this process."""
    task: Task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    seconds, losses = sides[side](task)
    figures = {
        "seconds": seconds,
        "pairs_per_s": len(task["pairs"]) / seconds,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "peak_mib": peak_mib(),
    }
    print(json.dumps(figures))
    return 0


def peak_mib() -> float:
    """The most memory that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def watch(points: list[Point]) -> Watch:
    """Keeps the curve."""
    return Watch(point=points.append, progress=lambda share: None, stopping=lambda: False)


def lora(task_type: str, **more: Any) -> LoraConfig:
    """The same adapter as peft is told of it."""
    return LoraConfig(
        r=ADAPTER.rank,
        lora_alpha=ADAPTER.alpha,
        target_modules=list(ADAPTER.target_modules),
        task_type=task_type,
        **more,
    )


def trl_arguments(work: str) -> dict[str, Any]:
    """What TRL's trainers on pairs are told on every side."""
    return {
        "output_dir": work,
        "use_cpu": True,
        "learning_rate": LEARNING_RATE,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def trl_best_arguments(task: Task) -> dict[str, Any]:
    """No checkpointing of activations, `trl_batch` pairs to a pass, as many to a step as ours."""
    return {
        "gradient_checkpointing": False,
        "per_device_train_batch_size": task["trl_batch"],
        "gradient_accumulation_steps": task["batch_pairs"] // task["trl_batch"],
    }
