"""`make bench-hh`: a reward model and a pairwise one on real human choices, and what they are worth on held-out ones.

Trains with the shipped recipes `reward` and `pairwise_reward` on one core. 1,500 pairs to learn from, 200 of which the
weights never see (the temperature is fitted on those), and 300 to judge by. Stopped by --minutes, Ctrl-C or a kill, it
goes on from its newest checkpoint when it is run again. Ends with one JSON line.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.bench.hh_rows import Splits, make_splits, read_rows
from training.algorithms import AnyRewardRecipe
from training.base.convert import convert
from training.base.loading import load_chat_tokens
from training.base.model import SharedBase
from training.errors import Stopped
from training.examples.tokens import ChatTokens
from training.files import read_json, write_json
from training.loops.reward import train_reward
from training.loops.steps import Point, Watch
from training.recipe import RECIPES, load_recipe
from training.rewards.reading import read_pairs
from training.rewards.reward_files import RewardOrigin, export_reward
from training.rewards.reward_model import Assessment, RewardModel, assess
from training.worker.exits import EXIT_STOPPED

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("reward", "pairwise_reward")


@dataclass(frozen=True)
class Bench:
    """What both kinds are measured with."""

    model: Path
    tokens: ChatTokens
    splits: Splits
    home: Path
    stopping: Callable[[], bool]


def say(text: str) -> None:
    print(f"bench-hh: {text}", file=sys.stderr, flush=True)


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    convert(arguments.model)
    tokens = load_chat_tokens(arguments.model)
    splits = make_splits(
        read_rows(arguments.data / "hh_harmless.jsonl.gz"),
        tokens,
        trained=arguments.train,
        calibration=arguments.calibration,
        held_out=arguments.held_out,
    )
    say(f"{len(splits.train)} to train, {len(splits.calibration)} to calibrate, {len(splits.held_out)} to judge by")
    bench = Bench(arguments.model, tokens, splits, arguments.home, stop_after(arguments.minutes))
    results: dict[str, Any] = {}
    for kind in arguments.kinds:
        try:
            results[kind] = measure(bench, kind, epochs=arguments.epochs)
        except Stopped as stopped:
            say(f"{kind}: {stopped}; run the same command again to go on")
            return EXIT_STOPPED
    print(json.dumps(summary(results, splits)))
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-hh", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the rows")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / "model", help="base model; made when missing")
    parser.add_argument(
        "--home", type=Path, default=ROOT / ".cache" / "bench" / "hh_harmless", help="kept between runs"
    )
    parser.add_argument("--train", type=int, default=1500, help="pairs to learn from, those to calibrate on included")
    parser.add_argument("--calibration", type=int, default=200, help="how many of them only the temperature sees")
    parser.add_argument("--held-out", type=int, default=300, help="pairs to judge by")
    parser.add_argument("--epochs", type=int, default=None, help="another number of epochs than the recipes'")
    parser.add_argument("--minutes", type=float, default=None, help="stop after so long; run again to go on")
    parser.add_argument("--threads", type=int, default=1, help="cores to compute on")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    return parser.parse_args()


def stop_after(minutes: float | None) -> Callable[[], bool]:
    """Whether it is time to stop: the minutes are over, or a signal came."""
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: asked.append(number))
    ends_at = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    return lambda: bool(asked) or time.monotonic() > ends_at


def measure(bench: Bench, kind: str, *, epochs: int | None) -> dict[str, Any]:
    """Train, export and judge one kind of reward model, going on where an earlier run stopped."""
    recipe = load_recipe(RECIPES / f"{kind}.toml")
    assert isinstance(recipe, AnyRewardRecipe)
    recipe = recipe.model_copy(update={"epochs": epochs or recipe.epochs})
    folder = bench.home / f"{kind}-{len(bench.splits.train)}-{recipe.epochs}"
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(folder / "seconds.json")
    say(f"{kind}: loading the base")
    base = SharedBase(bench.model, torch.device("cpu"))
    readings = read_pairs(bench.splits.train, recipe, bench.tokens)
    tokens = sum(reading.item.n_tokens for reading in readings) * recipe.epochs * recipe.ensemble
    watch = Watch(point=tell_points(kind, folder), progress=lambda share: None, stopping=bench.stopping)
    with clock.measuring("training"):
        members = train_reward(base, readings, recipe, folder, watch, every_s=60)

    def judge(written: RewardModel) -> Assessment:
        say(f"{kind}: judging")
        check = lambda: watch.check("while it was judged")  # noqa: E731
        return assess(written, bench.splits.calibration, bench.splits.held_out, check)

    origin = RewardOrigin((bench.model / "digest.txt").read_text().strip(), f"bench-hh-{kind}", kind)
    with clock.measuring("judging"):
        trained = RewardModel(base, bench.tokens, recipe, members)
        exported = export_reward(trained, origin, bench.home / "models", judge)
    found = exported.manifest
    say(f"{kind}: {exported.folder}")
    return {
        **{key: rounded(value) for key, value in found["report"].items()},
        "temperature": rounded(found["calibration"]["temperature"]),
        "trained_tokens": tokens,
        "seconds_training": round(clock.seconds["training"]),
        "seconds_judging": round(clock.seconds["judging"]),
    }


def tell_points(kind: str, folder: Path) -> Callable[[Point], None]:
    """Every step to `curve.jsonl`, some of them to the terminal."""

    def tell(point: Point) -> None:
        with (folder / "curve.jsonl").open("a", encoding="utf-8") as curve:
            curve.write(json.dumps({**point, "at": round(time.time())}) + "\n")
        if point["step"] % 5 == 0:
            say(f"{kind}: step {point['step']:g}: " + ", ".join(f"{k} {point[k]:.3f}" for k in ("loss", "accuracy")))

    return tell


class Clock:
    """Seconds spent on each part, over all the runs that it took."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = {"training": 0.0, "judging": 0.0, **(read_json(path) or {})}

    def measuring(self, part: str) -> "Lap":
        return Lap(self, part)

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] += seconds
        write_json(self._path, self.seconds)


class Lap:
    """Adds the time between its two ends to a clock, however it ends."""

    def __init__(self, clock: Clock, part: str) -> None:
        self._clock, self._part, self._began = clock, part, 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._clock.add(self._part, time.monotonic() - self._began)


def summary(results: Mapping[str, Mapping[str, Any]], splits: Splits) -> dict[str, Any]:
    """The JSON line: the first kind's figures at the top, the other's under its name."""
    (first, figures), *others = results.items()
    return {
        "bench": "hh_harmless",
        "kind": first,
        **figures,
        **dict(others),
        "trained_on": len(splits.train),
        "calibrated_on": len(splits.calibration),
        "judged_on": len(splits.held_out),
        "left_out": splits.left_out,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def rounded(value: float) -> float:
    return round(value, 4)


if __name__ == "__main__":
    sys.exit(main())
