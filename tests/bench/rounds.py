"""What every benchmark shares: interleaved rounds in fresh processes, paired ratios, where model and data are."""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.services import ROOT
from training.base.convert import convert
from training.base.loading import PRECISIONS, fastest_precision

Measured = Mapping[str, Any]


@dataclass(frozen=True)
class Bench:
    """Sides to compare: `module` is run as `python -m MODULE SIDE`, is given `task` as JSON, answers with one line.

    `packages` names a folder of packages that go before the installed ones, for the sides that need others.
    """

    module: str
    sides: Sequence[str]
    task: Mapping[str, Any]
    threads: int
    packages: Mapping[str, Path] = field(default_factory=dict)


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def run_rounds(bench: Bench, rounds: int) -> list[dict[str, Measured]]:
    """Every side once per round, each in a process of its own; each round starts with another side."""
    measured: list[dict[str, Measured]] = []
    for number in range(rounds):
        first = number % len(bench.sides)
        order = [*bench.sides[first:], *bench.sides[:first]]
        measured.append({side: run_side(bench, side) for side in order})
        say(f"round {number + 1} of {rounds}: " + ", ".join(f"{s} {measured[-1][s]['seconds']:.1f} s" for s in order))
    return measured


def run_side(bench: Bench, side: str) -> Measured:
    """One side's figures: the last line of what its process prints."""
    threads = str(bench.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    if side in bench.packages:
        environment["PYTHONPATH"] = str(bench.packages[side])
    done = subprocess.run(
        [sys.executable, "-m", bench.module, side],
        input=json.dumps({**bench.task, "threads": bench.threads}),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"bench: {side} failed with {done.returncode}:\n{done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def median_ratio(rounds: Sequence[Mapping[str, Measured]], key: str, of: str, to: str) -> float:
    """The median over the rounds of one side's figure divided by another's of the same round."""
    return statistics.median(each[of][key] / each[to][key] for each in rounds)


def medians(rounds: Sequence[Mapping[str, Measured]], key: str) -> dict[str, float]:
    """Each side's median over the rounds."""
    return {side: statistics.median(each[side][key] for each in rounds) for side in rounds[0]}


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Of the base's weights and the products on every side; what a job takes on this CPU when none is named."""
    fastest = fastest_precision(torch.device("cpu"))
    default = next(name for name, precision in PRECISIONS.items() if precision == fastest)
    parser.add_argument("--precision", choices=PRECISIONS, default=default, help="of every side (default: a job's)")


def find_model() -> Path:
    """The base model: $BURNISH_MODEL_PATH or $BURNISH_TEST_MODEL, else where `make up` and `make test` put it.

    Made where there is none. SystemExit when the named folder holds none.
    """
    named = [os.environ.get("BURNISH_MODEL_PATH"), os.environ.get("BURNISH_TEST_MODEL")]
    made = ROOT / ".cache" / "model"
    places = [Path(given) for given in named if given] or [ROOT / ".burnish" / "model", made]
    for place in places:
        if (place / "config.json").exists():
            return place.resolve()
    if made not in places:
        raise SystemExit(f"bench: no model in {', '.join(map(str, places))}: name another, or none to have it made")
    convert(made)
    return made


def find_data(name: str, folder: Path | None) -> Path:
    """A file of real text, which is no part of the project: in `folder`, or in ../shared/data beside it."""
    path = (folder or ROOT.parent / "shared" / "data") / name
    if not path.exists():
        raise SystemExit(f"bench: {path} is absent: name its folder by --data; docs/BENCHMARKS.md says what it is")
    return path.resolve()


def machine_load() -> float:
    """How many processes kept the machine busy in the last minute. A benchmark asks before it does anything itself."""
    return round(os.getloadavg()[0], 2)


def surroundings(threads: int, load_before: float) -> dict[str, Any]:
    """What a figure depends on besides the code: versions, threads, how busy the machine was before."""
    packages = ("torch", "transformers", "peft", "trl")
    return {
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
        "threads": threads,
        "cores": os.cpu_count(),
        "load_before": load_before,
    }
