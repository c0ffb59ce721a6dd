"""`make bench-ppo`: PPO with a reward model, ours against TRL's last with it (1.12). Ends with one JSON line.

Every side answers the same prompts as often with as many tokens at most, has its answers rewarded by the same reward
model, and learns from them in as many steps with the same adapters; loading models and starting the engine is not
counted. Memory is that of the process that holds the models and the optimizer; our engine's is stated apart.
"""

import argparse
import gzip
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.pairs import FILE, read_pairs
from tests.bench.ppo_reward import make_reward_models
from tests.bench.rounds import (
    Bench,
    Measured,
    add_precision,
    find_data,
    find_model,
    machine_load,
    median_ratio,
    medians,
    run_rounds,
    say,
    surroundings,
)
from tests.services import ROOT
from training.base.loading import PRECISIONS, load_chat_tokens

SIDES = ("ours", "ours_recomputing", "trl_best", "trl_default")
TRL = ROOT / ".cache" / "trl-1.12.0"
PROMPTS = "instructions_en.jsonl.gz"
SAID = ("rounds_each", "answers", "max_tokens", "epochs", "pass_tokens", "trl_batch", "trl_dtype", "precision")
"""What the JSON line says of the task."""


def main(arguments: Sequence[str]) -> int:
    load = machine_load()
    told = parse_arguments(arguments)
    if not (told.trl / "trl").exists():
        raise SystemExit(f"bench: no TRL in {told.trl}; `make bench-ppo` puts it there")
    model = find_model()
    prompts = read_prompts(find_data(PROMPTS, told.data), model, told.prompts, told.longest)
    pairs = read_pairs(find_data(FILE, told.data), model, told.reward_pairs, 512)
    home = ROOT / ".cache" / "bench" / f"ppo-{model_name(model)}-{len(pairs)}-{told.precision}"
    reward = make_reward_models(model, pairs, home, told.precision)
    task = {
        "model": str(model),
        "reward": str(reward.exported),
        "reward_merged": str(reward.merged),
        "prompts": prompts,
        "answers": told.answers,
        "max_tokens": told.max_tokens,
        "epochs": told.epochs,
        "pass_tokens": told.pass_tokens,
        "rounds_each": told.rounds_each,
        "trl_batch": told.trl_batch,
        "trl_rollout_batch": told.trl_rollout_batch,
        "trl_dtype": told.trl_dtype or told.precision,
        "precision": told.precision,
    }
    about = surroundings(told.threads, load)
    say(f"{len(prompts)} prompts, {told.rounds} rounds, {told.threads} threads, {told.precision}, load {load}")
    packages = {side: told.trl for side in SIDES if side.startswith("trl")}
    rounds = run_rounds(Bench("tests.bench.ppo_sides", told.sides, task, told.threads, packages), told.rounds)
    print(table(rounds), file=sys.stderr)
    print(json.dumps(result(rounds, task, about)))
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-ppo", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times that every side is run (default 3)")
    parser.add_argument("--rounds-each", type=int, default=2, help="PPO rounds of every run (default 2)")
    parser.add_argument("--prompts", type=int, default=8, help="prompts answered in a PPO round (default 8)")
    parser.add_argument("--answers", type=int, default=2, help="answers to each prompt (default 2)")
    parser.add_argument("--max-tokens", type=int, default=64, help="longest answer (default 64)")
    parser.add_argument("--longest", type=int, default=128, help="most tokens of a prompt (default 128)")
    parser.add_argument("--epochs", type=int, default=2, help="times that a PPO round is learned from (default 2)")
    parser.add_argument("--pass-tokens", type=int, default=512, help="tokens in one pass of ours (default 512)")
    parser.add_argument("--reward-pairs", type=int, default=32, help="pairs that the reward model is made from")
    parser.add_argument("--trl-batch", type=int, default=2, help="answers in one pass of TRL at its best (default 2)")
    parser.add_argument("--trl-rollout-batch", type=int, default=0, help="answers TRL samples at once (0: a round's)")
    parser.add_argument("--trl-dtype", choices=PRECISIONS, help="of TRL's bases at its best (default: as ours)")
    add_precision(parser)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of every side")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="which sides are run")
    parser.add_argument("--data", type=Path, default=None, help=f"folder with {PROMPTS} and {FILE}")
    parser.add_argument("--trl", type=Path, default=TRL, help="folder that TRL 1.12 is installed in")
    return parser.parse_args(arguments)


def read_prompts(path: Path, model: Path, count: int, longest: int) -> list[str]:
    """The first `count` prompts of at most `longest` tokens."""
    tokens = load_chat_tokens(model)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["prompt"] for line in lines]
    kept = [text for text in texts if len(tokens.prompt([{"role": "user", "content": text}])) <= longest][:count]
    if len(kept) < count:
        raise SystemExit(f"bench: {path} has {len(kept)} prompts of at most {longest} tokens, {count} were asked for")
    return kept


def model_name(model: Path) -> str:
    return (model / "digest.txt").read_text(encoding="utf-8").strip()[:12]


def result(rounds: Sequence[dict[str, Measured]], task: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """The JSON line. `ratio_memory` is against TRL at its best, `ratio_memory_default` with its defaults.

    Those of ours with activations that are computed again end with `_recomputing`.
    """
    peers = {side.removeprefix("trl_"): side for side in rounds[0] if side.startswith("trl")}
    ratios: dict[str, float] = {}
    for own in (side for side in rounds[0] if side.startswith("ours")):
        ending = own.removeprefix("ours")
        for name, side in peers.items():
            ratios[f"ratio_{name}{ending}"] = median_ratio(rounds, "samples_per_s", own, side)
            memory = "ratio_memory" if name == "best" else f"ratio_memory_{name}"
            ratios[f"{memory}{ending}"] = median_ratio(rounds, "peak_mib", own, side)
    shown = ("samples_per_s", "peak_mib", "waiting_s", "steps", "answer_tokens", "engine_mib", "serving_mib")
    trl = next((rounds[0][side]["trl"] for side in peers.values()), None)
    return {
        "bench": "ppo",
        **{name: round(value, 3) for name, value in ratios.items()},
        **{key: {side: round(value, 3) for side, value in medians(rounds, key).items()} for key in shown},
        "rounds": len(rounds),
        **{key: task[key] for key in SAID},
        "prompts": len(task["prompts"]),
        **about,
        "versions": {**about["versions"], "trl": trl},
    }


def table(rounds: Sequence[dict[str, Measured]]) -> str:
    """One line per side and round."""
    head = (
        f"{'round':>5}  {'side':<12} {'seconds':>8} {'waiting':>8} {'samples/s':>9} {'peak MiB':>8} {'engine':>7}"
        f" {'tokens':>7} {'reward':>7}"
    )
    lines = [
        f"{number:>5}  {side:<12} {each['seconds']:>8.1f} {each['waiting_s']:>8.1f} {each['samples_per_s']:>9.3f}"
        f" {each['peak_mib']:>8.0f} {each['engine_mib']:>7.0f} {each['answer_tokens']:>7.1f}"
        f" {each['reward_mean']:>7.3f}"
        for number, sides in enumerate(rounds, start=1)
        for side, each in sorted(sides.items())
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
