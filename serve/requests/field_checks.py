"""What the value of a request field must be: each check says it in words, in JSON Schema, and as a function. Pure.

Which field has which check is told by `fields`; what forms an answer is in `tool_checks`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serve.errors import BadRequest

INT64 = 2**63


@dataclass(frozen=True)
class Check:
    """`run(name, value)` gives the value to send on, or raises BadRequest; `words` and `schema` say the same."""

    words: str
    schema: Mapping[str, Any]
    run: Callable[[str, Any], Any]

    def __call__(self, name: str, value: Any) -> Any:
        return self.run(name, value)


def wrong(name: str, value: object, wanted: str) -> BadRequest:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return BadRequest(f"{name} is {shown}; it must be {wanted}", param=name)


def that(holds: Callable[[Any], bool], words: str, schema: Mapping[str, Any]) -> Check:
    """A check that sends the value on as it is wherever `holds`."""

    def run(name: str, value: Any) -> Any:
        if not holds(value):
            raise wrong(name, value, words)
        return value

    return Check(words, schema, run)


def number(low: float, high: float) -> Check:
    return that(
        lambda value: type(value) in (int, float) and low <= value <= high,
        f"a number from {low:g} to {high:g}",
        {"type": "number", "minimum": low, "maximum": high},
    )


def whole(low: int, high: int) -> Check:
    """`7.0` is the whole number 7, as in JSON Schema."""

    def run(name: str, value: Any) -> Any:
        number = int(value) if type(value) is float and value.is_integer() else value
        if type(number) is not int or not low <= number <= high:
            raise wrong(name, value, words)
        return number

    words = f"a whole number from {low} to {high}"
    return Check(words, {"type": "integer", "minimum": low, "maximum": high}, run)


def text(most: int) -> Check:
    return that(
        lambda value: type(value) is str and 1 <= len(value) <= most,
        f"a string of 1 to {most} characters",
        {"type": "string", "minLength": 1, "maxLength": most},
    )


def list_of(each: Check, least: int, most: int) -> Check:
    """A list whose every item passes `each`."""

    def run(name: str, value: Any) -> Any:
        if type(value) is not list or not least <= len(value) <= most:
            raise wrong(name, value, words)
        return [each(f"{name}[{i}]", item) for i, item in enumerate(value)]

    words = f"a list of {least} to {most}, each {each.words}"
    return Check(words, {"type": "array", "items": each.schema, "minItems": least, "maxItems": most}, run)


def _stop(name: str, value: Any) -> Any:
    if type(value) is str:
        return _STOP_STRING(name, value)
    return _STOP_STRINGS(name, value)


def _token_biases(name: str, value: Any) -> Any:
    if type(value) is not dict or len(value) > 300:
        raise wrong(name, value, token_biases.words)
    for token, bias in value.items():
        if not re.fullmatch("[0-9]{1,7}", token):
            raise wrong(f"{name}'s key", token, "a token id, in digits")
        number(-100, 100)(f"{name}.{token}", bias)
    return value


def _stream_options(name: str, value: Any) -> Any:
    if type(value) is not dict:
        raise wrong(name, value, stream_options.words)
    known = stream_options.schema["properties"]
    for option, on in value.items():
        if option not in known:
            raise wrong(f"{name}.{option[:80]}", on, f"left out; known are {', '.join(known)}")
        flag(f"{name}.{option}", on)
    return {option: on for option, on in value.items() if option != "include_obfuscation"}


flag = that(lambda value: type(value) is bool, "true or false", {"type": "boolean"})
text_only = that(
    lambda value: value == ["text"],
    '["text"]: this model writes text only',
    {"type": "array", "items": {"enum": ["text"]}, "minItems": 1, "maxItems": 1},
)
token_id = whole(0, 2**31 - 1)
_STOP_STRING = text(256)
_STOP_STRINGS = list_of(_STOP_STRING, 0, 4)
stop_strings = Check(
    "a string, or a list of at most 4, each of 1 to 256 characters",
    {"anyOf": [_STOP_STRING.schema, _STOP_STRINGS.schema]},
    _stop,
)
token_biases = Check(
    "an object of at most 300 numbers from -100 to 100, each under a token id",
    {
        "type": "object",
        "propertyNames": {"pattern": "^[0-9]{1,7}$"},
        "additionalProperties": number(-100, 100).schema,
        "maxProperties": 300,
    },
    _token_biases,
)
stream_options = Check(
    "an object of true and false",
    {
        "type": "object",
        "properties": {
            "include_usage": {"type": "boolean"},
            "include_obfuscation": {"type": "boolean"},
            "continuous_usage_stats": {"type": "boolean"},
        },
        "additionalProperties": False,
    },
    _stream_options,
)
