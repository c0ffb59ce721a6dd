"""`POST /v1/chat/completions` and `/v1/completions`: one policy version per request, streamed or whole.

Plain ASGI, because this is the path that every token takes. The version is fixed before the engine is asked, and
everything that leaves carries it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from feedback.duels import Duel, DuelRows
from feedback.errors import LedgerUnavailable, UnknownPolicy
from feedback.ids import TenantId, TurnId, choice_turn_id, new_turn_id
from feedback.ledger import Ledger
from feedback.policies import RegistryView, public_id
from feedback.turns import Turn
from serve.access.doors import Caller, caller_of
from serve.answering.answer import Answer, Stamp
from serve.answering.asking import Asking
from serve.answering.caller_gone import CallerGone, unless_gone
from serve.answering.casting import Cast, cast, drawn
from serve.answering.duel import DuelAsking
from serve.answering.events import DONE_EVENT, event
from serve.answering.turn_log import TurnLog
from serve.errors import (
    ApiError,
    EngineRefused,
    EngineUnavailable,
    ModelNotFound,
    NotFound,
    TurnQueued,
    error_body,
)
from serve.ledger_watch import LedgerWatch
from serve.limits.limiter import Limiter
from serve.metrics import Metrics
from serve.policies.traffic_meter import TrafficMeter
from serve.replicas.fleet import Fleet, Wanted
from serve.requests.chat_request import Asked, Kind, Limits, as_second_answer, parse_request
from serve.settings import GatewaySection

log = logging.getLogger(__name__)

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_POLICY = b"x-burnish-policy"
_ANY_LENGTH = 1 << 20
Telling = Asking | DuelAsking
"""What tells an answer, or two: whole, or as events."""


@dataclass(frozen=True)
class ChatParts:
    """What answering needs, made by `app`. `duels` enters a duel in the ledger, `meter` counts what is on trial."""

    settings: GatewaySection
    watch: LedgerWatch
    fleet: Fleet
    ledger: Ledger
    turn_log: TurnLog
    metrics: Metrics
    duels: DuelRows
    meter: TrafficMeter
    limiter: Limiter


class Completions:
    """The ASGI endpoint of one kind of request."""

    def __init__(self, kind: Kind, parts: ChatParts) -> None:
        self.kind: Kind = kind
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        caller = caller_of(request)
        asked = await self._read(await request.body(), caller)
        view, turn_id = self.parts.watch.current(), new_turn_id(self.kind)
        async with self.parts.limiter.admitted(caller, asked, self._context_tokens) as admission:
            chosen = await self._cast(view, asked, caller, turn_id)
            cards = stamps(view, chosen, turn_id, caller.tenant)
            askings = [self._asking(view, asked, caller, stamp) for stamp in cards]
            telling = DuelAsking(askings) if len(askings) > 1 else askings[0]
            send = admission.telling(send, telling.answers[0])
            work = self._stream(telling, send) if asked.stream else self._whole(telling, send)
            await self._answer(telling, unless_gone(receive, work), on_trial=chosen.on_trial)

    @property
    def _context_tokens(self) -> int:
        return self.parts.fleet.max_model_len or _ANY_LENGTH

    async def _cast(self, view: RegistryView, asked: Asked, caller: Caller, turn_id: TurnId) -> Cast:
        """Who answers. A duel is entered before it begins; where that fails there is none."""
        try:
            settled = cast(
                view, asked, caller.tenant, operator=caller.is_operator, is_loaded=self.parts.fleet.is_loaded
            )
        except UnknownPolicy as error:
            raise ModelNotFound(str(error), param="model") from error
        chosen = drawn(view, asked, settled, random.random)
        if not chosen.is_duel or view.canary is None:
            return chosen
        canary, first = view.canary.version, chosen.policies[0].version
        duel = Duel(turn=turn_id, at=time.time(), live=view.live, canary=canary, first=first)
        try:
            await asyncio.to_thread(self.parts.duels.open, duel)
        except LedgerUnavailable as error:
            log.warning("a prompt is answered by one version, its duel could not be entered: %s", error)
            return settled
        return chosen

    def _asking(self, view: RegistryView, asked: Asked, caller: Caller, stamp: Stamp) -> Asking:
        """A conversation comes to the same replica again, which has most of its prompt in its cache."""
        key = stamp.turn_id if asked.session is None else f"{caller.tenant}\0{asked.session}"
        policy = view.policy(stamp.version)
        wanted = Wanted(policy, live=policy.version == view.live, key=key, sticky=asked.session is not None)
        return Asking(self.parts.fleet, self.parts.metrics, Answer(asked, stamp), wanted)

    async def _read(self, raw: bytes, caller: Caller) -> Asked:
        limits = Limits(max_n=self.parts.settings.max_n, max_tokens=self._context_tokens)
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

    async def _answer(self, telling: Telling, work: Coroutine[Any, Any, None], *, on_trial: bool) -> None:
        """Does the work and counts how it ended."""
        outcome = "failed"
        try:
            await work
            outcome = "ok" if all(answer.is_whole for answer in telling.answers) else "cut"
        except CallerGone:
            outcome = "gone"
            # What they have seen of it can still be voted on.
            await self._keep(telling)
        except (EngineRefused, ModelNotFound):
            outcome = "refused"
            raise
        finally:
            for answer in telling.answers:
                self.parts.metrics.answered(answer, outcome)
                if on_trial and (answer.is_whole or answer.failed):
                    self.parts.meter.count(answer)

    async def _whole(self, telling: Telling, send: Send) -> None:
        content = orjson.dumps(await telling.whole())
        await self._keep(telling)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, _policy_header(telling)]})
        await send({"type": "http.response.body", "body": content})

    async def _stream(self, telling: Telling, send: Send) -> None:
        """Passes events on as they come. A failure before the first one is an HTTP error, a later one an event."""
        started = False
        try:
            async with aclosing(telling.events()) as batches:
                async for batch in batches:
                    content = b"".join([event(each) for each in batch.events])
                    if content and not started:
                        headers = [*_STREAM_HEADERS, _policy_header(telling)]
                        await send({"type": "http.response.start", "status": 200, "headers": headers})
                        started = True
                    if content:
                        await send({"type": "http.response.body", "body": content, "more_body": True})
                    if batch.last and started:
                        await self._keep(telling)
                        await send({"type": "http.response.body", "body": DONE_EVENT})
                        return
            raise EngineUnavailable("the engine sent an empty answer; send the request again")
        except ApiError as error:
            if not started:
                raise
            await send({"type": "http.response.body", "body": b"data: " + error_body(error) + b"\n\n"})

    async def _keep(self, telling: Telling) -> None:
        turns = [turn for answer in telling.answers if answer.asked.store for turn in answer.turns()]
        if turns:
            await self.parts.turn_log.append(turns)


def stamps(view: RegistryView, chosen: Cast, turn_id: TurnId, tenant: TenantId) -> list[Stamp]:
    """What each policy's answer carries: the answers of a duel one response, and no word about who wrote them."""
    blind = chosen.is_duel
    return [
        Stamp(
            turn_id=choice_turn_id(turn_id, index),
            tenant=tenant,
            version=policy.version,
            public_model=view.line if blind else public_id(view.line, policy.version),
            response_id=turn_id,
            first_index=index,
            blind=blind,
        )
        for index, policy in enumerate(chosen.policies)
    ]


def _policy_header(telling: Telling) -> tuple[bytes, bytes]:
    """Which version answers, or which duel this is."""
    stamp = telling.answers[0].stamp
    return (b"x-burnish-duel", stamp.response_id.encode()) if stamp.blind else (_POLICY, stamp.version.encode())
