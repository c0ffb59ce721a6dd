"""A strict reader of streamed answers: every breach of OpenAI's event format, in words. Pure, and knows no other code.

The rules are those of OpenAI's streaming guide and API reference for chat and completion chunks, and of the server-sent
events that carry them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Ending = Literal["whole", "error", "cut"]
FINISHES = {"stop", "length", "tool_calls", "content_filter"}
ERROR_KEYS = {"message", "type", "param", "code"}
EVENT_KEYS = {"id", "object", "created", "model", "system_fingerprint", "choices", "usage", "prompt_token_ids"}
CHOICE_KEYS = {"index", "delta", "text", "logprobs", "finish_reason", "stop_reason", "token_ids", "prompt_token_ids"}
DELTA_KEYS = {"role", "content", "tool_calls", "refusal"}
SAME = ("id", "object", "created", "model", "system_fingerprint")


@dataclass(frozen=True)
class Asked:
    """What was asked for, and how the stream may end: `cut` ones end anywhere, in the middle of an event too."""

    chat: bool = True
    n: int = 1
    usage: bool = False
    logprobs: bool = False
    token_ids: bool = False
    endings: frozenset[Ending] = frozenset({"whole"})


@dataclass
class Seen:
    """What a stream brought: its breaches, how it ended, and the text of each choice."""

    ending: Ending = "cut"
    breaches: list[str] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    finishes: dict[int, str] = field(default_factory=dict)
    usage: Mapping[str, Any] | None = None
    first: Mapping[str, Any] | None = None

    def breach(self, where: str, what: str) -> None:
        self.breaches.append(f"{where}: {what}")


def check_stream(raw: bytes, asked: Asked) -> Seen:
    """Reads a whole response body, or as much of it as came."""
    seen = Seen()
    for number, payload in enumerate(_payloads(raw, seen)):
        where = f"event {number}"
        if seen.ending != "cut":
            seen.breach(where, f"comes after the end ({seen.ending}): {payload[:80]!r}")
            continue
        if payload == b"[DONE]":
            seen.ending = "whole"
            continue
        event = _json_object(payload, where, seen)
        if event is None:
            continue
        if "error" in event:
            _check_error(event, where, seen)
            seen.ending = "error"
        else:
            _check_event(event, where, asked, seen)
    _check_end(asked, seen)
    return seen


def _payloads(raw: bytes, seen: Seen) -> Iterator[bytes]:
    *blocks, rest = raw.split(b"\n\n")
    for number, block in enumerate(blocks):
        if not block.startswith(b"data: ") or b"\n" in block or b"\r" in block:
            seen.breach(f"event {number}", f"is no single line `data: …`: {block[:80]!r}")
            continue
        yield block.removeprefix(b"data: ")
    if rest and seen.ending != "cut":
        seen.breach("the end", f"bytes after the last event: {rest[:80]!r}")


def _json_object(payload: bytes, where: str, seen: Seen) -> dict[str, Any] | None:
    try:
        event = json.loads(payload.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        seen.breach(where, f"is no UTF-8: {payload[:80]!r}")
        return None
    except ValueError:
        seen.breach(where, f"is no JSON: {payload[:80]!r}")
        return None
    if not isinstance(event, dict):
        seen.breach(where, f"is no object: {payload[:80]!r}")
        return None
    return event


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_error(event: Mapping[str, Any], where: str, seen: Seen) -> None:
    error = event["error"]
    if event.keys() != {"error"} or not isinstance(error, dict) or error.keys() != ERROR_KEYS or not error["message"]:
        seen.breach(where, f"is no error object: {event}")


def _check_event(event: Mapping[str, Any], where: str, asked: Asked, seen: Seen) -> None:
    if unknown := event.keys() - EVENT_KEYS:
        seen.breach(where, f"unknown keys {sorted(unknown)}")
    if "prompt_token_ids" in event and not asked.token_ids:
        seen.breach(where, "token ids that nobody asked for")
    if missing := {*SAME, "choices"} - event.keys():
        seen.breach(where, f"lacks {sorted(missing)}")
        return
    if event["object"] != ("chat.completion.chunk" if asked.chat else "text_completion"):
        seen.breach(where, f"object is {event['object']!r}")
    if seen.first is None:
        seen.first = event
    for name in SAME:
        if event[name] != seen.first[name]:
            seen.breach(where, f"{name} is {event[name]!r}, at first {seen.first[name]!r}")
    _check_usage(event, where, asked, seen)
    indexes = [choice.get("index") for choice in event["choices"]]
    if indexes != sorted(set(indexes)):
        seen.breach(where, f"choices in the order {indexes}")
    for choice in event["choices"]:
        _check_choice(choice, where, asked, seen)


def _check_usage(event: Mapping[str, Any], where: str, asked: Asked, seen: Seen) -> None:
    usage = event.get("usage")
    if seen.usage is not None:
        seen.breach(where, "comes after usage")
    if not asked.usage:
        if usage is not None or not event["choices"]:
            seen.breach(where, "usage, or no choices, where usage was not asked for")
        return
    if "usage" not in event:
        seen.breach(where, "lacks usage, null or not")
    elif (usage is None) != bool(event["choices"]):
        seen.breach(where, "usage stands alone in the last event, and is null in all others")
    if usage is None:
        return
    seen.usage = usage
    if usage["prompt_tokens"] + usage["completion_tokens"] != usage["total_tokens"]:
        seen.breach(where, f"usage does not add up: {usage}")


def _check_choice(choice: Mapping[str, Any], where: str, asked: Asked, seen: Seen) -> None:
    index = choice.get("index")
    where = f"{where}, choice {index}"
    if not isinstance(index, int) or not 0 <= index < asked.n:
        seen.breach(where, f"of {asked.n}")
        return
    if unknown := choice.keys() - CHOICE_KEYS:
        seen.breach(where, f"unknown keys {sorted(unknown)}")
    if choice.keys() & {"token_ids", "prompt_token_ids"} and not asked.token_ids:
        seen.breach(where, "token ids that nobody asked for")
    if index in seen.finishes:
        seen.breach(where, f"goes on after finish_reason {seen.finishes[index]!r}")
    part = _chat_part(choice, index, where, seen) if asked.chat else choice.get("text")
    if not asked.chat and not isinstance(part, str):
        seen.breach(where, f"text is {part!r}")
    seen.texts[index] = seen.texts.get(index, "") + (part or "")
    if asked.logprobs and part:
        _check_logprobs(choice.get("logprobs"), asked.chat, where, seen)
    finish = choice.get("finish_reason", "missing")
    if finish is not None:
        if finish not in FINISHES:
            seen.breach(where, f"finish_reason is {finish!r}")
        seen.finishes[index] = finish


def _chat_part(choice: Mapping[str, Any], index: int, where: str, seen: Seen) -> str | None:
    delta = choice.get("delta")
    if not isinstance(delta, dict) or delta.keys() - DELTA_KEYS:
        seen.breach(where, f"delta is {delta!r}")
        return None
    begins = index not in seen.texts
    if begins != (delta.get("role") is not None) or delta.get("role", "assistant") != "assistant":
        seen.breach(where, f"role is {delta.get('role')!r} in the {'first' if begins else 'a later'} delta")
    content = delta.get("content")
    if content is not None and not isinstance(content, str):
        seen.breach(where, f"content is {content!r}")
        return None
    return content


def _check_logprobs(logprobs: Any, chat: bool, where: str, seen: Seen) -> None:
    if not isinstance(logprobs, dict):
        seen.breach(where, f"logprobs is {logprobs!r}")
        return
    if not chat:
        if len({len(logprobs[name]) for name in ("tokens", "token_logprobs", "text_offset")}) != 1:
            seen.breach(where, "logprobs' lists are of several lengths")
        return
    for row in logprobs.get("content") or ():
        if row.keys() != {"token", "logprob", "bytes", "top_logprobs"} or not row["logprob"] <= 0:
            seen.breach(where, f"a row of logprobs is {row}")


def _check_end(asked: Asked, seen: Seen) -> None:
    if seen.ending not in asked.endings:
        seen.breach("the end", f"it is {seen.ending}; only {sorted(asked.endings)} may be")
    if seen.ending != "whole":
        return
    if seen.finishes.keys() != set(range(asked.n)):
        seen.breach("the end", f"finish_reason came for {sorted(seen.finishes)} of {asked.n} choices")
    if asked.usage and seen.usage is None:
        seen.breach("the end", "no usage")
