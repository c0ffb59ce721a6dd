"""`POST /v1/chat/completions` and `/v1/completions`: one policy version per request, streamed or whole.

Plain ASGI, because this is the path that every token takes. The version is fixed before the engine is asked, and
everything that leaves carries it.
"""

import asyncio
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
from serve.caller_gone import CallerGone, unless_gone
from serve.chat_request import Asked, Kind, Limits, as_second_answer, parse_request
from serve.engine import CHAT_PATH, COMPLETION_PATH, AdapterNotLoaded, Engine
from serve.errors import (
    ApiError,
    EngineFailed,
    EngineRefused,
    EngineUnavailable,
    ModelNotFound,
    NotFound,
    TurnQueued,
    error_body,
)
from serve.events import DONE, DONE_EVENT, event
from serve.ledger_watch import LedgerWatch
from serve.metrics import Metrics
from serve.settings import GatewaySection
from serve.shelf import Shelf
from serve.swap import Swap
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
    shelf: Shelf
    swap: Swap
    engine: Engine
    ledger: Ledger
    turn_log: TurnLog
    metrics: Metrics


class Completions:
    """The ASGI endpoint of one kind of request."""

    def __init__(self, kind: Kind, parts: ChatParts) -> None:
        self.kind: Kind = kind
        self.parts = parts
        self.path = CHAT_PATH if kind == "chat" else COMPLETION_PATH

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        caller = caller_of(request)
        asked = await self._read(await request.body(), caller)
        view = self.parts.watch.current()
        policy = _resolve(view, asked, caller)
        engine_model = self.parts.shelf.engine_name(policy, live=policy.version == view.live)
        body = asked.engine_body(engine_model, caller.tenant)
        stamp = Stamp(new_turn_id(self.kind), caller.tenant, policy.version, public_id(view.line, policy.version))
        answer = Answer(asked, stamp)
        with self.parts.shelf.using(policy.version):
            work = self._stream(answer, body, send) if asked.stream else self._whole(answer, body, send)
            await self._answer(answer, unless_gone(receive, work))

    async def _read(self, raw: bytes, caller: Caller) -> Asked:
        models = self.parts.shelf.models
        limits = Limits(
            max_n=self.parts.settings.max_n,
            max_tokens=models.max_model_len if models else _ANY_LENGTH,
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
        except AdapterNotLoaded as error:
            self.parts.swap.look_again()
            raise EngineUnavailable(f"{answer.stamp.version} is being loaded again; send the request again") from error
        except EngineUnavailable:
            self.parts.swap.look_again()
            raise
        except EngineRefused:
            outcome = "refused"
            raise
        finally:
            self.parts.metrics.answered(answer, outcome)

    async def _whole(self, answer: Answer, body: bytes, send: Send) -> None:
        content = orjson.dumps(answer.edit_body(await self.parts.engine.complete(self.path, body)))
        await self._keep(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, _policy_header(answer)]})
        await send({"type": "http.response.body", "body": content})

    async def _stream(self, answer: Answer, body: bytes, send: Send) -> None:
        """Passes events on as they come. A failure before the first one is an HTTP error, a later one an event."""
        started = False
        try:
            async with self.parts.engine.stream(self.path, body) as batches:
                async for payloads in batches:
                    content, end = _edited(answer, payloads)
                    if content and not started:
                        headers = [*_STREAM_HEADERS, _policy_header(answer)]
                        await send({"type": "http.response.start", "status": 200, "headers": headers})
                        started = True
                    if end == DONE and started:
                        await self._keep(answer)
                        await send({"type": "http.response.body", "body": content + DONE_EVENT})
                        return
                    if content:
                        await send({"type": "http.response.body", "body": content, "more_body": True})
                    if isinstance(end, ApiError):
                        raise end
            raise EngineUnavailable("the engine stopped in the middle of the answer; send the request again")
        except ApiError as error:
            if not started:
                raise
            self.parts.swap.look_again()
            await send({"type": "http.response.body", "body": b"data: " + error_body(error) + b"\n\n"})

    async def _keep(self, answer: Answer) -> None:
        if answer.asked.store:
            await self.parts.turn_log.append(answer.turns())


def _resolve(view: RegistryView, asked: Asked, caller: Caller) -> Policy:
    try:
        return resolve(view, asked.model, operator=caller.is_operator)
    except UnknownPolicy as error:
        raise ModelNotFound(str(error), param="model") from error


def _edited(answer: Answer, payloads: list[bytes]) -> tuple[bytes, bytes | ApiError | None]:
    """The caller's bytes for a batch of the engine's events, and what ended the stream after them, if anything did."""
    parts: list[bytes] = []
    for payload in payloads:
        if payload == DONE:
            return b"".join(parts), DONE
        content = orjson.loads(payload)
        if "error" in content:
            return b"".join(parts), _stream_error(content["error"])
        parts.append(event(answer.edit_event(content)))
    return b"".join(parts), None


def _stream_error(error: dict[str, Any]) -> ApiError:
    message, status = str(error.get("message")), error.get("code")
    if isinstance(status, int) and 400 <= status < 500:
        return EngineRefused(status, message)
    return EngineFailed(f"the engine failed at this request: {message}")


def _policy_header(answer: Answer) -> tuple[bytes, bytes]:
    return b"x-burnish-policy", answer.stamp.version.encode()
