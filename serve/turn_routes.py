"""`/v1/turns`: the answers that one's own tenant was given, as they were recorded. Others' are 404."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from feedback.access_keys import Scope
from feedback.duels import DuelRows
from feedback.ids import TurnId, UserId
from feedback.ledger import Ledger
from feedback.turns import Turn
from serve.access.doors import caller_of, needs
from serve.errors import NotFound

Person = Annotated[str | None, Query(min_length=1, max_length=256)]


def turn_routes(ledger: Ledger, duels: DuelRows) -> APIRouter:
    router = APIRouter(tags=["turns"])

    @router.get("/v1/turns")
    @needs(Scope.feedback)
    def list_turns(
        request: Request,
        session: Annotated[str | None, Query(min_length=1, max_length=512)] = None,
        user: Person = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        person = None if user is None else UserId(user)
        found = ledger.turns_of(caller_of(request).tenant, user=person, session=session, limit=limit)
        blind = duels.undecided(turn.id for turn in found if turn.duel)
        return {"object": "list", "data": [turn_json(turn, blind=turn.id in blind) for turn in found]}

    @router.get("/v1/turns/{turn_id}")
    @needs(Scope.feedback)
    def get_turn(request: Request, turn_id: str, user: Person = None) -> dict[str, Any]:
        turn = ledger.turn(TurnId(turn_id))
        if turn is None or turn.tenant != caller_of(request).tenant or user not in (None, turn.user):
            raise NotFound(f"there is no turn {turn_id!r}", param="turn_id", code="turn_not_found")
        return turn_json(turn, blind=turn.duel and turn.id in duels.undecided([turn.id]))

    return router


def turn_json(turn: Turn, *, blind: bool = False) -> dict[str, Any]:
    """A turn as its tenant sees it; of a `blind` one, of two not voted on yet, not which version wrote it."""
    return {
        "id": turn.id,
        "object": "turn",
        "created_at": turn.at,
        "session": turn.session,
        "user": turn.user,
        "model": None if blind else turn.version,
        "kind": turn.kind,
        "messages": turn.messages,
        "prompt": turn.prompt,
        "answer": turn.answer,
        "finish_reason": turn.finish_reason,
        "prompt_token_ids": turn.prompt_token_ids,
        "token_ids": turn.token_ids,
        "logprobs": turn.logprobs,
        "sampling": turn.sampling,
        "compare_with": turn.compare_with,
        "duel": turn.duel,
        "first_token_ms": turn.first_token_ms,
        "total_ms": turn.total_ms,
    }
