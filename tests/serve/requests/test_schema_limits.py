"""Schemas that hold up the engine's grammar compiler, or end in its 500, are refused; those in use are not. Pure."""

from functools import reduce
from typing import Any

import pytest

from serve.errors import BadRequest
from serve.requests import schema_limits as limits
from serve.requests.schema_limits import refuse_costly_schema

TEXT = {"type": "string"}


def many(count: int, value: Any = TEXT) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": value for i in range(count)}}


FINE: dict[str, dict[str, Any]] = {
    "nothing asked": {},
    "an object": {**many(20), "required": ["p0"], "additionalProperties": False},
    "as many properties as may be": many(limits.MAX_PROPERTIES),
    "a tree": {"$ref": "#/$defs/node", "$defs": {"node": many(1, {"$ref": "#/$defs/node"})}},
    "itself": many(1, {"$ref": "#"}),
    "an escaped name": {"$ref": "#/$defs/a~1b", "$defs": {"a/b": TEXT}},
    "a date": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
    "a property of the name pattern": many(1) | {"properties": {"pattern": TEXT, "$ref": TEXT, "maxLength": TEXT}},
    "a list of words": {"enum": [f"word{i}" for i in range(1000)]},
}
COSTLY: dict[str, tuple[dict[str, Any], str]] = {
    "many properties": (many(limits.MAX_PROPERTIES + 1), "properties"),
    "many values": ({"enum": list(range(2000))}, "values"),
    "much text": ({"enum": ["x" * 30_000]}, "characters"),
    "many branches": ({"anyOf": [TEXT] * 33}, "branches"),
    "doubled": (reduce(lambda inner, _: {"anyOf": [inner, many(1, inner)]}, range(6), TEXT), "branches"),
    "long": ({"type": "string", "maxLength": 10**6}, "maxLength"),
    "huge": ({"type": "array", "minItems": 1e300}, "minItems"),
    "below nothing": ({"type": "string", "minLength": -1}, "minLength"),
    "a long pattern": ({"type": "string", "pattern": "a" * 300}, "pattern of 300"),
    "a pattern that repeats": ({"type": "string", "pattern": "a{500}"}, "repeats 500"),
    "repeats in repeats": ({"type": "string", "pattern": "((a{20}){20})"}, "repeats 400"),
    "an unreadable count": ({"type": "string", "pattern": "a{99999999999999999999}"}, "repeats"),
    "many that repeat": (many(20, {"type": "string", "pattern": "a{0,90}"}), "in all"),
    "a pattern for names": ({"patternProperties": {"a{500}": TEXT}}, "repeats 500"),
    "NUL": ({"type": "string", "pattern": "a\0b"}, "NUL"),
    "a circle": ({"$ref": "#/a", "a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}}, "leads back"),
    "itself alone": ({"$ref": "#"}, "leads back"),
    "nothing": ({"$ref": "#/$defs/a"}, "names nothing"),
    "elsewhere": ({"$ref": "http://127.0.0.1/x"}, "names nothing"),
    "a file": ({"$ref": "file:///etc/passwd"}, "names nothing"),
    "what is not kept": ({"allOf": [TEXT, {"enum": ["a"]}]}, "allOf"),
}


@pytest.mark.parametrize("name", FINE)
def test_a_schema_in_use_passes(name: str) -> None:
    refuse_costly_schema("schema", FINE[name])


@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_schema_is_refused_and_told_why(name: str) -> None:
    schema, why = COSTLY[name]
    with pytest.raises(BadRequest) as refused:
        refuse_costly_schema("tools[0].function.parameters", schema)
    assert refused.value.param == "tools[0].function.parameters"
    assert why in refused.value.message
