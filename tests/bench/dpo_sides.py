"""One side of `make bench-dpo` in a process of its own: `python -m tests.bench.dpo_sides SIDE` with the task on stdin.

Times from the pairs' texts to the trained adapter, and prints one line of JSON.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.algorithms import AdapterRecipe
from training.curate import TokenPair
from training.loops.preference import train_preference
from training.loops.steps import Point, Watch
from training.model import SharedBase, load_chat_tokens
from training.recipe import parse_recipe

ADAPTER = AdapterRecipe(rank=16, alpha=32)
BETA = 0.1
LEARNING_RATE = 1e-4

Task = Mapping[str, Any]


def main(side: str) -> int:
    task: Task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    seconds, losses = SIDES[side](task)
    figures = {
        "seconds": seconds,
        "pairs_per_s": len(task["pairs"]) / seconds,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(figures))
    return 0


def ours(task: Task) -> tuple[float, list[float]]:
    """What a job does: tokens, the reference's pass, the steps, checkpoints."""
    folder = Path(task["model"])
    base = SharedBase(folder, torch.device("cpu"))
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
    watch = Watch(point=points.append, progress=lambda share: None, stopping=lambda: False)
    with tempfile.TemporaryDirectory() as work:
        start = time.perf_counter()
        pairs = [
            TokenPair(
                str(i), str(i), tokens.prompt(r["messages"]), tokens.answer(r["chosen"]), tokens.answer(r["rejected"])
            )
            for i, r in enumerate(task["pairs"])
        ]
        train_preference(base, pairs, recipe, Path(work), watch)
        return time.perf_counter() - start, [point["loss"] for point in points]


def trl_best(task: Task) -> tuple[float, list[float]]:
    """No checkpointing of activations, reference computed once, base in bf16 as ours, least padding."""
    return _trl(
        task,
        torch.bfloat16,
        {
            "gradient_checkpointing": False,
            "precompute_ref_log_probs": True,
            "per_device_train_batch_size": task["trl_batch"],
            "gradient_accumulation_steps": task["batch_pairs"] // task["trl_batch"],
        },
    )


def trl_default(task: Task) -> tuple[float, list[float]]:
    """TRL as it comes: base in fp32 under bf16 autocast, activations checkpointed, the reference in every step."""
    return _trl(task, torch.float32, {})


def _trl(task: Task, dtype: torch.dtype, options: Mapping[str, Any]) -> tuple[float, list[float]]:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(task["model"])
    with tempfile.TemporaryDirectory() as work:
        arguments = DPOConfig(
            output_dir=work,
            use_cpu=True,
            beta=BETA,
            learning_rate=LEARNING_RATE,
            num_train_epochs=1,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **options,
        )
        adapter = LoraConfig(
            r=ADAPTER.rank,
            lora_alpha=ADAPTER.alpha,
            target_modules=list(ADAPTER.target_modules),
            task_type="CAUSAL_LM",
        )
        start = time.perf_counter()
        rows = [_conversation(row) for row in task["pairs"]]
        trainer = DPOTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=adapter,
        )
        trainer.train()
        seconds = time.perf_counter() - start
        return seconds, [point["loss"] for point in trainer.state.log_history if "loss" in point]


def _conversation(row: Mapping[str, Any]) -> dict[str, Any]:
    """The form that TRL documents for chats; its template ends an answer with one more token, a line break."""
    answers = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
    return {"prompt": row["messages"], **answers}


SIDES = {"ours": ours, "trl_best": trl_best, "trl_default": trl_default}

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
