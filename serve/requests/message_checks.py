"""What the prompt of a request must be, and the plain form in which the engine gets it: messages, prompts, metadata."""

from typing import Any

from serve.requests.field_checks import Check, list_of, text, token_id, wrong
from serve.requests.tool_checks import tool_name

ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT_PART = 'a part like {"type": "text", "text": "…"}: this model reads text only'


def _messages(name: str, value: Any) -> tuple[dict[str, Any], ...]:
    if type(value) is not list or not value:
        raise wrong(name, value, messages.words)
    return tuple(_message(message, f"{name}[{i}]") for i, message in enumerate(value))


def _message(value: Any, where: str) -> dict[str, Any]:
    """One message as the engine gets it: text content as one string, `developer` as `system`, no other keys."""
    if type(value) is not dict:
        raise wrong(where, value, "an object with role and content")
    role = value.get("role")
    if type(role) is not str or role not in ROLES:
        raise wrong(f"{where}.role", role, f"one of {', '.join(ROLES)}")
    message: dict[str, Any] = {"role": "system" if role == "developer" else role}
    calls = value.get("tool_calls") if role == "assistant" else None
    content = value.get("content")
    if content is not None:
        message["content"] = _content(content, f"{where}.content", role)
    elif not calls:
        raise wrong(f"{where}.content", None, "a string or a list of text parts")
    else:
        # Chat templates that know nothing of tools join the content to a string.
        message["content"] = ""
    if calls is not None:
        message["tool_calls"] = _CALLS(f"{where}.tool_calls", calls)
    for key in ("name", "tool_call_id"):
        if value.get(key) is not None:
            message[key] = _NAME(f"{where}.{key}", value[key])
    return message


def _content(value: Any, where: str, role: str) -> str:
    if type(value) is str:
        return value
    if type(value) is not list or not value:
        raise wrong(where, value, "a string or a list of text parts")
    return "\n".join(_part(part, f"{where}[{i}]", role) for i, part in enumerate(value))


def _part(part: Any, where: str, role: str) -> str:
    kinds = ("text", "refusal") if role == "assistant" else ("text",)
    kind = part.get("type") if type(part) is dict else None
    if type(kind) is not str or kind not in kinds or type(part.get(kind)) is not str:
        raise wrong(where, part, _TEXT_PART)
    said: str = part[kind]
    return said


def _tool_call(name: str, value: Any) -> dict[str, Any]:
    function = value.get("function") if type(value) is dict else None
    if type(function) is not dict or value.get("type") != "function":
        raise wrong(name, value, _CALL.words)
    arguments = function.get("arguments")
    if type(arguments) is not str:
        raise wrong(f"{name}.function.arguments", arguments, "a string")
    called = {"name": tool_name(f"{name}.function.name", function.get("name")), "arguments": arguments}
    return {"id": _NAME(f"{name}.id", value.get("id")), "type": "function", "function": called}


def _prompt(name: str, value: Any) -> str | list[int]:
    if type(value) is list and len(value) == 1 and type(value[0]) in (str, list):
        value = value[0]
    if type(value) is str and value:
        return value
    if type(value) is list and value and all(type(token) in (int, float) for token in value):
        return [token_id(name, token) for token in value]
    raise wrong(name, value, prompt.words)


def _metadata(name: str, value: Any) -> dict[str, str]:
    if type(value) is not dict or len(value) > 16:
        raise wrong(name, value, metadata.words)
    for key, item in value.items():
        text(64)(f"{name}'s key", key)
        text(512)(f"{name}.{key}", item)
    return value


_NAME = text(256)
_CALL = Check(
    'like {"id": "…", "type": "function", "function": {"name": "…", "arguments": "{…}"}}',
    {
        "type": "object",
        "properties": {
            "id": _NAME.schema,
            "type": {"const": "function"},
            "function": {
                "type": "object",
                "properties": {
                    "name": tool_name.schema,
                    "arguments": {"type": "string"},
                },
                "required": ["name", "arguments"],
            },
        },
        "required": ["id", "type", "function"],
    },
    _tool_call,
)
_CALLS = list_of(_CALL, 0, 128)
_CONTENT = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "required": ["type", "text"],
            },
        },
    ]
}
_OPTIONAL_NAME = {"anyOf": [_NAME.schema, {"type": "null"}]}
_SAID = {"content": _CONTENT, "name": _OPTIONAL_NAME, "tool_call_id": _OPTIONAL_NAME}
messages = Check(
    "a list of at least one message",
    {
        "type": "array",
        "minItems": 1,
        "items": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"role": {"enum": [role for role in ROLES if role != "assistant"]}, **_SAID},
                    "required": ["role", "content"],
                },
                {
                    "type": "object",
                    "properties": {
                        "role": {"const": "assistant"},
                        **_SAID,
                        "tool_calls": {"anyOf": [_CALLS.schema, {"type": "null"}]},
                    },
                    "required": ["role", "content"],
                },
                {
                    "type": "object",
                    "properties": {
                        "role": {"const": "assistant"},
                        **_SAID,
                        "content": {"type": "null"},
                        "tool_calls": {**_CALLS.schema, "minItems": 1},
                    },
                    "required": ["role", "tool_calls"],
                },
            ]
        },
    },
    _messages,
)
_TOKENS = {"type": "array", "items": token_id.schema, "minItems": 1}
_TEXT = {"type": "string", "minLength": 1}
prompt = Check(
    "one string that is not empty, or one list of token ids",
    {
        "anyOf": [
            _TEXT,
            _TOKENS,
            {"type": "array", "items": {"anyOf": [_TEXT, _TOKENS]}, "minItems": 1, "maxItems": 1},
        ]
    },
    _prompt,
)
metadata = Check(
    "an object of at most 16 strings of 1 to 512 characters; `session` groups a conversation, "
    "`compare_with` names the turn that this is a second answer to, `duel` is `allow` or left out",
    {
        "type": "object",
        "properties": {"duel": {"const": "allow"}},
        "propertyNames": {"minLength": 1, "maxLength": 64},
        "additionalProperties": text(512).schema,
        "maxProperties": 16,
    },
    _metadata,
)
