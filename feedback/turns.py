"""A turn: one answered request, with all that is needed to learn from it later."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from feedback.ids import TenantId, TurnId, UserId, Version

Message = dict[str, Any]


class Turn(BaseModel):
    """One answer to one prompt by one policy version.

    `prompt_token_ids` and `token_ids` are the engine's own (the end token included when the answer ended by
    itself); `logprobs` are the engine's raw log-probabilities (nats) of `token_ids`, when they were kept.
    `sampling` holds the settings as they were sent to the engine. `at` is in Unix seconds. A `duel` turn is one of two
    that answered the same request, live version and canary.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: TurnId
    at: float
    tenant: TenantId
    user: UserId | None = None
    session: str | None = None
    version: Version
    kind: Literal["chat", "completion"] = "chat"
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    answer: str
    finish_reason: str | None = None
    prompt_token_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] | None = None
    sampling: dict[str, Any] = {}
    compare_with: TurnId | None = None
    duel: bool = False
    first_token_ms: float | None = None
    total_ms: float | None = None


def text_of(content: object) -> str:
    """The plain text of a message's content, whether a string or OpenAI's list of content parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
    return ""


def first_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The conversation's first user message, or an empty string."""
    return next((text_of(m.get("content")) for m in messages if m.get("role") == "user"), "")


def prompt_key(messages: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Roles and texts of a prompt: two turns answer the same prompt when their keys are equal."""
    return tuple((str(m.get("role", "")), text_of(m.get("content"))) for m in messages)


def asked(turn: Turn) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    """What a turn answers, of chat or of completion: equal for two that answer the same prompt."""
    return turn.prompt, prompt_key(turn.messages)


def answer_one_prompt(first: Turn, second: Turn) -> bool:
    return asked(first) == asked(second)
