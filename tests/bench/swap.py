"""`make bench-swap`: version after version goes live under running streams, each making another word certain.

On one replica, on two of which one is killed and restarted in the middle; beside it the same change by pausing the
engine and by restarting it. Ends with one JSON line.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.bench.rounds import find_model, machine_load, say, surroundings
from tests.bench.swap_streams import Streams, Target, counted, fault_of, longest_pause_s, silence_s
from tests.services import Gateway, free_port, start_engine, start_gateway, start_redis
from tests.word_adapters import make_word_adapter, measure_push

REASON = {"reason": "bench-swap"}
_BETWEEN_S = 1.0
_AROUND_S = 1.0


@dataclass(frozen=True)
class Place:
    """What every part runs on: the base, the adapters by number, a folder of its own."""

    base: Path
    words: Sequence[tuple[Path, int]]
    folder: Path
    streams: int


@dataclass(frozen=True)
class Operator:
    """An operator's client of one gateway."""

    session: aiohttp.ClientSession
    gateway: Gateway

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self.session.post(
            f"{self.gateway.url}{path}", json=body, headers=self.gateway.headers()
        ) as response:
            told: dict[str, Any] = await response.json()
            if response.status >= 300:
                raise SystemExit(f"bench: {path} answered {response.status}: {told}")
            return told

    async def import_words(self, words: Sequence[tuple[Path, int]]) -> dict[str, int]:
        """Every adapter as a candidate: version → its only token."""
        found = {}
        for directory, token in words:
            told = await self.post("/operator/policies", {"directory": directory.name, **REASON})
            found[str(told["version"])] = token
        return found


@asynccontextmanager
async def streaming(streams: Streams) -> AsyncIterator[None]:
    """The streams run while the block does; their last answers are awaited. SystemExit where none is answered."""
    running = asyncio.create_task(streams.run())
    await asyncio.sleep(3 * _BETWEEN_S)
    try:
        if streams.answers and all(told.error is not None for told in streams.answers):
            raise SystemExit(f"bench: {streams.target.url} answers nothing: {streams.answers[0].error}")
        yield
    finally:
        streams.stop()
        await running


def begin_gateway(stack: ExitStack, place: Place, name: str, urls: Sequence[str]) -> Gateway:
    """A gateway over these engines, with the adapters lying in its imports folder."""
    home = place.folder / name
    for directory, _ in place.words:
        shutil.copytree(directory, home / "imports" / directory.name)
    redis_url = stack.enter_context(start_redis(home / "redis"))
    more = {"BURNISH_ENGINE_URLS": ",".join(urls)}
    return stack.enter_context(start_gateway(home, redis_url, urls[0], model=place.base, within_s=300, **more))


async def swap_under_streams(place: Place, gateway: Gateway, midway: Callable[[], Awaitable[None]]) -> dict[str, Any]:
    """Every version goes live while the streams run; `midway` happens after half of them."""
    async with aiohttp.ClientSession() as session:
        operator = Operator(session, gateway)
        word_of = await operator.import_words(place.words)
        await operator.post(f"/operator/policies/{next(iter(word_of))}/promote", REASON)
        streams = Streams(Target(gateway.url, gateway.key("page"), "burnish"), place.streams)
        swaps: list[tuple[float, float]] = []
        halfway = None
        async with streaming(streams):
            began_s = time.monotonic()
            for number, version in enumerate(list(word_of)[1:]):
                if number == len(word_of) // 2:
                    halfway = asyncio.create_task(midway())
                asked_s = time.monotonic()
                await operator.post(f"/operator/policies/{version}/promote", REASON)
                swaps.append((asked_s, time.monotonic()))
                await asyncio.sleep(_BETWEEN_S)
            if halfway is not None:
                await halfway
            await asyncio.sleep(_AROUND_S)
            ended_s = time.monotonic()
    return {
        "swaps": len(swaps),
        **counted(streams.answers, word_of),
        "versions_seen": len({told.model for told in streams.answers if told.done}),
        "swap_s": round(statistics.median(done - asked for asked, done in swaps), 3),
        "longest_pause_s": round(longest_pause_s(streams.answers, began_s, ended_s), 3),
        "silence_s": round(silence_s(streams.answers, began_s, ended_s), 3),
        "wrong": [asdict(t) for t in streams.answers if fault_of(t, word_of)][:3],
    }


async def nothing() -> None:
    """What happens midway where nothing is to happen."""


async def undisturbed(place: Place, gateway: Gateway, seconds: float) -> dict[str, Any]:
    """The same streams while nothing is swapped: pauses that have other causes."""
    streams = Streams(Target(gateway.url, gateway.key("page"), "burnish"), place.streams)
    async with streaming(streams):
        began_s = time.monotonic()
        await asyncio.sleep(seconds)
        ended_s = time.monotonic()
    return {
        "longest_pause_s": round(longest_pause_s(streams.answers, began_s, ended_s), 3),
        "silence_s": round(silence_s(streams.answers, began_s, ended_s), 3),
    }


def on_one(place: Place) -> dict[str, Any]:
    with ExitStack() as stack:
        engine = stack.enter_context(start_engine(place.folder / "engine", place.base))
        gateway = begin_gateway(stack, place, "one", [engine.url])
        told = asyncio.run(swap_under_streams(place, gateway, nothing))
        return {**told, "undisturbed": asyncio.run(undisturbed(place, gateway, 30.0))}


def on_two(place: Place) -> dict[str, Any]:
    """Two replicas, each on a core of its own; the second is killed after half of the swaps, and started again."""
    ports, cores = (free_port(), free_port()), ("0", "1")
    with ExitStack() as stack:
        engines = [
            stack.enter_context(
                start_engine(place.folder / f"engine{core}", place.base, port=port, BURNISH_ENGINE_CORES=core)
            )
            for port, core in zip(ports, cores, strict=True)
        ]
        gateway = begin_gateway(stack, place, "two", [engine.url for engine in engines])

        async def kill_and_restart() -> None:
            await asyncio.to_thread(kill_listener, ports[1])
            say("a replica is killed")
            again = start_engine(place.folder / "again", place.base, port=ports[1], BURNISH_ENGINE_CORES=cores[1])
            await asyncio.to_thread(stack.enter_context, again)
            say("it is back")

        return asyncio.run(swap_under_streams(place, gateway, kill_and_restart))


def by_pausing(place: Place, changes: int) -> dict[str, Any]:
    """vLLM alone, paused for each load and resumed after it, its clients told the new name."""
    home = place.folder / "paused"
    with start_engine(home, place.base, VLLM_SERVER_DEV_MODE="1") as engine:
        return asyncio.run(_change_engine(place, engine.url, changes, pause=True))


async def _change_engine(place: Place, url: str, changes: int, *, pause: bool) -> dict[str, Any]:
    streams = Streams(Target(url, "none", "v0000-base"), place.streams)
    async with aiohttp.ClientSession() as session, streaming(streams):
        began_s = time.monotonic()
        for directory, _ in place.words[:changes]:
            if pause:
                await _told(session, f"{url}/pause?mode=keep")
            body = {"lora_name": directory.name, "lora_path": str(directory)}
            await _told(session, f"{url}/v1/load_lora_adapter", body)
            if pause:
                await _told(session, f"{url}/resume")
            streams.target = Target(url, "none", directory.name)
            await asyncio.sleep(_BETWEEN_S)
        ended_s = time.monotonic()
    return {
        "swaps": changes,
        "longest_pause_s": round(longest_pause_s(streams.answers, began_s, ended_s), 3),
        "silence_s": round(silence_s(streams.answers, began_s, ended_s), 3),
        "failed_or_cut": sum(told.error is not None or not told.done for told in streams.answers),
    }


def by_restarting(place: Place) -> dict[str, Any]:
    """vLLM alone, stopped and started anew; its clients ask again until they are answered."""
    port, home = free_port(), place.folder / "restarted"
    streams = Streams(Target(f"http://127.0.0.1:{port}", "none", "v0000-base"), place.streams)

    async def run(stack: ExitStack) -> tuple[float, float]:
        async with streaming(streams):
            began_s = time.monotonic()
            await asyncio.to_thread(stack.close)
            with ExitStack() as anew:
                await asyncio.to_thread(anew.enter_context, start_engine(home, place.base, port=port))
                await asyncio.sleep(5 * _AROUND_S)
                ended_s = time.monotonic()
                streams.stop()
                await asyncio.sleep(5 * _AROUND_S)
        return began_s, ended_s

    stack = ExitStack()
    stack.enter_context(start_engine(home, place.base, port=port))
    with stack:
        began_s, ended_s = asyncio.run(run(stack))
    cut = sum(bool(told.tokens) and not told.done for told in streams.answers)
    return {"silence_s": round(silence_s(streams.answers, began_s, ended_s), 3), "cut": cut}


def kill_listener(port: int) -> None:
    """kill -9 of the process of ours that serves on a port, and of its own."""
    for child in psutil.Process().children(recursive=True):
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in child.net_connections()):
            for process in [*child.children(recursive=True), child]:
                process.kill()
            child.wait()
            return
    raise AssertionError(f"nobody listens on {port}")


async def _told(session: aiohttp.ClientSession, url: str, body: object = None) -> None:
    async with session.post(url, json=body) as response:
        if response.status != 200:
            raise SystemExit(f"bench: {url} answered {response.status}: {await response.text()}")


def main(arguments: Sequence[str]) -> int:
    load = machine_load()
    parser = argparse.ArgumentParser(prog="bench-swap", description=__doc__)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    told = parser.parse_args(arguments)
    base = find_model()
    with tempfile.TemporaryDirectory(prefix="bench-swap-") as temporary:
        folder = Path(temporary)
        push = measure_push(base)
        made = [(folder / "words" / f"word{place:02d}", place) for place in range(told.swaps + 1)]
        words = [(directory, make_word_adapter(directory, base, push, place)) for directory, place in made]
        place = Place(base, words, folder, told.streams)
        sides: dict[str, Callable[[], dict[str, Any]]] = {
            "one": lambda: on_one(place),
            "two": lambda: on_two(place),
            "pause": lambda: by_pausing(place, min(10, told.swaps)),
            "restart": lambda: by_restarting(place),
        }
        figures = {}
        for part in told.parts:
            figures[part] = sides[part]()
            say(f"{part}: {figures[part]}")
    ours = [figures[part] for part in ("one", "two") if part in figures]
    keys = {name: sum(each[name] for each in ours) for name in ("failed", "cut", "mixed")}
    print(json.dumps({"bench": "swap", **keys, **figures, **surroundings(1, load)}))
    return 0


PARTS = ("one", "two", "pause", "restart")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
