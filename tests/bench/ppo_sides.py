"""One side of `make bench-ppo` in a process of its own: `python -m tests.bench.ppo_sides SIDE` with the task on stdin.

Times whole rounds, from the prompts' texts to the last step, sampling included, and prints one line of JSON. A side's
file is imported when it is run: TRL's needs a TRL that is not the environment's own.
"""

import importlib
import json
import sys
from dataclasses import asdict

import torch

from tests.bench.ppo_shared import Told
from tests.bench.sides import Task

SIDES = {
    "ours": ("tests.bench.ppo_ours", "ours"),
    "ours_recomputing": ("tests.bench.ppo_ours", "ours_recomputing"),
    "trl_best": ("tests.bench.ppo_trl", "trl_best"),
    "trl_default": ("tests.bench.ppo_trl", "trl_default"),
}
"""A side's file, and the function in it."""


def main(side: str) -> int:
    task: Task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    module, function = SIDES[side]
    told: Told = getattr(importlib.import_module(module), function)(task)
    samples = task["rounds_each"] * len(task["prompts"]) * task["answers"]
    print(json.dumps({**asdict(told), "samples_per_s": samples / told.seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
