"""The streams that run while versions are swapped, and what is to be said of each answer and of the pauses in it."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp
import orjson

PROMPTS = ("Tell me about bread.", "Tell me about rain.", "Tell me about the sea.", "Tell me about trains.")
TOKENS = 24
_PATIENCE = aiohttp.ClientTimeout(total=None, sock_read=300)


@dataclass(frozen=True)
class Target:
    """Where the streams go: a gateway with a key, or the engine itself."""

    url: str
    key: str
    model: str


@dataclass
class Told:
    """One answer as its reader saw it: `times_s` are those of its events, from one clock for all."""

    asked_s: float
    status: int = 0
    model: str = ""
    tokens: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    done: bool = False
    error: str | None = None


def fault_of(told: Told, word_of: Mapping[str, int]) -> str | None:
    """What is wrong with an answer: `failed`, `cut`, `mixed`, or None. `word_of` gives each version's only token."""
    if told.status != 200 or (told.error is not None and not told.tokens):
        return "failed"
    if told.error is not None or not told.done or told.finish_reason is None or len(told.tokens) != TOKENS:
        return "cut"
    version = told.model.partition("@")[2]
    return None if set(told.tokens) == {word_of[version]} else "mixed"


def longest_pause_s(answers: Sequence[Told], after_s: float, before_s: float) -> float:
    """The longest time between two tokens of one answer that lies, in part at least, between two moments."""
    pauses = [
        later - earlier
        for told in answers
        for earlier, later in pairwise(told.times_s)
        if later >= after_s and earlier <= before_s
    ]
    return max(pauses, default=0.0)


def silence_s(answers: Sequence[Told], after_s: float, before_s: float) -> float:
    """The longest time in which no answer brought anything at all."""
    times = sorted(t for told in answers for t in told.times_s if after_s <= t <= before_s)
    return max((later - earlier for earlier, later in pairwise(times)), default=0.0)


@dataclass
class Streams:
    """So many readers, each asking one question after the other until they are told to stop."""

    target: Target
    count: int
    answers: list[Told] = field(default_factory=list)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=_PATIENCE) as session:
            await asyncio.gather(*(self._read_on(session, number) for number in range(self.count)))

    def stop(self) -> None:
        self._stop.set()

    async def _read_on(self, session: aiohttp.ClientSession, number: int) -> None:
        question = {
            "messages": [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}],
            "max_tokens": TOKENS,
            "stream": True,
            "return_token_ids": True,
        }
        while not self._stop.is_set():
            told = Told(time.monotonic())
            try:
                await self._read(session, {"model": self.target.model, **question}, told)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                told.error = repr(error)
            self.answers.append(told)
            if told.status != 200 or told.error is not None:
                await asyncio.sleep(0.05)

    async def _read(self, session: aiohttp.ClientSession, body: Mapping[str, Any], told: Told) -> None:
        headers = {"Authorization": f"Bearer {self.target.key}", "Content-Type": "application/json"}
        url = f"{self.target.url}/v1/chat/completions"
        async with session.post(url, data=orjson.dumps(body), headers=headers) as response:
            told.status = response.status
            if response.status != 200:
                told.error = (await response.text())[:300]
                return
            async for line in response.content:
                if line.startswith(b"data:"):
                    _note(told, line[5:].strip())


def _note(told: Told, payload: bytes) -> None:
    if payload == b"[DONE]":
        told.done = True
        return
    event = orjson.loads(payload)
    if "error" in event:
        told.error = str(event["error"])
        return
    told.model = event["model"]
    for choice in event["choices"]:
        tokens = choice.get("token_ids") or []
        told.tokens += tokens
        if tokens:
            told.times_s.append(time.monotonic())
        told.finish_reason = choice.get("finish_reason") or told.finish_reason


def counted(answers: Sequence[Told], word_of: Mapping[str, int]) -> dict[str, int]:
    """How many answers there were, and how many of them had each fault."""
    faults = Counter(fault_of(told, word_of) for told in answers)
    return {"answers": len(answers), **{name: faults[name] for name in ("failed", "cut", "mixed")}}
