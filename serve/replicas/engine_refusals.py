"""The engine's refusals in OpenAI's words: its codes are numbers, and its field names its own. Pure."""

import re

from serve.errors import EngineRefused

_TAIL = re.compile(r" \(parameter=.*\)$", re.DOTALL)


def refusal(status: int, message: str, param: str | None, *, chat: bool) -> EngineRefused:
    """An error with the field as the caller named it, and with OpenAI's code where it has one."""
    told = _TAIL.sub("", message)
    if "maximum context length" in told or "maximum model length" in told:
        where = "messages" if chat else "prompt"
        return EngineRefused(status, told, param=where, code="context_length_exceeded")
    if "--tool-call-parser" in told:
        problem = "this model takes no tools: its engine has no tool parser (BURNISH_ENGINE_TOOL_PARSER names one)"
        return EngineRefused(status, problem, param="tools", code="unsupported_parameter")
    if told.startswith("Grammar error"):
        return EngineRefused(status, told, param="response_format", code="invalid_json_schema")
    return EngineRefused(status, told, param=None if param is None else param.removeprefix("body."))
