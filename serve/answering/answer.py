"""One answer on its way from the engine to the caller: renamed, stripped, and remembered as turns. No I/O.

The engine stamps its own id, adapter name and fingerprint on everything; a caller sees the turn's id and the version.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from feedback.ids import TenantId, TurnId, Version, choice_turn_id
from feedback.turns import Turn
from serve.answering.resume import Spoken, can_be_resumed
from serve.requests.chat_request import Asked

_ENGINE_ONLY = ("kv_transfer_params", "ec_transfer_params", "prompt_text", "metrics", "service_tier")
_NULLS = ("reasoning", "function_call", "audio", "annotations")


@dataclass(frozen=True)
class Stamp:
    """What every part of an answer carries, fixed when the request starts.

    `response_id` and `public_model` are shown to the caller. A `blind` answer does not say which version wrote it; it
    is one of two to the same request, and its choices stand from `first_index` on.
    """

    turn_id: TurnId
    tenant: TenantId
    version: Version
    public_model: str
    response_id: TurnId
    first_index: int = 0
    blind: bool = False


@dataclass
class _Choice:
    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    n_settled: int = 0
    """Tokens whose text has come: the engine holds back the bytes of a character that is not whole yet."""


class Answer:
    """Collects the choices of one request while its events pass through `edit_event`, or at once in `edit_body`."""

    def __init__(self, asked: Asked, stamp: Stamp) -> None:
        self.asked = asked
        self.stamp = stamp
        self._part = "delta" if asked.kind == "chat" else "text"
        self._tells_usage = bool(asked.engine_fields.get("stream_options", {}).get("include_usage"))
        self._choices: dict[int, _Choice] = {}
        self._prompt_token_ids: Sequence[int] = ()
        self._started = time.time()
        self._started_clock = time.perf_counter()
        self.first_token_ms: float | None = None
        self.failed = False

    @property
    def completion_tokens(self) -> int:
        return sum(len(choice.token_ids) for choice in self._choices.values())

    @property
    def prompt_tokens(self) -> int:
        return len(self._prompt_token_ids)

    @property
    def is_whole(self) -> bool:
        """Whether every choice has come to its end."""
        choices = self._choices.values()
        return len(choices) == self.asked.n and all(choice.finish_reason for choice in choices)

    def edit_event(self, event: dict[str, Any]) -> dict[str, Any]:
        """Changes a stream event in place for the caller, and takes note of what it brings."""
        if self.first_token_ms is None:
            self.first_token_ms = self._elapsed_ms()
        self._restamp(event)
        if self._tells_usage:
            event.setdefault("usage", None)
        for choice in event["choices"]:
            part = choice["delta"].get("content") if self._part == "delta" else choice["text"]
            self._note(choice, part)
        return event

    def edit_body(self, body: dict[str, Any]) -> dict[str, Any]:
        """The same for a whole answer."""
        self._restamp(body)
        if body.get("prompt_logprobs") is None:
            body.pop("prompt_logprobs", None)
        for choice in body["choices"]:
            message = choice.get("message", {})
            self._note(choice, message.get("content") if self._part == "delta" else choice["text"])
            for name in _NULLS:
                if message.get(name) is None:
                    message.pop(name, None)
        return body

    @property
    def texts(self) -> list[str]:
        """What each choice says, as far as it has come."""
        return ["".join(choice.text) for choice in self._choices.values()]

    @property
    def calls_tools(self) -> bool:
        return any(choice.finish_reason == "tool_calls" for choice in self._choices.values())

    def rewind(self) -> Spoken | None:
        """Takes the stream back to where its text is whole, so that another engine can go on from there.

        None, and nothing taken back, where that is not possible.
        """
        if not self._prompt_token_ids or not can_be_resumed(self.asked):
            return None
        choice = self._choices.setdefault(0, _Choice())
        if choice.finish_reason is None:
            del choice.token_ids[choice.n_settled :]
        return Spoken(self._prompt_token_ids, tuple(choice.token_ids), choice.finish_reason is not None)

    def turns(self) -> list[Turn]:
        """One turn per choice that brought anything. A choice that was cut off has no finish_reason."""
        return [self._turn(index, choice) for index, choice in sorted(self._choices.items()) if choice.token_ids]

    def _restamp(self, body: dict[str, Any]) -> None:
        body["id"] = self.stamp.response_id
        body["model"] = self.stamp.public_model
        # One for all events of an answer, also where another engine goes on with it.
        body["created"] = int(self._started)
        body["system_fingerprint"] = None if self.stamp.blind else self.stamp.version
        for name in _ENGINE_ONLY:
            body.pop(name, None)
        if "prompt_token_ids" in body:
            self._prompt_token_ids = body["prompt_token_ids"] or self._prompt_token_ids
            if not self.asked.wants_token_ids:
                del body["prompt_token_ids"]

    def _note(self, choice: dict[str, Any], part: str | None) -> None:
        so_far = self._choices.setdefault(choice["index"], _Choice())
        if part:
            so_far.text.append(part)
        so_far.token_ids += choice.get("token_ids") or ()
        if part:
            so_far.n_settled = len(so_far.token_ids)
        if choice.get("logprobs"):
            so_far.logprobs += _token_logprobs(choice["logprobs"])
        if choice.get("finish_reason"):
            so_far.finish_reason = choice["finish_reason"]
        if choice.get("prompt_token_ids"):
            self._prompt_token_ids = choice["prompt_token_ids"]
        choice["index"] += self.stamp.first_index
        choice.pop("routed_experts", None)
        if not self.asked.wants_token_ids:
            choice.pop("token_ids", None)
            choice.pop("prompt_token_ids", None)

    def _turn(self, index: int, choice: _Choice) -> Turn:
        asked = self.asked
        kept = len(choice.logprobs) == len(choice.token_ids)
        return Turn(
            id=choice_turn_id(self.stamp.turn_id, index),
            at=self._started,
            tenant=self.stamp.tenant,
            user=asked.user,
            session=asked.session,
            version=self.stamp.version,
            kind=asked.kind,
            messages=asked.messages,
            prompt=asked.prompt if isinstance(asked.prompt, str) else None,
            answer="".join(choice.text),
            finish_reason=choice.finish_reason,
            prompt_token_ids=tuple(self._prompt_token_ids),
            token_ids=tuple(choice.token_ids),
            logprobs=tuple(choice.logprobs) if kept else None,
            sampling=asked.sampling,
            compare_with=asked.compare_with,
            duel=self.stamp.blind,
            first_token_ms=self.first_token_ms,
            total_ms=self._elapsed_ms(),
        )

    def _elapsed_ms(self) -> float:
        return round((time.perf_counter() - self._started_clock) * 1000, 3)


def _token_logprobs(logprobs: dict[str, Any]) -> list[float]:
    """The log-probs of the tokens themselves: chat's `content` rows, or completions' `token_logprobs`."""
    if logprobs.get("content") is not None:
        return [row["logprob"] for row in logprobs["content"]]
    return [value for value in logprobs.get("token_logprobs") or () if value is not None]
