"""Which fields of a request need or rule out each other: OpenAI's rules and the engine's. Pure."""

from collections.abc import Mapping
from typing import Any

from serve.errors import BadRequest

_STREAMED = {"properties": {"stream": {"const": True}}, "required": ["stream"]}
_WHOLE = {"properties": {"stream": {"enum": [False, None]}}}
_SOME = {"type": "integer", "minimum": 1}
_COMMON_RULES = (
    {"if": {"properties": {"stream_options": {"type": "object"}}, "required": ["stream_options"]}, "then": _STREAMED},
    {"if": {"properties": {"prompt_logprobs": _SOME}, "required": ["prompt_logprobs"]}, "then": _WHOLE},
)
_TOOL_CHOSEN = {"anyOf": [{"enum": ["auto", "required"]}, {"type": "object"}]}
CHAT_RULES = (
    *_COMMON_RULES,
    {
        "if": {"properties": {"top_logprobs": _SOME}, "required": ["top_logprobs"]},
        "then": {"properties": {"logprobs": {"const": True}}, "required": ["logprobs"]},
    },
    {
        "if": {"properties": {"tool_choice": _TOOL_CHOSEN}, "required": ["tool_choice"]},
        "then": {"properties": {"tools": {"type": "array"}}, "required": ["tools"]},
    },
)
"""What `refuse_misfits` refuses, as far as JSON Schema can say it; for the bodies of chat requests."""
COMPLETION_RULES = (
    *_COMMON_RULES,
    {
        "if": {"properties": {"max_tokens": {"const": 0}}, "required": ["max_tokens"]},
        "then": {"properties": {"echo": {"const": True}}, "required": ["echo"]},
    },
)


def refuse_misfits(given: Mapping[str, Any]) -> None:
    """BadRequest where two checked fields do not go together; it names the one to leave out."""
    streamed = given.get("stream", False)
    if "stream_options" in given and not streamed:
        raise _misfit("stream_options", "is only for streamed answers; send stream: true with it")
    if given.get("prompt_logprobs") and streamed:
        raise _misfit("prompt_logprobs", "cannot be streamed; leave out stream")
    if given.get("top_logprobs") and not given.get("logprobs"):
        raise _misfit("top_logprobs", "needs logprobs: true")
    if given.get("max_tokens") == 0 and not given.get("echo"):
        raise _misfit("max_tokens", "is 0, which is only for completions with echo: true")
    _refuse_tool_misfits(given)


def _refuse_tool_misfits(given: Mapping[str, Any]) -> None:
    choice = given.get("tool_choice", "none")
    if choice == "none":
        return
    names = [tool["function"]["name"] for tool in given.get("tools", ())]
    if not names:
        raise _misfit("tool_choice", "needs tools")
    if choice == "auto":
        return
    if choice != "required" and choice["function"]["name"] not in names:
        raise _misfit("tool_choice", f"names {choice['function']['name']!r}, which is none of tools")
    if given.get("response_format", {}).get("type", "text") != "text":
        raise _misfit("response_format", "cannot be kept by an answer that must be a tool call; leave out one of them")


def _misfit(name: str, problem: str) -> BadRequest:
    return BadRequest(f"{name} {problem}", param=name)
