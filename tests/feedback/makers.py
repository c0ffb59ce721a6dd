"""Makers of turns and events with sensible defaults."""

from typing import Any

from feedback.events import STATEMENT, Event, Statement
from feedback.ids import EventId, TenantId, TurnId, UserId, Version, new_turn_id
from feedback.turns import Turn

TENANT = TenantId("acme")


def make_turn(**overrides: Any) -> Turn:
    fields: dict[str, Any] = {
        "id": new_turn_id(),
        "at": 1000.0,
        "tenant": TENANT,
        "version": Version("v0000-base"),
        "messages": ({"role": "user", "content": "Why is the sky blue?"},),
        "answer": "Because of scattering.",
        "finish_reason": "stop",
        "prompt_token_ids": (1, 2, 3),
        "token_ids": (4, 5, 2),
        "sampling": {"temperature": 1.0},
    }
    return Turn(**(fields | overrides))


def said(kind: str, **fields: Any) -> Statement:
    return STATEMENT.validate_python({"kind": kind, **fields})


def comparison(first: str, second: str, verdict: str = "first", **fields: Any) -> Statement:
    return said("comparison", turn_ids=(first, second), verdict=verdict, **fields)


def make_event(statement: Statement, ordinal: int = 1, **overrides: Any) -> Event:
    fields: dict[str, Any] = {
        "id": EventId(f"ev-{ordinal}"),
        "ordinal": ordinal,
        "at": float(ordinal),
        "tenant": TENANT,
        "user": UserId("ann"),
        "said": statement,
    }
    return Event(**(fields | overrides))


def turn_id(name: str) -> TurnId:
    return TurnId(name)
