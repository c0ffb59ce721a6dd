"""One answer's way from the engines: which replica is asked, and what happens when it goes away meanwhile.

Nothing is lost with a replica as long as another one has the version: an answer of which nothing was sent is asked for
anew, a stream goes on where it broke off. What can be neither ends with the error.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

from feedback.policies import Policy
from serve.answering.answer import Answer
from serve.answering.events import DONE
from serve.answering.resume import Spoken, as_continued, end_events, rest_body, tokens_left
from serve.errors import ApiError, EngineFailed, EngineRefused, EngineUnavailable
from serve.metrics import Metrics
from serve.replicas.engine import CHAT_PATH, COMPLETION_PATH, AdapterNotLoaded
from serve.replicas.fleet import Fleet, Route, Wanted

_AWAY = (EngineUnavailable, AdapterNotLoaded)
_CUT = "the engine stopped in the middle of the answer; send the request again"


@dataclass(frozen=True)
class Batch:
    """Events of a stream that came together, as the caller gets them; after the `last` ones the answer is whole."""

    events: list[dict[str, Any]]
    last: bool


@dataclass
class Asking:
    """Asks for one answer; `answer` is what has come of it so far."""

    fleet: Fleet
    metrics: Metrics
    answer: Answer
    wanted: Wanted
    _failed: dict[str, ApiError] = field(default_factory=dict)

    @property
    def policy(self) -> Policy:
        return self.wanted.policy

    @property
    def answers(self) -> tuple[Answer, ...]:
        return (self.answer,)

    async def whole(self) -> dict[str, Any]:
        """The whole answer for the caller. ApiError where it fails or no replica can give one."""
        with self._blamed():
            return await self._whole()

    async def events(self) -> AsyncGenerator[Batch, None]:
        """Events for the caller until the answer is whole; ApiError where it ends before. To be closed when left."""
        with self._blamed():
            async with aclosing(self._events()) as batches:
                async for batch in batches:
                    yield batch

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """Of two answers to one request one may fail: it is told apart from the other, which is only ended with it."""
        try:
            yield
        except (EngineFailed, EngineUnavailable):
            self.answer.failed = True
            raise

    async def _whole(self) -> dict[str, Any]:
        while True:
            route = self._route()
            try:
                with route.replica.shelf.using(self.policy.version):
                    body = await route.replica.engine.complete(self._path, self._body(route))
                    return self.answer.edit_body(body)
            except _AWAY as error:
                self._note(route, error, "asked_again")

    async def _events(self) -> AsyncGenerator[Batch, None]:
        spoken: Spoken | None = None
        while True:
            if spoken is not None and self._left(spoken) <= 0:
                rest = end_events(self.answer.asked, spoken)
                yield Batch([self.answer.edit_event(event) for event in rest], last=True)
                return
            route = self._route()
            try:
                with route.replica.shelf.using(self.policy.version):
                    async with aclosing(self._from(route, spoken)) as batches:
                        async for batch in batches:
                            yield batch
                            if batch.last:
                                return
                raise EngineUnavailable(_CUT)
            except _AWAY as error:
                has_begun = self.answer.first_token_ms is not None
                self._note(route, error, "resumed" if has_begun else "asked_again")
                if has_begun:
                    spoken = self.answer.rewind()
                    if spoken is None:
                        raise self._failed[route.replica.name] from error

    async def _from(self, route: Route, spoken: Spoken | None) -> AsyncGenerator[Batch, None]:
        asked = self.answer.asked
        path, body = self._path, self._body(route)
        if spoken is not None:
            left = self._left(spoken)
            path = COMPLETION_PATH
            body = rest_body(asked, spoken, route.engine_model, self.answer.stamp.tenant, max_tokens=left)
        async with route.replica.engine.stream(path, body) as batches:
            async for payloads in batches:
                events: list[dict[str, Any]] = []
                for payload in payloads:
                    if payload == DONE:
                        yield Batch(events, last=True)
                        return
                    event = orjson.loads(payload)
                    if "error" in event:
                        if events:
                            yield Batch(events, last=False)
                        raise await self._failure(route, event["error"])
                    if spoken is not None:
                        event = as_continued(event, spoken, asked.kind)
                    events.append(self.answer.edit_event(event))
                yield Batch(events, last=False)

    @property
    def _path(self) -> str:
        return CHAT_PATH if self.answer.asked.kind == "chat" else COMPLETION_PATH

    def _body(self, route: Route) -> bytes:
        return self.answer.asked.engine_body(route.engine_model, self.answer.stamp.tenant)

    def _left(self, spoken: Spoken) -> int:
        if spoken.is_ended:
            return 0
        return tokens_left(self.answer.asked, spoken, self.fleet.max_model_len or 0)

    def _route(self) -> Route:
        try:
            return self.fleet.route(replace(self.wanted, begun=bool(self._failed)), without=self._failed)
        except ApiError:
            if self._failed:
                raise list(self._failed.values())[-1] from None
            raise

    def _note(self, route: Route, error: ApiError, how: Literal["asked_again", "resumed"]) -> None:
        """This replica is not asked again for this answer; where there is no other, the next `_route` says why."""
        route.replica.swap.look_again()
        if isinstance(error, AdapterNotLoaded):
            error = EngineUnavailable(f"{self.policy.version} is being loaded again; send the request again")
        self._failed[route.replica.name] = error
        if len(self._failed) < len(self.fleet.replicas):
            self.metrics.rescues.labels(how).inc()

    async def _failure(self, route: Route, error: dict[str, Any]) -> ApiError:
        """An error that came as an event: the request's own fault, the engine's at this request, or its end."""
        message, status = str(error.get("message")), error.get("code")
        if isinstance(status, int) and 400 <= status < 500:
            return EngineRefused(status, message)
        if not await route.replica.engine.is_well():
            return EngineUnavailable(_CUT)
        return EngineFailed(f"the engine failed at this request: {message}")
