"""`make bench-lora`: what an adapter costs on the CPU. One engine answers with its base and with a rank-16 adapter.

Tokens a second at 1, 8 and 32 streams and the time to the first token of a long prompt, as ratios of adapter to base in
the same round; stock vLLM, whose adapters our plugin replaces, beside it. Ends with one JSON line.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.adapters import make_adapter
from tests.bench.rounds import find_model, machine_load, say, surroundings
from tests.services import start_engine

BASE, ADAPTER = "v0000-base", "rank16"
STREAMS = {"speed_1": 1, "speed_8": 8, "speed_32": 32}
TTFT = "ttft"
KEYS = (*STREAMS, TTFT)
TOKENS = {1: 128, 8: 96, 32: 48}
LONG_PROMPT = 1000
_PROMPT = 24
_VOCABULARY = (1000, 40000)

Figures = dict[str, float]
"""`speed_N` in tokens a second at N streams, `ttft` in seconds."""


async def measure(url: str, model: str, key: str, draw: random.Random) -> float:
    """One figure of one model, once."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=900)) as session:
        if key == TTFT:
            began_s = time.perf_counter()
            await _answer(session, url, model, _prompt(draw, LONG_PROMPT), 1)
            return time.perf_counter() - began_s
        streams = STREAMS[key]
        prompts = [_prompt(draw, _PROMPT) for _ in range(streams)]
        began_s = time.perf_counter()
        asking = (_answer(session, url, model, prompt, TOKENS[streams]) for prompt in prompts)
        return sum(await asyncio.gather(*asking)) / (time.perf_counter() - began_s)


async def _answer(session: aiohttp.ClientSession, url: str, model: str, prompt: Sequence[int], tokens: int) -> int:
    """Tokens of one answer of exactly that length."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    async with session.post(f"{url}/v1/completions", json=body) as response:
        told = await response.json()
        if response.status != 200:
            raise SystemExit(f"bench: the engine answered {response.status}: {told}")
        return int(told["usage"]["completion_tokens"])


def _prompt(draw: random.Random, tokens: int) -> list[int]:
    """Tokens that no earlier prompt began with: nothing of it is in the engine's cache."""
    return [draw.randrange(*_VOCABULARY) for _ in range(tokens)]


@contextmanager
def engine_with(model: Path, adapter: Path, folder: Path, **env: str) -> Iterator[str]:
    """The URL of an engine that has the adapter loaded and has answered with both once."""
    with start_engine(folder, model, **env) as engine:
        asyncio.run(_load(engine.url, adapter))
        for key in KEYS:
            for name in (BASE, ADAPTER):
                asyncio.run(measure(engine.url, name, key, random.Random(0)))
        yield engine.url


async def _load(url: str, adapter: Path) -> None:
    async with aiohttp.ClientSession() as session:
        body = {"lora_name": ADAPTER, "lora_path": str(adapter)}
        async with session.post(f"{url}/v1/load_lora_adapter", json=body) as response:
            if response.status != 200:
                raise SystemExit(f"bench: the engine did not load the adapter: {await response.text()}")


def take(url: str, rounds: int, side: str) -> list[dict[str, Figures]]:
    """Rounds of every figure of both models on one engine: one right after the other, now this one first, now that."""
    draw, taken = random.Random(7), []
    for number in range(rounds):
        figures: dict[str, Figures] = {BASE: {}, ADAPTER: {}}
        for place, key in enumerate(KEYS):
            order = (BASE, ADAPTER) if (number + place) % 2 == 0 else (ADAPTER, BASE)
            for name in order:
                figures[name][key] = asyncio.run(measure(url, name, key, draw))
        taken.append(figures)
        say(f"{side}, round {number + 1} of {rounds}: " + json.dumps(ratios(taken[-1:])))
    return taken


def ratios(rounds: Sequence[Mapping[str, Figures]]) -> dict[str, float]:
    """Adapter to base, the median over the rounds of ratios within a round."""
    return {key: round(statistics.median(each[ADAPTER][key] / each[BASE][key] for each in rounds), 3) for key in KEYS}


def spread(rounds: Sequence[Mapping[str, Figures]]) -> dict[str, list[float]]:
    """The least and the greatest ratio of any round."""
    each = [ratios([one]) for one in rounds]
    return {key: [min(one[key] for one in each), max(one[key] for one in each)] for key in each[0]}


def medians(rounds: Sequence[Mapping[str, Figures]], name: str) -> Figures:
    keys = rounds[0][name]
    return {key: round(statistics.median(each[name][key] for each in rounds), 3) for key in keys}


def main(arguments: Sequence[str]) -> int:
    load = machine_load()
    parser = argparse.ArgumentParser(prog="bench-lora", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--stock-rounds", type=int, default=1, help="of stock vLLM, which takes far longer; 0: none")
    told = parser.parse_args(arguments)
    model = find_model()
    result: dict[str, Any] = {"bench": "lora"}
    with tempfile.TemporaryDirectory(prefix="bench-lora-") as temporary:
        folder = Path(temporary)
        adapter = make_adapter(folder / "adapter", model, seed=1)
        with engine_with(model, adapter, folder / "ours") as url:
            ours = take(url, told.rounds, "ours")
        result |= {**ratios(ours), "spread": spread(ours)}
        result |= {"base": medians(ours, BASE), "adapter": medians(ours, ADAPTER)}
        if told.stock_rounds:
            with engine_with(model, adapter, folder / "stock", BURNISH_CPU_LORA="off") as url:
                stock = take(url, told.stock_rounds, "stock")
            result["stock"] = {**ratios(stock), "adapter": medians(stock, ADAPTER)}
    print(json.dumps({**result, **surroundings(1, load)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
