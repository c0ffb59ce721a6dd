"""What every side of a benchmark shares: its task on stdin, one line of JSON on stdout, the adapter it trains."""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from training.algorithms import AdapterRecipe
from training.base.loading import PRECISIONS, Precision
from training.base.model import SharedBase
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


def precision_of(task: Task) -> Precision:
    """What the base's weights and the products are in, on every side."""
    return PRECISIONS[task["precision"]]


def load_base(task: Task, *, recompute: bool = False) -> SharedBase:
    """The base as a job would hold it."""
    return SharedBase(Path(task["model"]), torch.device("cpu"), precision_of(task), recompute=recompute)


def peak_mib() -> float:
    """The most memory that this process has had resident; to be asked while the models are still there.

    The kernel's high-water mark of this program alone: that of `getrusage` begins with what its parent had. It counts
    a file's pages once per mapping. Models that were loaded from the same file have it mapped each: what is there
    twice is taken off.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (most,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(most) / 1024 - mapped_again_kib() / 1024


def mapped_again_kib() -> int:
    """Pages of files that are resident in this process through more than one mapping, beyond the first."""
    resident: dict[tuple[str, str], list[int]] = defaultdict(list)
    key: tuple[str, str] | None = None
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        name, *values = line.split()
        if not name.endswith(":"):  # address, rights, offset, device, inode, path
            inode = values[3]
            key = None if inode == "0" else (inode, values[1])
        elif key is not None and name == "Rss:":
            resident[key].append(int(values[0]))
        elif key is not None and name == "Anonymous:":
            resident[key][-1] -= int(values[0])  # written to since: a copy of its own
    return sum(sum(each) - max(each) for each in resident.values())


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


def trl_arguments(task: Task, work: str) -> dict[str, Any]:
    """What TRL's trainers on pairs are told on every side."""
    return {
        "output_dir": work,
        "use_cpu": True,
        "bf16": precision_of(task).products is torch.bfloat16,
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
