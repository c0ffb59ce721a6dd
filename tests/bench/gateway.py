"""`make bench-gateway`: what the gateway adds to a request, against LiteLLM's proxy and the least a proxy can do.

Every side stands before one mock engine and is driven in turn, in another order each round; what a side adds is its
time less the bare engine's of the same round. The real engine then tells what is left of its speed. One JSON line.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench import gateway_figures as figures
from tests.bench import gateway_sides as sides
from tests.bench.gateway_client import Connection, at_once, body_of, tokens_of
from tests.bench.gateway_figures import Round
from tests.bench.gateway_sides import Side
from tests.bench.rounds import find_model, machine_load, say
from tests.services import start_engine

_WARM_REQUESTS = 5
_STEP_MS = 10
_TOO_BUSY = 0.5
PROXIES = ("ours", "litellm", "floor")


def main(arguments: Sequence[str]) -> int:
    load = machine_load()
    told = parse_arguments(arguments)
    if load > _TOO_BUSY:
        say(f"the machine is busy already (load {load}): these figures say little")
    model = find_model()
    with tempfile.TemporaryDirectory(dir=_folder()) as work:
        rounds = against_mock(told, Path(work), model)
        print(figures.table(rounds), file=sys.stderr)
        speeds = against_real(told, Path(work), model)
        sync_ms = disk_sync_ms(Path(work))
    about = {"rounds": told.rounds, "requests": told.requests, "tokens": told.tokens, "streams": told.streams}
    print(
        json.dumps(
            {"bench": "gateway", **figures.result(rounds, speeds), **about, **surroundings(load), "sync_ms": sync_ms}
        )
    )
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of every side before the mock engine")
    parser.add_argument("--requests", type=int, default=40, help="of a kind, a side and a round, one at a time")
    parser.add_argument("--tokens", type=int, default=16, help="of each of these answers")
    parser.add_argument("--streams", type=int, default=32, help="at once, for events a second per core")
    parser.add_argument("--stream-tokens", type=int, default=256, help="of each of these streams")
    parser.add_argument("--stream-rounds", type=int, default=5, help="how many of the rounds have such streams")
    parser.add_argument("--engine-rounds", type=int, default=10, help="before the real engine; 0 leaves it out")
    return parser.parse_args(arguments)


# The mock engine -----------------------------------------------------------------------------------------------------
def against_mock(told: argparse.Namespace, work: Path, model: Path) -> list[Round]:
    """Every side in every round, in a random order. The first, short round only warms up."""
    with ExitStack() as stack:
        engine = stack.enter_context(sides.mock_engine(work, _STEP_MS))
        at = {
            "direct": engine,
            **stack.enter_context(sides.ours(work / "ours", model, engine.url)),
            "litellm": stack.enter_context(sides.litellm(work / "litellm", engine.url)),
            "floor": stack.enter_context(sides.pass_through(work / "floor", engine.url)),
        }
        say("the sides stand; warming up")
        one_round(at, told, streams=False)
        rounds = []
        for number in range(told.rounds):
            rounds.append(one_round(at, told, streams=number < told.stream_rounds))
            say(f"round {number + 1} of {told.rounds}: {figures.line(rounds[-1])}")
        return rounds


def one_round(at: Mapping[str, Side], told: argparse.Namespace, *, streams: bool) -> Round:
    order = random.sample(list(at), len(at))
    measured = {name: latencies(at[name], told) for name in order}
    if streams:
        for name in random.sample(PROXIES, len(PROXIES)):
            measured[name] |= {"events_per_cpu_s": events_per_cpu_s(at[name], told)}
    return measured


def latencies(side: Side, told: argparse.Namespace) -> dict[str, float]:
    """Medians in seconds over requests that are sent one after another on one connection."""
    text = f"{told.tokens} at once"
    streamed, whole = (body_of(text, stream=stream, **side.fields) for stream in (True, False))
    connection = Connection(side.url, side.key)
    for body in [streamed, whole] * _WARM_REQUESTS:
        connection.ask(body)
    streams = [connection.ask(streamed) for _ in range(told.requests)]
    wholes = [connection.ask(whole) for _ in range(told.requests)]
    connection.close()
    if any(seen.events < told.tokens for seen in streams):
        raise SystemExit(f"bench: {side.url} lost events:\n{streams[0].raw.decode()}")
    return {
        "first_s": figures.median(seen.first_s for seen in streams),
        "stream_s": figures.median(seen.whole_s for seen in streams),
        "whole_s": figures.median(seen.whole_s for seen in wholes),
    }


def events_per_cpu_s(side: Side, told: argparse.Namespace) -> float:
    """Events of concurrent streams, each of which the engine advances by one in every step."""
    connections = [Connection(side.url, side.key) for _ in range(told.streams)]
    body = body_of(f"{told.stream_tokens} in steps", stream=True)
    at_once(connections, [body_of("2 in steps", stream=True)] * told.streams)
    before = side.cpu_s()
    seen = at_once(connections, [body] * told.streams)
    used_s = side.cpu_s() - before
    for connection in connections:
        connection.close()
    return sum(min(each.events, told.stream_tokens) for each in seen) / used_s


# The real engine -----------------------------------------------------------------------------------------------------
def against_real(told: argparse.Namespace, work: Path, model: Path) -> list[dict[str, float]]:
    """Tokens a second of eight streams at once, straight to vLLM and through the gateway before it, by turns."""
    if not told.engine_rounds:
        return []
    with ExitStack() as stack:
        say("starting vLLM")
        engine = stack.enter_context(start_engine(work / "real" / "home", model))
        gateway = stack.enter_context(sides.ours(work / "real", model, engine.url))["ours"]
        at = {"direct": Side(engine.url, "none"), "ours": gateway}
        for side in at.values():
            tokens_per_s(side, tokens=16)
        speeds = []
        for number in range(told.engine_rounds):
            speeds.append({name: tokens_per_s(at[name], tokens=128) for name in random.sample(list(at), len(at))})
            said = ", ".join(f"{name} {value:.1f} tokens/s" for name, value in sorted(speeds[-1].items()))
            say(f"round {number + 1} of {told.engine_rounds} on vLLM: {said}")
        return speeds


def tokens_per_s(side: Side, *, tokens: int, streams: int = 8) -> float:
    connections = [Connection(side.url, side.key) for _ in range(streams)]
    options = {"max_tokens": tokens, "ignore_eos": True, "stream_options": {"include_usage": True}}
    model = "v0000-base" if side.process is None else "burnish"
    texts = [f"Tell me something about the number {number}." for number in range(streams)]
    bodies = [body_of(text, stream=True, **options | {"model": model, "seed": n}) for n, text in enumerate(texts)]
    started = time.perf_counter()
    seen = at_once(connections, bodies)
    seconds = time.perf_counter() - started
    for connection in connections:
        connection.close()
    return tokens_of(seen) / seconds


def disk_sync_ms(folder: Path, times: int = 200) -> float:
    """What the disk takes to keep two kilobytes, the median: every turn waits for that, and no other side does."""
    took_s = []
    with (folder / "synced").open("wb", buffering=0) as file:
        for _ in range(times):
            started = time.perf_counter()
            file.write(bytes(2000))
            os.fdatasync(file.fileno())
            took_s.append(time.perf_counter() - started)
    return round(figures.median(took_s) * 1000, 3)


def surroundings(load: float) -> dict[str, Any]:
    packages = ("uvicorn", "uvloop", "starlette", "aiohttp", "orjson")
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions |= {"python": platform.python_version(), "litellm": sides.litellm_version()}
    return {"versions": versions, "cores": os.cpu_count(), "load_before": load}


def _folder() -> Path:
    """On the disk that the project is on: a memory disk would sync for nothing."""
    folder = sides.ROOT / ".cache" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
