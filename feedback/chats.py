"""What all that is learned of events has in common, and the turns that an event is about. Pure."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from feedback.events import Event, Source, turns_named
from feedback.ids import EventId, TurnId, Version
from feedback.turns import Message, Turn


class Answer(BaseModel):
    """An answer to learn from. A person's own text has no turn, no version and no engine tokens.

    `finish_reason` is the engine's. `stops` are the strings and token ids at which the caller wanted it to stop: with
    "stop" it ended at one of those, or by itself.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    turn_id: TurnId | None = None
    token_ids: tuple[int, ...] | None = None
    version: Version | None = None
    finish_reason: str | None = None
    stops: tuple[str | int, ...] = ()


class Taught(BaseModel):
    """What an event teaches about a prompt. `prompt_token_ids` are the engine's, `weight` multiplies the loss."""

    model_config = ConfigDict(frozen=True)

    event_id: EventId
    messages: tuple[Message, ...]
    prompt_token_ids: tuple[int, ...] | None
    weight: float = 1.0
    source: Source = Source.human


class Unusable(Exception):
    """Why an event teaches nothing, in the words of the report."""


def chats_named(event: Event, turns: Mapping[TurnId, Turn]) -> list[Turn]:
    """The chat turns an event is about, in its order. Unusable when one is no longer kept, no chat, or one with tools.

    The engine writes the tools that a caller offers into the prompt, and the turn's messages do not say how.
    """
    about = [turns.get(turn_id) for turn_id in turns_named(event.said)]
    kept = [turn for turn in about if turn is not None]
    if len(kept) < len(about):
        raise Unusable("turn no longer kept")
    if any(turn.kind != "chat" for turn in kept):
        raise Unusable("not a chat")
    if any(turn.sampling.get("tools") for turn in kept):
        raise Unusable("asked with tools")
    return kept


def answer_of(turn: Turn) -> Answer:
    return Answer(
        text=turn.answer,
        turn_id=turn.id,
        token_ids=turn.token_ids or None,
        version=turn.version,
        finish_reason=turn.finish_reason,
        stops=_stops(turn.sampling),
    )


def _stops(sampling: Mapping[str, Any]) -> tuple[str | int, ...]:
    strings = sampling.get("stop") or ()
    return (*((strings,) if isinstance(strings, str) else strings), *(sampling.get("stop_token_ids") or ()))
