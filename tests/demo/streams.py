"""Streams that keep chatting while the versions change underneath them."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from openai import OpenAIError

from tests.demo.burnish import Burnish, Turn


@dataclass(frozen=True)
class Heard:
    """One streamed answer: when it began and ended (Unix seconds), and the turn, or what went wrong."""

    began_at: float
    ended_at: float
    turn: Turn | None
    error: str = ""


@dataclass
class Chatter:
    """Asks one question after the other in each of several streams until told to stop."""

    burnish: Burnish
    questions: Sequence[str]
    heard: list[Heard] = field(default_factory=list)
    _awaited: tuple[str, int] | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, streams: int) -> None:
        for first in range(streams):
            ordered = itertools.islice(itertools.cycle(self.questions), first * 7, None)
            self._tasks.append(asyncio.create_task(self._chat(ordered)))

    async def stop_after(self, version: str, answers: int) -> None:
        """Goes on until a version has given so many answers, then lets every stream finish what it is saying."""
        self._awaited = (version, answers)
        await asyncio.gather(*self._tasks)

    def first_of(self, version: str) -> float | None:
        """When the first answer of a version was there, in Unix seconds."""
        ends = [heard.ended_at for heard in self.heard if heard.turn is not None and heard.turn.version == version]
        return min(ends, default=None)

    def _heard_enough(self) -> bool:
        if self._awaited is None:
            return False
        version, answers = self._awaited
        return sum(1 for heard in self.heard if heard.turn is not None and heard.turn.version == version) >= answers

    async def _chat(self, questions: "itertools.islice[str]") -> None:
        for question in questions:
            if self._heard_enough():
                return
            began_at = time.time()
            try:
                turn, error = await self.burnish.stream(question), ""
            except (OpenAIError, httpx.HTTPError, OSError) as failure:
                turn, error = None, f"{type(failure).__name__}: {failure}"
            self.heard.append(Heard(began_at, time.time(), turn, error))
