"""`/v1/feedback`: what people say about turns goes into the ledger, and is read back from it.

201 is sent only once the event is on disk; without Redis, or before the turn itself is on disk, it is 503 and nothing
is recorded.
"""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Header, Query, Request, Response

from feedback.access_keys import Scope
from feedback.errors import UnknownTurn
from feedback.events import Aspect, Comparison, Edit, Event, Rating, Retract, turns_named
from feedback.ids import TurnId, UserId
from feedback.ledger import Ledger, Speaker
from serve.access.doors import caller_of, needs
from serve.answering.turn_log import TurnLog
from serve.errors import NotFound, TurnQueued
from serve.metrics import Metrics

Said = Annotated[Rating | Comparison | Edit | Aspect | Retract, Body(discriminator="kind")]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=256)]


def vote_routes(ledger: Ledger, turn_log: TurnLog, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["feedback"])

    @router.post("/v1/feedback", status_code=201)
    @needs(Scope.feedback)
    def say(request: Request, said: Said, idempotency_key: IdempotencyKey = None) -> Response:
        """One statement. The same Idempotency-Key with the same body gives the same event again, with status 200."""
        speaker = Speaker(caller_of(request).tenant)
        queued = [turn_id for turn_id in turns_named(said) if turn_log.is_queued(turn_id, speaker.tenant)]
        try:
            appended = ledger.append_event(said, speaker, idempotency_key=idempotency_key)
        except UnknownTurn as error:
            param = "turn_ids" if said.kind == "comparison" else "turn_id"
            if queued:
                raise TurnQueued(queued[0], param=param) from error
            raise NotFound(str(error), param=param, code="turn_not_found") from error
        if appended.created:
            metrics.votes.labels(said.kind, said.source).inc()
        content = orjson.dumps(event_json(appended.event))
        return Response(content, status_code=201 if appended.created else 200, media_type="application/json")

    @router.get("/v1/feedback")
    @needs(Scope.feedback)
    def about(
        request: Request,
        turn_id: Annotated[str, Query(min_length=1, max_length=128)],
        user: Annotated[str | None, Query(max_length=256)] = None,
    ) -> dict[str, Any]:
        """Everything said about one turn, oldest first, superseded statements included."""
        tenant = caller_of(request).tenant
        turn = ledger.turn(TurnId(turn_id))
        if turn is None or turn.tenant != tenant or (user is not None and turn.user != UserId(user)):
            raise NotFound(f"there is no turn {turn_id!r}", param="turn_id", code="turn_not_found")
        return {"object": "list", "data": [event_json(event) for event in ledger.events_about(turn.id)]}

    return router


def event_json(event: Event) -> dict[str, Any]:
    """An event as callers see it: the statement, and who said it when."""
    said = event.said.model_dump(mode="json", exclude_none=True)
    return {"id": event.id, "object": "feedback", "created_at": event.at, **said, "user": event.user}
