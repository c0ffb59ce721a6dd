"""Real pairs for the benchmarks that learn from pairs, and what those benchmarks are asked and say."""

import argparse
import gzip
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.rounds import Measured, add_precision, find_data, find_model, median_ratio, medians
from training.base.loading import load_chat_tokens
from training.examples.example import TokenPair
from training.examples.tokens import ChatTokens

FILE = "pairs_en.jsonl.gz"
LONGEST_TOKENS = 1024
"""Of a prompt with either answer: TRL's default `max_length`, so that nobody cuts anything."""
BATCH_PAIRS = 8
"""Pairs in one optimizer step, of every side."""

Row = dict[str, Any]


def parse_arguments(arguments: Sequence[str], name: str, what: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"make {name}", description=what)
    parser.add_argument("--rounds", type=int, default=3, help="times that every side is run (default 3)")
    parser.add_argument("--pairs", type=int, default=24, help="pairs to learn from (default 24)")
    parser.add_argument("--longest", type=int, default=LONGEST_TOKENS, help="most tokens of a prompt with an answer")
    parser.add_argument("--trl-batch", type=int, default=1, help="pairs in one pass of TRL at its best (default 1)")
    add_precision(parser)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of every side")
    parser.add_argument("--data", type=Path, default=None, help=f"folder with {FILE}")
    return parser.parse_args(arguments)


def make_task(told: argparse.Namespace) -> dict[str, Any]:
    """What every side is given."""
    model = find_model()
    pairs = read_pairs(find_data(FILE, told.data), model, told.pairs, told.longest)
    return {
        "model": str(model),
        "pairs": pairs,
        "batch_pairs": BATCH_PAIRS,
        "trl_batch": told.trl_batch,
        "precision": told.precision,
    }


def read_pairs(path: Path, model: Path, count: int, longest: int) -> list[Row]:
    """The first `count` pairs whose sequences are at most `longest` tokens, as they stand in the file."""
    tokens = load_chat_tokens(model)
    kept: list[Row] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            pair = token_pair(row, tokens)
            answers = (len(pair.chosen), len(pair.rejected))
            if len(pair.prompt) + max(answers) <= longest and pair.chosen != pair.rejected:
                kept.append(row)
            if len(kept) == count:
                return kept
    raise SystemExit(f"bench: {path} has {len(kept)} pairs of at most {longest} tokens, {count} were asked for")


def token_pair(row: Row, tokens: ChatTokens, name: str = "") -> TokenPair:
    prompt = tokens.prompt(row["messages"])
    return TokenPair(name, name, prompt, tokens.answer(row["chosen"]), tokens.answer(row["rejected"]))


def conversation(row: Row) -> Row:
    """The form that TRL documents for chats; its template ends an answer with one more token, a line break."""
    answers = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
    return {"prompt": row["messages"], **answers}


def result(
    name: str, rounds: Sequence[dict[str, Measured]], task: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON line."""
    return {
        "bench": name,
        "ratio_best": round(median_ratio(rounds, "pairs_per_s", "ours", "trl_best"), 3),
        "ratio_default": round(median_ratio(rounds, "pairs_per_s", "ours", "trl_default"), 3),
        "ratio_memory": round(median_ratio(rounds, "peak_mib", "ours", "trl_best"), 3),
        "pairs_per_s": {side: round(value, 4) for side, value in medians(rounds, "pairs_per_s").items()},
        "peak_mib": {side: round(value) for side, value in medians(rounds, "peak_mib").items()},
        "first_loss": {side: round(value, 4) for side, value in medians(rounds, "first_loss").items()},
        "rounds": len(rounds),
        "pairs": len(task["pairs"]),
        "precision": task["precision"],
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
