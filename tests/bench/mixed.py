"""`make bench-mixed`: requests of base and adapters in one batch of a real engine, scored as in batches of their own.

Teacher-forced log-probs of 200 base requests among adapters' are set against those of the same requests in an all-base
batch of the same shape; the same for two adapters; and once more with our plugin off. Ends with one JSON line.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.adapters import make_adapter
from tests.bench.rounds import find_model, machine_load, say, surroundings
from tests.serve.one_batch import ADAPTER_NOISE, BASE, BASE_NOISE, Job, loaded, score_together, tokenize
from tests.services import start_engine

BATCH = 20
ASKED = ("What is", "Where would one look for", "Who first wrote about", "Why do people like", "How heavy is")
THINGS = (
    "a bridge of stone", "a map of the coast", "an old clock", "the price of bread", "a bell in a tower",
    "the second moon", "a tin whistle", "the smell of rain", "a glass of cold tea", "the longest river",
    "a broken chair", "the alphabet", "a grey goose", "an empty harbour", "a letter without a stamp",
    "the colour of copper", "a game of chess", "a field of barley", "the last train", "a pair of gloves",
)  # fmt: skip


def within(noise_nats: float, mixed: Sequence[Sequence[float]], alone: Sequence[Sequence[float]]) -> int:
    """How many requests have every token's log-prob within the noise."""
    worst = [max(abs(x - y) for x, y in zip(*pair, strict=True)) for pair in zip(mixed, alone, strict=True)]
    return sum(each <= noise_nats for each in worst)


def compare(url: str, models: Sequence[str], prompts: Sequence[Sequence[int]]) -> dict[str, int]:
    """Of each model that alternates in `models`, how many requests score as in a batch of that model alone."""
    counted = dict.fromkeys(models, 0)
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        named = [models[i % len(models)] for i in range(len(batch))]
        mixed = score_together(url, [Job(model, prompt) for model, prompt in zip(named, batch, strict=True)])
        for model in models:
            alone = score_together(url, [Job(model, prompt) for prompt in batch])
            own = [i for i, name in enumerate(named) if name == model]
            noise_nats = BASE_NOISE if model == BASE else ADAPTER_NOISE
            counted[model] += within(noise_nats, [mixed[i] for i in own], [alone[i] for i in own])
    return counted


def take(model: Path, adapters: Mapping[str, Path], folder: Path, requests: int, **env: str) -> dict[str, Any]:
    one, two = adapters
    texts = [f"{asked} {thing}? Tell me in a few words." for thing in THINGS for asked in ASKED] * 4
    with start_engine(folder, model, BURNISH_ENGINE_MAX_LORAS="2", **env) as engine, loaded(engine.url, adapters):
        prompts = tokenize(engine.url, texts[: 2 * requests])
        base = compare(engine.url, (BASE, two), prompts)
        say(f"base among an adapter's: {base}")
        both = compare(engine.url, (one, two), prompts)
        say(f"two adapters: {both}")
    return {"base": base[BASE], "among": base[two], "first": both[one], "second": both[two], "of": requests}


def main(arguments: Sequence[str]) -> int:
    load = machine_load()
    parser = argparse.ArgumentParser(prog="bench-mixed", description=__doc__)
    parser.add_argument("--requests", type=int, default=200, help="of each model, among as many of another")
    parser.add_argument("--off-requests", type=int, default=20, help="with the plugin off, where each takes longer")
    told = parser.parse_args(arguments)
    model = find_model()
    with tempfile.TemporaryDirectory(prefix="bench-mixed-") as temporary:
        folder = Path(temporary)
        adapters = {f"mixed{seed}": make_adapter(folder / str(seed), model, seed=seed, scale=0.3) for seed in (1, 2)}
        on = take(model, adapters, folder / "on", told.requests)
        off = take(model, adapters, folder / "off", told.off_requests, BURNISH_CPU_LORA="off")
    noise = {"base": BASE_NOISE, "adapters": ADAPTER_NOISE}
    print(json.dumps({"bench": "mixed", **on, "plugin_off": off, "noise_nats": noise, **surroundings(1, load)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
