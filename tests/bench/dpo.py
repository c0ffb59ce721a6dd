"""`make bench-dpo`: DPO on real pairs, ours against TRL at its best and as it comes. Ends with one JSON line.

Every side takes the same pairs from text to a trained adapter in steps of as many pairs, the reference's log-probs
included; loading the model is not counted.
"""

import argparse
import gzip
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.rounds import (
    Bench,
    Measured,
    find_data,
    find_model,
    median_ratio,
    medians,
    run_rounds,
    say,
    surroundings,
)
from training.model import load_chat_tokens

SIDES = ("ours", "trl_best", "trl_default")
LONGEST_TOKENS = 1024
"""Of a prompt with either answer: TRL's default `max_length`, so that nobody cuts anything."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make bench-dpo", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times that every side is run (default 3)")
    parser.add_argument("--pairs", type=int, default=24, help="pairs to learn from (default 24)")
    parser.add_argument("--longest", type=int, default=LONGEST_TOKENS, help="most tokens of a prompt with an answer")
    parser.add_argument("--trl-batch", type=int, default=1, help="pairs in one pass of TRL at its best (default 1)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of every side")
    parser.add_argument("--data", type=Path, default=None, help="folder with pairs_en.jsonl.gz")
    told = parser.parse_args(arguments)
    model = find_model()
    pairs = read_pairs(find_data("pairs_en.jsonl.gz", told.data), model, told.pairs, told.longest)
    task = {"model": str(model), "pairs": pairs, "batch_pairs": 8, "trl_batch": told.trl_batch}
    about = surroundings(told.threads)
    say(f"{len(pairs)} pairs, {told.rounds} rounds, {told.threads} threads, load {about['load_before']}")
    rounds = run_rounds(Bench("tests.bench.dpo_sides", SIDES, task, told.threads), told.rounds)
    print(table(rounds), file=sys.stderr)
    print(json.dumps(result(rounds, len(pairs), about)))
    return 0


def read_pairs(path: Path, model: Path, count: int, longest: int) -> list[dict[str, Any]]:
    """The first `count` pairs whose sequences are at most `longest` tokens, as they stand in the file."""
    tokens = load_chat_tokens(model)
    kept: list[dict[str, Any]] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            prompt = tokens.prompt(row["messages"])
            lengths = [len(prompt) + len(tokens.answer(row[side])) for side in ("chosen", "rejected")]
            if max(lengths) <= longest and row["chosen"] != row["rejected"]:
                kept.append(row)
            if len(kept) == count:
                return kept
    raise SystemExit(f"bench: {path} has {len(kept)} pairs of at most {longest} tokens, {count} were asked for")


def result(rounds: Sequence[dict[str, Measured]], n_pairs: int, about: dict[str, Any]) -> dict[str, Any]:
    return {
        "bench": "dpo",
        "ratio_best": round(median_ratio(rounds, "pairs_per_s", "ours", "trl_best"), 3),
        "ratio_default": round(median_ratio(rounds, "pairs_per_s", "ours", "trl_default"), 3),
        "pairs_per_s": {side: round(value, 4) for side, value in medians(rounds, "pairs_per_s").items()},
        "peak_mib": {side: round(value) for side, value in medians(rounds, "peak_mib").items()},
        "first_loss": {side: round(value, 4) for side, value in medians(rounds, "first_loss").items()},
        "rounds": len(rounds),
        "pairs": n_pairs,
        **about,
    }


def table(rounds: Sequence[dict[str, Measured]]) -> str:
    """One line per side and round."""
    head = (
        f"{'round':>5}  {'side':<12} {'seconds':>8} {'pairs/s':>8} {'peak MiB':>8} {'first loss':>10} {'last loss':>10}"
    )
    lines = [
        f"{number:>5}  {side:<12} {each['seconds']:>8.1f} {each['pairs_per_s']:>8.3f} {each['peak_mib']:>8.0f}"
        f" {each['first_loss']:>10.4f} {each['last_loss']:>10.4f}"
        for number, sides in enumerate(rounds, start=1)
        for side, each in sorted(sides.items())
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
