"""The most tokens that a request may use, known before anything is computed. Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

from serve.requests.chat_request import Asked

# What vLLM, like OpenAI, writes for a completion that names no length.
_COMPLETION_TOKENS = 16
# A template's own words before and after the messages; those around each message are fewer than its JSON's.
_TEMPLATE_TOKENS = 64
_TOOL_TEMPLATE_TOKENS = 256


def most_tokens(asked: Asked, context_tokens: int, prompt_tokens: int | None = None) -> int:
    """Tokens of the prompt and of all choices at most, for a model that reads `context_tokens`.

    `prompt_tokens` where the engine has counted the prompt; else it is taken for as long as its bytes allow.

    Without a length of its own each choice may fill the context. Prompt and answer share it: the more the one takes,
    the less is left for the other. So with several answers the sum is greatest where the prompt just leaves them room.
    """
    prompt = min(_prompt_bound(asked) if prompt_tokens is None else prompt_tokens, context_tokens)
    answer = min(_answer_tokens(asked, context_tokens), context_tokens)
    if asked.n > 1 and prompt_tokens is None:
        prompt = min(prompt, context_tokens - answer)
    return prompt + asked.n * min(answer, context_tokens - prompt)


def prompt_of(asked: Asked) -> Mapping[str, Any] | None:
    """What there is to count of a prompt, as the engine takes it; None where its tokens are given."""
    if asked.kind == "chat":
        tools = asked.engine_fields.get("tools")
        return {"messages": asked.messages, **({"tools": tools} if tools else {})}
    return None if isinstance(asked.prompt, list) else {"prompt": asked.prompt}


def _answer_tokens(asked: Asked, context_tokens: int) -> int:
    unsaid = context_tokens if asked.kind == "chat" else _COMPLETION_TOKENS
    most: int = asked.engine_fields.get("max_tokens", unsaid)
    return most


def _prompt_bound(asked: Asked) -> int:
    """At most one token a byte, since every token stands for one byte at least."""
    if isinstance(asked.prompt, list):
        return len(asked.prompt)
    if asked.prompt is not None:
        return len(asked.prompt.encode()) + _TEMPLATE_TOKENS
    tools = asked.engine_fields.get("tools")
    in_tools = len(orjson.dumps(tools)) + _TOOL_TEMPLATE_TOKENS if tools else 0
    return len(orjson.dumps(asked.messages)) + in_tools + _TEMPLATE_TOKENS
