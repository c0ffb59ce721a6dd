"""`POST /v1/chat/completions` and `/v1/completions`: one policy version per request, streamed or whole.

Plain ASGI, because this is the path that every token takes. The version is fixed before the engine is asked, and
everything that leaves carries it.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from feedback.errors import UnknownPolicy
from feedback.ids import TurnId, new_turn_id
from feedback.ledger import Ledger
from feedback.policies import Policy, RegistryView, public_id, resolve
from feedback.turns import Turn
from serve.access import Caller, caller_of
from serve.answer import Answer, Stamp
from serve.asking import Asking
from serve.caller_gone import CallerGone, unless_gone
from serve.chat_request import Asked, Kind, Limits, as_second_answer, parse_request
from serve.errors import (
    ApiError,
    EngineRefused,
    EngineUnavailable,
    ModelNotFound,
    NotFound,
    TurnQueued,
    error_body,
)
from serve.events import DONE_EVENT, event
from serve.fleet import Fleet, Wanted
from serve.ledger_watch import LedgerWatch
from serve.metrics import Metrics
from serve.settings import GatewaySection
from serve.turn_log import TurnLog

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_ANY_LENGTH = 1 << 20


@dataclass(frozen=True)
class ChatParts:
    """What answering needs, made by `app`."""

    settings: GatewaySection
    watch: LedgerWatch
    fleet: Fleet
    ledger: Ledger
    turn_log: TurnLog
    metrics: Metrics


class Completions:
    """The ASGI endpoint of one kind of request."""

    def __init__(self, kind: Kind, parts: ChatParts) -> None:
        self.kind: Kind = kind
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        caller = caller_of(request)
        asked = await self._read(await request.body(), caller)
        view = self.parts.watch.current()
        policy = _resolve(view, asked, caller)
        stamp = Stamp(new_turn_id(self.kind), caller.tenant, policy.version, public_id(view.line, policy.version))
        answer = Answer(asked, stamp)
        asking = Asking(
            self.parts.fleet, self.parts.metrics, answer, _wanted(policy, policy.version == view.live, answer)
        )
        work = self._stream(asking, send) if asked.stream else self._whole(asking, send)
        await self._answer(answer, unless_gone(receive, work))

    async def _read(self, raw: bytes, caller: Caller) -> Asked:
        limits = Limits(
            max_n=self.parts.settings.max_n,
            max_tokens=self.parts.fleet.max_model_len or _ANY_LENGTH,
        )
        asked = parse_request(raw, self.kind, limits, operator=caller.is_operator)
        if asked.compare_with is not None:
            asked = as_second_answer(asked, await self._first_turn(asked.compare_with, caller))
        return asked

    async def _first_turn(self, turn_id: TurnId, caller: Caller) -> Turn:
        is_queued = self.parts.turn_log.is_queued(turn_id, caller.tenant)
        turn = await asyncio.to_thread(self.parts.ledger.turn, turn_id)
        if turn is None and is_queued:
            raise TurnQueued(turn_id, param="metadata.compare_with")
        if turn is None or turn.tenant != caller.tenant:
            raise NotFound(f"there is no turn {turn_id!r}", param="metadata.compare_with", code="turn_not_found")
        return turn

    async def _answer(self, answer: Answer, work: Any) -> None:
        """Does the work and counts how it ended."""
        outcome = "failed"
        try:
            await work
            outcome = "ok" if answer.is_whole else "cut"
        except CallerGone:
            outcome = "gone"
            # What they have seen of it can still be voted on.
            if answer.asked.store and (seen := answer.turns()):
                await self.parts.turn_log.append(seen)
        except EngineRefused:
            outcome = "refused"
            raise
        finally:
            self.parts.metrics.answered(answer, outcome)

    async def _whole(self, asking: Asking, send: Send) -> None:
        answer = asking.answer
        content = orjson.dumps(answer.edit_body(await asking.whole()))
        await self._keep(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, _policy_header(answer)]})
        await send({"type": "http.response.body", "body": content})

    async def _stream(self, asking: Asking, send: Send) -> None:
        """Passes events on as they come. A failure before the first one is an HTTP error, a later one an event."""
        answer, started = asking.answer, False
        try:
            async with aclosing(asking.events()) as batches:
                async for batch in batches:
                    content = b"".join([event(answer.edit_event(each)) for each in batch.events])
                    if content and not started:
                        headers = [*_STREAM_HEADERS, _policy_header(answer)]
                        await send({"type": "http.response.start", "status": 200, "headers": headers})
                        started = True
                    if batch.last and started:
                        await self._keep(answer)
                        await send({"type": "http.response.body", "body": content + DONE_EVENT})
                        return
                    if content:
                        await send({"type": "http.response.body", "body": content, "more_body": True})
            raise EngineUnavailable("the engine sent an empty answer; send the request again")
        except ApiError as error:
            if not started:
                raise
            await send({"type": "http.response.body", "body": b"data: " + error_body(error) + b"\n\n"})

    async def _keep(self, answer: Answer) -> None:
        if answer.asked.store:
            await self.parts.turn_log.append(answer.turns())


def _resolve(view: RegistryView, asked: Asked, caller: Caller) -> Policy:
    try:
        return resolve(view, asked.model, operator=caller.is_operator)
    except UnknownPolicy as error:
        raise ModelNotFound(str(error), param="model") from error


def _wanted(policy: Policy, live: bool, answer: Answer) -> Wanted:
    """A conversation comes to the same replica again, which has most of its prompt in its cache."""
    session = answer.asked.session
    key = answer.stamp.turn_id if session is None else f"{answer.stamp.tenant}\0{session}"
    return Wanted(policy, live=live, key=key, sticky=session is not None)


def _policy_header(answer: Answer) -> tuple[bytes, bytes]:
    return b"x-burnish-policy", answer.stamp.version.encode()
