"""The adapter for the gateway's HTTP API: sampling from pinned versions, waiting for a version, operator calls.

The only file here that speaks HTTP. Every failure is a GatewayError.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from feedback.ids import LineName, Version
from feedback.policies import public_id
from feedback.turns import Message
from training.errors import GatewayRefused, GatewayUnavailable, NotThere, TrainingError

log = logging.getLogger("training.sampling.gateway")
T = TypeVar("T")

_LOOK_S = 0.3
_LOAD_LOOK_S = 0.5
_BUSY = {429, 502, 503, 504}
_BEHIND_USERS = 1
"""The priority of everything asked here. Users' chat has 0, and what waits with a lower number goes first."""
_TRIES = 4
"""How often a call is sent that ends with 500 or is aborted, and a version asked that was there and is not: each may
pass by."""
_ABORTED = "abort"
"""The engine's finish_reason for a request that it gave up before its end."""


@dataclass(frozen=True)
class Ask:
    """One prompt to be answered by a pinned version."""

    version: Version
    messages: Sequence[Message]
    seed: int


@dataclass(frozen=True)
class SamplingSettings:
    """`logprobs` asks for the log-prob of each sampled token too."""

    temperature: float
    max_tokens: int
    concurrency: int
    logprobs: bool = False


@dataclass(frozen=True)
class Sample:
    """An answer as the engine sampled it, with the log-prob (nats) of each token where they were asked for."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None
    logprobs: tuple[float, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether it was sampled to its end: an answer that says nothing has its end token still."""
        return bool(self.token_ids) and self.finish_reason != _ABORTED


@dataclass(frozen=True)
class Patience:
    """How long a call waits for a gateway that is away, how often it asks, and what may end the waiting by raising."""

    total_s: float = 600.0
    pause_s: float = 3.0
    check: Callable[[], None] = lambda: None


class Gateway:
    """Calls with one key. While the gateway or its engine is away, calls wait for it."""

    def __init__(self, url: str, key: str, line: LineName, patience: Patience | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"}
        self._line = line
        self._patience = patience or Patience()

    def sample(self, asks: Sequence[Ask], settings: SamplingSettings, on_answer: Callable[[int, Sample], None]) -> None:
        """Ask everything, `concurrency` at a time; `on_answer` gets each ask's place and answer as they come.

        What `on_answer` raises ends the sampling.
        """
        self._run(self._sample(asks, settings, on_answer))

    def wait_until_loaded(self, version: Version, *, within_s: float) -> None:
        """Return once the engine has the version. GatewayRefused with the reason when it was refused."""
        self._run(self._wait_alone(version, within_s))

    def context_tokens(self) -> int:
        """The longest sequence that the engine reads. GatewayUnavailable when the engine stays away."""
        return self._run(self._context_tokens())

    def promote(self, version: Version, reason: str, *, over: Version) -> dict[str, Any]:
        """Make a candidate live in the place of `over`; the gateway checks it on the engine first."""
        return self.post(f"/operator/policies/{version}/promote", {"reason": reason, "over": over})

    def try_out(self, version: Version, reason: str) -> dict[str, Any]:
        """Make a candidate the canary, beside the live version; the gateway checks it on the engine first."""
        return self.post(f"/operator/policies/{version}/canary", {"reason": reason})

    def get(self, path: str) -> dict[str, Any]:
        return self._run(self._alone("GET", path, None))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._run(self._alone("POST", path, body))

    # Inside ------------------------------------------------------------------------------------------------------
    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end, unless the patience's check raises: then what is on its way is given up."""

        async def attended() -> T:
            task = asyncio.ensure_future(work)
            try:
                while not task.done():
                    self._patience.check()
                    await asyncio.wait({task}, timeout=_LOOK_S)
                return task.result()
            finally:
                task.cancel()

        return asyncio.run(attended())

    async def _alone(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        async with self._session() as session:
            return await self._call(session, method, path, body)

    async def _wait_alone(self, version: Version, within_s: float) -> None:
        async with self._session() as session:
            await self._loaded(session, version, within_s)

    async def _context_tokens(self) -> int:
        deadline = time.monotonic() + self._patience.total_s
        async with self._session() as session:
            while True:
                found = (await self._call(session, "GET", "/v1/models", None))["data"][0].get("max_model_len")
                if found is not None:
                    return int(found)
                if time.monotonic() > deadline:
                    raise GatewayUnavailable(f"the gateway saw no engine for {self._patience.total_s:g} s")
                await asyncio.sleep(self._patience.pause_s)

    async def _loaded(self, session: aiohttp.ClientSession, version: Version, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while True:
            policy = await self._call(session, "GET", f"/operator/policies/{version}", None)
            load = policy.get("load") or {}
            state = load.get("state")
            if state == "loaded":
                return
            if state == "refused":
                raise GatewayRefused(f"the gateway refused {version}: {load.get('error')}")
            if time.monotonic() > deadline:
                raise GatewayUnavailable(
                    f"{version} was not loaded within {within_s:g} s (its state: {state or 'unseen'})"
                )
            await asyncio.sleep(_LOAD_LOOK_S)

    async def _sample(
        self, asks: Sequence[Ask], settings: SamplingSettings, on_answer: Callable[[int, Sample], None]
    ) -> None:
        waiting = list(enumerate(asks))[::-1]

        async def work() -> None:
            while waiting:
                place, ask = waiting.pop()
                on_answer(place, await self._answer_when_loaded(session, ask, settings))

        async with self._session() as session:
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(settings.concurrency, len(asks))):
                        workers.create_task(work())
            except ExceptionGroup as failed:
                told, others = failed.split(TrainingError)
                if told is None or others is not None:
                    raise
                raise _first(told) from None  # the one to tell; the others follow from it

    async def _answer_when_loaded(self, session: aiohttp.ClientSession, ask: Ask, settings: SamplingSettings) -> Sample:
        """An engine that starts anew gets its adapters back one by one: until then the others are not there."""
        for _ in range(_TRIES - 1):
            try:
                return await self._answer(session, ask, settings)
            except NotThere as error:
                log.info("waiting for %s: %s", ask.version, error)
                await asyncio.sleep(self._patience.pause_s)
                await self._loaded(session, ask.version, self._patience.total_s)
        return await self._answer(session, ask, settings)

    async def _answer(self, session: aiohttp.ClientSession, ask: Ask, settings: SamplingSettings) -> Sample:
        """A whole answer; a request that the engine aborts is sent again a few times."""
        for _ in range(_TRIES):
            sample = await self._answer_once(session, ask, settings)
            if sample.is_whole:
                return sample
            log.info("asking %s again: the engine aborted the request", ask.version)
            await asyncio.sleep(self._patience.pause_s)
        raise GatewayUnavailable(
            f"{ask.version} was asked {_TRIES} times and gave no whole answer, at last {len(sample.token_ids)} token "
            f"ids with finish_reason = {sample.finish_reason!r}; the engine's log says why it aborts requests"
        )

    async def _answer_once(self, session: aiohttp.ClientSession, ask: Ask, settings: SamplingSettings) -> Sample:
        body = {
            "model": public_id(self._line, ask.version),
            "messages": list(ask.messages),
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            "seed": ask.seed,
            "store": False,
            "return_token_ids": True,
            "priority": _BEHIND_USERS,
            **({"logprobs": True} if settings.logprobs else {}),
        }
        answer = await self._call(session, "POST", "/v1/chat/completions", body)
        if answer["model"] != body["model"]:
            raise GatewayRefused(f"asked {body['model']}, {answer['model']} answered: nothing can be learned of it")
        return _sample(answer["choices"][0], with_logprobs=settings.logprobs)

    async def _call(
        self, session: aiohttp.ClientSession, method: str, path: str, body: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """The JSON of one call, tried again while the gateway is away or busy, and a few times when it fails."""
        deadline = time.monotonic() + self._patience.total_s
        failures = 0
        while True:
            try:
                async with session.request(method, self._url + path, json=body) as response:
                    if response.status < 400:
                        found: dict[str, Any] = await response.json()
                        return found
                    trouble = f"{response.status}: {_message(await response.text())}"
                    if response.status == 404:
                        raise NotThere(f"{method} {path} was refused with {trouble}")
                    failures += response.status == 500
                    if failures >= _TRIES:
                        raise GatewayUnavailable(f"{method} {path} failed {failures} times, at last with {trouble}")
                    if response.status not in _BUSY | {500}:
                        raise GatewayRefused(f"{method} {path} was refused with {trouble}")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                trouble = f"{type(error).__name__}: {error}"
            if time.monotonic() > deadline:
                waited = f"{self._patience.total_s:g} s"
                raise GatewayUnavailable(f"{method} {self._url}{path} failed for {waited}, at last with {trouble}")
            log.info("waiting for the gateway: %s", trouble)
            await asyncio.sleep(self._patience.pause_s)

    def _session(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=600, connect=10)
        return aiohttp.ClientSession(headers=self._headers, timeout=timeout)


def _sample(choice: Mapping[str, Any], *, with_logprobs: bool) -> Sample:
    """One choice of an answer. GatewayRefused when a whole one lacks log-probs, where each token must have one."""
    token_ids = tuple(choice.get("token_ids") or ())
    rows = (choice.get("logprobs") or {}).get("content") or () if with_logprobs else ()
    logprobs = tuple(float(row["logprob"]) for row in rows)
    sample = Sample(choice["message"]["content"] or "", token_ids, choice["finish_reason"], logprobs)
    if with_logprobs and sample.is_whole and len(logprobs) != len(token_ids):
        raise GatewayRefused(
            f"an answer of {len(token_ids)} token ids came with {len(rows)} log-probs: nothing can be learned of it"
        )
    return sample


def _first(failed: BaseExceptionGroup[TrainingError]) -> TrainingError:
    first = failed.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _message(body: str) -> str:
    """The message of an OpenAI-shaped error, else the start of the body."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200]
