"""Going on with a streamed answer on another replica, after the one that wrote it went away. Pure.

The engine is asked to complete the very tokens that have reached the caller, prompt included. What it adds is what the
first one would have added where the answer is greedy, and another sample of the same policy where it is drawn.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from feedback.ids import TenantId
from serve.requests.chat_request import Asked, Kind, cache_salt
from serve.requests.fields import COMPLETION_FIELDS, Treatment

# What depends on more than the tokens so far: half a grammar, a stop string half seen, penalties on the answer alone.
_NEEDS_THE_START = (
    "logprobs", "top_logprobs", "prompt_logprobs", "echo", "tools", "stop", "bad_words",
    "presence_penalty", "frequency_penalty",
)  # fmt: skip


@dataclass(frozen=True)
class Spoken:
    """What of an answer has reached the caller: its prompt's tokens, its own, and whether it has come to its end."""

    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]
    is_ended: bool


def can_be_resumed(asked: Asked) -> bool:
    fields = asked.engine_fields
    plain = fields.get("response_format", {}).get("type", "text") == "text"
    return plain and asked.stream and asked.n == 1 and not any(fields.get(name) for name in _NEEDS_THE_START)


def tokens_left(asked: Asked, spoken: Spoken, max_model_len: int) -> int:
    """How many tokens the answer may still have."""
    room = max_model_len - len(spoken.prompt_token_ids)
    most: int = asked.engine_fields.get("max_tokens", room)
    return min(most, room) - len(spoken.token_ids)


def rest_body(asked: Asked, spoken: Spoken, engine_model: str, tenant: TenantId, *, max_tokens: int) -> bytes:
    """What the engine is asked, at its completions, to go on with `spoken`."""
    sent = {name: value for name, value in asked.engine_fields.items() if _is_sent(name)}
    if "min_tokens" in sent:
        sent["min_tokens"] = max(0, sent["min_tokens"] - len(spoken.token_ids))
    return orjson.dumps(
        {
            **sent,
            "model": engine_model,
            "prompt": [*spoken.prompt_token_ids, *spoken.token_ids],
            "max_tokens": max_tokens,
            "stream": True,
            "return_token_ids": True,
            "cache_salt": cache_salt(tenant),
        }
    )


def as_continued(event: dict[str, Any], spoken: Spoken, kind: Kind) -> dict[str, Any]:
    """An event of the rest, as the first engine would have sent it: in the answer's own shape and count."""
    for choice in event["choices"]:
        choice.pop("prompt_token_ids", None)
        if kind == "chat":
            text = choice.pop("text")
            choice["delta"] = {"content": text}
    if kind == "chat":
        event["object"] = "chat.completion.chunk"
    if event.get("usage"):
        n_spoken = len(spoken.token_ids)
        event["usage"]["prompt_tokens"] -= n_spoken
        event["usage"]["completion_tokens"] += n_spoken
    return event


def end_events(asked: Asked, spoken: Spoken) -> list[dict[str, Any]]:
    """What is still to be said of an answer that has all its tokens: its end, its usage."""
    head = {
        "object": "chat.completion.chunk" if asked.kind == "chat" else "text_completion",
        "created": int(time.time()),
    }
    events: list[dict[str, Any]] = []
    if not spoken.is_ended:
        part: dict[str, Any] = {"delta": {}} if asked.kind == "chat" else {"text": ""}
        events.append({**head, "choices": [{"index": 0, **part, "logprobs": None, "finish_reason": "length"}]})
    if _options(asked).get("include_usage"):
        n_prompt, n_spoken = len(spoken.prompt_token_ids), len(spoken.token_ids)
        usage = {"prompt_tokens": n_prompt, "completion_tokens": n_spoken, "total_tokens": n_prompt + n_spoken}
        events.append({**head, "choices": [], "usage": usage})
    return events


def _options(asked: Asked) -> Mapping[str, Any]:
    options: Mapping[str, Any] = asked.engine_fields.get("stream_options", {})
    return options


def _is_sent(name: str) -> bool:
    field = COMPLETION_FIELDS.get(name)
    return field is not None and field.treatment is Treatment.sent
