"""`make check-streams`: streams of all kinds through the strict checker, cut networks included; ends with a JSON line.

A stream is asked for with drawn options. On the fake engine its way is drawn too: well, cut or broken by the engine,
cut between engine and gateway, cut between gateway and caller, or let through in crumbs.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from tests.fake_engine import FakeEngine, fake_engine
from tests.serve.cutting_link import CuttingLink, cutting_link
from tests.serve.event_checker import Asked, Seen, check_stream
from tests.services import ROOT, Gateway, answers, start_engine, start_gateway, start_redis, wait_until

WAYS = ("well", "crumbs", "engine cut", "engine error", "cut before the gateway", "cut before the caller")
ENDS_EARLY = {
    "engine cut": {"error"},
    "engine error": {"error"},
    "cut before the gateway": {"error", "whole"},
    "cut before the caller": {"cut", "whole"},
}
QUESTIONS = (
    "Name one fruit.",
    "Why is the sky blue?",
    "Sag etwas auf Deutsch: äöü",
    "Write an emoji 🍌.",
    "Count to ten.",
)


@dataclass(frozen=True)
class Place:
    """Where streams are asked for: through `before_caller` to the gateway, which reaches its engine as it was told."""

    gateway: Gateway
    before_caller: CuttingLink
    before_gateway: CuttingLink | None = None
    fake: FakeEngine | None = None


def draw(rng: random.Random) -> tuple[str, dict[str, Any], Asked]:
    """A path, a body, and what the checker is to expect of a well network."""
    chat = rng.random() < 0.7
    asked = Asked(
        chat=chat,
        n=rng.choice((1, 1, 2, 3)),
        usage=rng.random() < 0.5,
        logprobs=rng.random() < 0.3,
        token_ids=rng.random() < 0.2,
    )
    question = rng.choice(QUESTIONS)
    body: dict[str, Any] = {"model": "burnish", "stream": True, "n": asked.n, "max_tokens": rng.randint(6, 12)}
    body |= {"messages": [{"role": "user", "content": question}]} if chat else {"prompt": question}
    body |= {"temperature": rng.choice((0, 0.7, 1.3)), "seed": rng.randrange(10**6)}
    if asked.usage:
        body["stream_options"] = {"include_usage": True}
    if asked.logprobs:
        body |= {"logprobs": True, "top_logprobs": 2} if chat else {"logprobs": 2}
    if asked.token_ids:
        body["return_token_ids"] = True
    return ("/v1/chat/completions" if chat else "/v1/completions"), body, asked


def one(place: Place, way: str, seed: int) -> Seen:
    """Asks for one stream and checks what came. An answer that is no stream must be an error with a 5xx status."""
    path, body, asked = draw(random.Random(seed))
    asked = replace(asked, logprobs=asked.logprobs and place.fake is None, endings=ENDS_EARLY.get(way, {"whole"}))  # type: ignore[arg-type]
    raw = b""
    try:
        with httpx.stream(
            "POST", place.before_caller.url + path, json=body, headers=place.gateway.headers(), timeout=120
        ) as answer:
            if answer.status_code != 200:
                return _refused(way, answer.status_code, answer.read())
            for content in answer.iter_raw():
                raw += content
    except httpx.TransportError:
        if way != "cut before the caller":
            raise
    return check_stream(raw, asked)


def _refused(way: str, status: int, content: bytes) -> Seen:
    seen = Seen(ending="error")
    early = way in ("engine cut", "engine error", "cut before the gateway")
    if (
        not early
        or status not in (502, 503)
        or json.loads(content)["error"].keys()
        != {
            "message",
            "type",
            "param",
            "code",
        }
    ):
        seen.breach("the start", f"status {status}: {content[:200]!r}")
    return seen


@contextmanager
def made(place: Place, way: str, rng: random.Random) -> Iterator[None]:
    """The place with that way of going wrong."""
    up, down = place.before_gateway, place.before_caller
    cut: Callable[[], int] = lambda: rng.randrange(1, 5000)  # noqa: E731
    if way == "engine cut" and place.fake:
        place.fake.behave(cut_after=rng.randrange(1, 6), delay_s=0.002)
    elif way == "engine error" and place.fake:
        place.fake.behave(error_after=rng.randrange(0, 6))
    elif way == "cut before the gateway" and up:
        up.cut_at = cut
    elif way == "cut before the caller":
        down.cut_at = cut
    elif way == "crumbs":
        for link in (up, down):
            if link:
                link.crumb_bytes = 3
    yield
    if place.fake:
        place.fake.behave(cut_after=None, error_after=None, delay_s=0)
    for link in (up, down):
        if link:
            link.cut_at, link.crumb_bytes = lambda: None, 65536
    if way == "cut before the gateway":
        # An engine that broke off is taken for away until it was looked at again: at the soonest, then once a second.
        time.sleep(2.5)
        wait_until(lambda: answers(f"{place.gateway.url}/readyz"), within_s=20, what="the gateway is ready again")


def check(place: Place, ways: tuple[str, ...], count: int, at_once: int = 8) -> tuple[Counter[str], list[str]]:
    """Checks `count` streams; gives how they ended, by way, and every breach."""
    endings: Counter[str] = Counter()
    breaches = []
    each = 10
    for start in range(0, count, each):
        way = ways[start // each % len(ways)]
        rng = random.Random(start)
        with made(place, way, rng), ThreadPoolExecutor(at_once) as pool:
            seeds = range(start, min(start + each, count))
            found = list(pool.map(lambda seed: one(place, way, seed), seeds))  # noqa: B023 - used up before it changes
        for seed, seen in zip(seeds, found, strict=True):
            endings[f"{way}: {seen.ending}"] += 1
            breaches += [f"{way}, seed {seed}, {breach}" for breach in seen.breaches]
    return endings, breaches


@contextmanager
def fake_place(folder: Path, model: Path) -> Iterator[Place]:
    with (
        fake_engine() as fake,
        cutting_link(fake.url) as up,
        start_redis(folder / "redis") as redis_url,
        start_gateway(folder / "home", redis_url, up.url, model=model) as gateway,
        cutting_link(gateway.url) as down,
    ):
        yield Place(gateway, down, up, fake)


@contextmanager
def real_place(folder: Path, model: Path) -> Iterator[Place]:
    with (
        start_redis(folder / "redis") as redis_url,
        start_engine(folder / "engine", model) as engine,
        start_gateway(folder / "home", redis_url, engine.url, model=model) as gateway,
        cutting_link(gateway.url) as down,
    ):
        yield Place(gateway, down)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fake", type=int, default=700, help="streams on the fake engine")
    parser.add_argument("--real", type=int, default=300, help="streams on the real one")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / "model")
    args = parser.parse_args()
    endings: Counter[str] = Counter()
    breaches: list[str] = []
    with tempfile.TemporaryDirectory() as folder, fake_place(Path(folder), args.model) as place:
        _add(endings, breaches, check(place, WAYS, args.fake))
    if args.real:
        with tempfile.TemporaryDirectory() as folder, real_place(Path(folder), args.model) as place:
            _add(endings, breaches, check(place, ("well", "crumbs", "cut before the caller"), args.real))
    for breach in breaches[:50]:
        print(breach)
    cut = sum(number for ending, number in endings.items() if not ending.endswith("whole"))
    print(json.dumps({"streams": endings.total(), "violations": len(breaches), "cut": cut, "endings": dict(endings)}))


def _add(endings: Counter[str], breaches: list[str], more: tuple[Counter[str], list[str]]) -> None:
    endings.update(more[0])
    breaches += more[1]


if __name__ == "__main__":
    main()
