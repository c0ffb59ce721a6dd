"""The one seam to the gateway: its HTTP API as typed calls, its failures as this package's errors.

What its JSON means is left to `bodies`.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from feedback.events import Comparison, Edit, Rating, Retract
from ui.bodies import Ask, Json, Piece, pieces_of, said_of, turn_of
from ui.chat.conversations import Said, Turn
from ui.errors import AnswerBroken, GatewayAway, GatewayRefused

TURNS_KEPT_IN_VIEW = 200
_CALL = aiohttp.ClientTimeout(total=15, sock_connect=5)
_STREAM = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=120)


@dataclass(frozen=True)
class Progress:
    """How far the votes that count are towards the next training."""

    new: int
    needed: int
    training: bool


class Wire:
    """HTTP to one gateway; every failure leaves as GatewayAway or GatewayRefused."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def call(self, key: str, method: str, path: str, **request: Any) -> Json:
        """One JSON call. `request` goes to aiohttp: `json`, `params`, `headers`."""
        async with self.open(key, method, path, _CALL, **request) as response:
            try:
                answer: Json = await response.json()
            except (aiohttp.ClientError, ValueError, TimeoutError) as error:
                raise GatewayAway(f"{method} {path}: {error}") from error
            return answer

    @asynccontextmanager
    async def open(
        self, key: str, method: str, path: str, limits: aiohttp.ClientTimeout, **request: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {**request.pop("headers", {}), "Authorization": f"Bearer {key}"}
        try:
            response = await self._http.request(
                method, self._url + path, headers=headers, timeout=limits, allow_redirects=False, **request
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise GatewayAway(f"{method} {path}: {error!r}") from error
        async with response:
            if response.status >= 300:
                raise await _refusal(response, f"{method} {path}")
            yield response


class ChatGateway:
    """What the page's own key may do: chat, vote, look at a person's own turns."""

    def __init__(self, wire: Wire, key: str) -> None:
        self._wire = wire
        self._key = key

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """The answer, or both of a duel's, piece by piece. Closing the iterator stops it at the engine."""
        opened = self._wire.open(self._key, "POST", "/v1/chat/completions", _STREAM, json=ask.body())
        async with opened as response:
            duel = "x-burnish-duel" in response.headers
            try:
                async for line in response.content:
                    if not line.startswith(b"data:"):
                        continue
                    said = line[5:].strip()
                    if said == b"[DONE]":
                        return
                    for piece in pieces_of(json.loads(said), duel=duel):
                        yield piece
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                raise AnswerBroken(repr(error)) from error
        raise AnswerBroken("the stream ended without [DONE]")

    async def turns(self, user: str, session: str | None = None) -> list[Turn]:
        """A person's turns in conversations, oldest first."""
        params: dict[str, str | int] = {"user": user, "limit": TURNS_KEPT_IN_VIEW}
        if session is not None:
            params["session"] = session
        answer = await self._wire.call(self._key, "GET", "/v1/turns", params=params)
        return [turn_of(body) for body in reversed(answer["data"]) if body.get("session") and body.get("messages")]

    async def version_of(self, turn_id: str, user: str) -> str:
        """Which version wrote a person's turn; empty as long as that is not told."""
        body = await self._wire.call(self._key, "GET", f"/v1/turns/{turn_id}", params={"user": user})
        return body["model"] or ""

    async def said_about(self, turn_id: str, user: str) -> list[Said]:
        """All that a person said about a turn of theirs, oldest first; nothing of a turn that is not kept (yet)."""
        params = {"turn_id": turn_id, "user": user}
        try:
            answer = await self._wire.call(self._key, "GET", "/v1/feedback", params=params)
        except GatewayRefused as error:
            if error.status != 404:
                raise
            return []
        return [said_of(body) for body in answer["data"]]

    async def say(self, statement: Rating | Comparison | Edit | Retract, idempotency_key: str) -> Said:
        """Send a statement; it is on disk when this returns."""
        body = statement.model_dump(mode="json", exclude_none=True)
        headers = {"Idempotency-Key": idempotency_key}
        answer = await self._wire.call(self._key, "POST", "/v1/feedback", json=body, headers=headers)
        return Said(answer["id"], statement)

    async def progress(self) -> Progress:
        answer = await self._wire.call(self._key, "GET", "/v1/progress")
        return Progress(answer["new"], answer["needed"], answer["training"])

    async def check(self) -> None:
        """Raises unless the gateway is there and takes the key."""
        await self._wire.call(self._key, "GET", "/v1/models")


class OperatorGateway:
    """What an operator's key may do. The key is given with every call and checked by the gateway each time."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def policies(self, key: str) -> Json:
        return await self._wire.call(key, "GET", "/operator/policies")

    async def schedule(self, key: str) -> Json:
        return await self._wire.call(key, "GET", "/operator/schedule")

    async def jobs(self, key: str) -> Sequence[Json]:
        jobs: Sequence[Json] = (await self._wire.call(key, "GET", "/operator/jobs"))["jobs"]
        return jobs

    async def job(self, key: str, job_id: str) -> Json:
        return await self._wire.call(key, "GET", f"/operator/jobs/{job_id}")

    async def canary(self, key: str) -> Json:
        """The version being tried out and how it stands; `canary` is null while there is none."""
        return await self._wire.call(key, "GET", "/operator/canary")

    async def audit(self, key: str) -> Sequence[Json]:
        entries: Sequence[Json] = (await self._wire.call(key, "GET", "/operator/audit"))["audit"]
        return entries

    async def train(self, key: str, reason: str, recipe: str | None = None) -> Json:
        """Start a job by `recipe`, or by the default one."""
        named = {"recipe": recipe} if recipe else {}
        return await self._wire.call(key, "POST", "/operator/jobs", json={"reason": reason, **named})

    async def cancel(self, key: str, job_id: str, reason: str) -> Json:
        """The job, which has ended or is about to."""
        return await self._wire.call(key, "POST", f"/operator/jobs/{job_id}/cancel", json={"reason": reason})

    async def move(self, key: str, version: str, move: str, reason: str) -> Json:
        """`move` is canary, promote, retire or withdraw."""
        return await self._wire.call(key, "POST", f"/operator/policies/{version}/{move}", json={"reason": reason})

    async def rollback(self, key: str, reason: str) -> Json:
        return await self._wire.call(key, "POST", "/operator/rollback", json={"reason": reason})


async def _refusal(response: aiohttp.ClientResponse, what: str) -> GatewayAway | GatewayRefused:
    if response.status >= 500:
        wait = response.headers.get("Retry-After", "")
        return GatewayAway(f"{what}: {response.status}", float(wait) if wait.isdigit() else None)
    try:
        error = (await response.json())["error"]
        code = error.get("code")
        return GatewayRefused(response.status, str(code) if code else None, str(error["message"]))
    except (aiohttp.ClientError, ValueError, KeyError, TypeError, AttributeError):
        return GatewayRefused(response.status, None, f"{what} answered {response.status}")
