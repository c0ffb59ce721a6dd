"""Turns and statements as the page reads them from the gateway, with every field overridable."""

from typing import Any

from feedback.events import Comparison, Edit, Rating, Retract, Verdict
from ui.chat.conversations import Message, Said, Turn


def asked(*texts: str) -> tuple[Message, ...]:
    """Messages of user and assistant in turn."""
    return tuple(Message("assistant" if at % 2 else "user", text) for at, text in enumerate(texts))


def make_turn(turn_id: str, *texts: str, answer: str = "An answer.", **overrides: Any) -> Turn:
    fields = {"session": "s1", "version": "v0000-base", "messages": asked(*texts), "finish_reason": "stop"}
    return Turn(id=turn_id, answer=answer, **{**fields, **overrides})


def rated(event_id: str, turn_id: str, value: str = "up") -> Said:
    return Said(event_id, Rating.model_validate({"kind": "rating", "turn_id": turn_id, "value": value}))


def compared(event_id: str, first: str, second: str, verdict: Verdict) -> Said:
    return Said(event_id, Comparison(kind="comparison", turn_ids=(first, second), verdict=verdict))


def edited(event_id: str, turn_id: str, text: str) -> Said:
    return Said(event_id, Edit(kind="edit", turn_id=turn_id, text=text))


def retracted(event_id: str, target: str) -> Said:
    return Said(event_id, Retract(kind="retract", event_id=target))
