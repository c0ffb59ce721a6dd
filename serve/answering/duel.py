"""Two answers to one request, live version and canary at once: merged into one response of two choices, both blind."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from serve.answering.answer import Answer
from serve.answering.asking import Asking, Batch


class DuelAsking:
    """Asks both at once. When one of them fails the other is ended too: half a duel is no answer."""

    def __init__(self, askings: Sequence[Asking]) -> None:
        self._askings = tuple(askings)

    @property
    def answers(self) -> tuple[Answer, ...]:
        return tuple(asking.answer for asking in self._askings)

    async def whole(self) -> dict[str, Any]:
        tasks = [asyncio.create_task(asking.whole()) for asking in self._askings]
        try:
            bodies = await asyncio.gather(*tasks)
        finally:
            await _ended(tasks)
        choices = [choice for body in bodies for choice in body["choices"]]
        return {**bodies[0], "choices": choices, "usage": _together([body["usage"] for body in bodies])}

    async def events(self) -> AsyncGenerator[Batch, None]:
        """Events of both as they come; their usage, where it was asked for, as one at the end."""
        came: asyncio.Queue[Batch | Exception] = asyncio.Queue()
        tasks = [asyncio.create_task(_pump(asking, came)) for asking in self._askings]
        usages: list[dict[str, Any]] = []
        running = len(tasks)
        try:
            while running:
                batch = await came.get()
                if isinstance(batch, Exception):
                    raise batch
                running -= batch.last
                usages += [event for event in batch.events if not event["choices"]]
                events = [event for event in batch.events if event["choices"]]
                if not running and usages:
                    events.append({**usages[0], "usage": _together([each["usage"] for each in usages])})
                yield Batch(events, last=not running)
        finally:
            await _ended(tasks)


async def _pump(asking: Asking, came: "asyncio.Queue[Batch | Exception]") -> None:
    try:
        async with aclosing(asking.events()) as batches:
            async for batch in batches:
                came.put_nowait(batch)
                if batch.last:
                    return
    except Exception as error:  # noqa: BLE001 - raised again by whoever reads the queue
        came.put_nowait(error)


async def _ended(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _together(usages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The usage of two answers to one prompt, which is counted once as it is with n = 2."""
    completion = sum(usage["completion_tokens"] for usage in usages)
    prompt = usages[0]["prompt_tokens"]
    return {**usages[0], "completion_tokens": completion, "total_tokens": prompt + completion}
