"""What tools, the choice among them and an answer's format must be: all that the engine makes grammars of. Pure."""

import re
from typing import Any

from serve.requests.field_checks import Check, flag, text, that, wrong
from serve.requests.schema_limits import refuse_costly_schema

MOST_TOOLS = 128
_TOOL_NAME = "^[a-zA-Z0-9_-]{1,64}$"
_FORMATS = ("text", "json_object", "json_schema")
_SCHEMA_SCHEMA = {
    "type": "object",
    "description": "A JSON Schema, within the bounds that are named in docs/fields.md",
}
_DESCRIPTION = {"description": text(4096).schema, "strict": {"type": "boolean"}}


def _response_format(name: str, value: Any) -> Any:
    if type(value) is not dict or value.get("type") not in _FORMATS:
        raise wrong(name, value, response_format.words)
    if value["type"] != "json_schema":
        return {"type": value["type"]}
    named = value.get("json_schema")
    if type(named) is not dict or type(named.get("schema")) is not dict:
        raise wrong(f"{name}.json_schema", named, "an object with a name and a schema")
    tool_name(f"{name}.json_schema.name", named.get("name"))
    refuse_costly_schema(f"{name}.json_schema.schema", named["schema"])
    kept = {key: named[key] for key in ("name", "schema")}
    if named.get("description") is not None:
        kept["description"] = text(4096)(f"{name}.json_schema.description", named["description"])
    if named.get("strict") is not None:
        kept["strict"] = flag(f"{name}.json_schema.strict", named["strict"])
    return {"type": "json_schema", "json_schema": kept}


def _tool(name: str, value: Any) -> Any:
    if type(value) is not dict or value.get("type") != "function" or type(value.get("function")) is not dict:
        raise wrong(name, value, tool.words)
    function = value["function"]
    kept = {"name": tool_name(f"{name}.function.name", function.get("name"))}
    if function.get("description") is not None:
        kept["description"] = text(4096)(f"{name}.function.description", function["description"])
    if function.get("parameters") is not None:
        where = f"{name}.function.parameters"
        if type(function["parameters"]) is not dict:
            raise wrong(where, function["parameters"], "a JSON Schema")
        refuse_costly_schema(where, function["parameters"])
        kept["parameters"] = function["parameters"]
    if function.get("strict") is not None:
        kept["strict"] = flag(f"{name}.function.strict", function["strict"])
    return {"type": "function", "function": kept}


def _tool_choice(name: str, value: Any) -> Any:
    if type(value) is str and value in ("none", "auto", "required"):
        return value
    if type(value) is not dict or value.get("type") != "function" or type(value.get("function")) is not dict:
        raise wrong(name, value, tool_choice.words)
    chosen = tool_name(f"{name}.function.name", value["function"].get("name"))
    return {"type": "function", "function": {"name": chosen}}


tool_name = that(
    lambda value: type(value) is str and re.fullmatch(_TOOL_NAME, value) is not None,
    "1 to 64 letters, digits, _ and -",
    {"type": "string", "pattern": _TOOL_NAME},
)
response_format = Check(
    f"an object whose type is one of {', '.join(_FORMATS)}",
    {
        "anyOf": [
            {
                "type": "object",
                "properties": {"type": {"enum": ["text", "json_object"]}},
                "required": ["type"],
            },
            {
                "type": "object",
                "properties": {
                    "type": {"const": "json_schema"},
                    "json_schema": {
                        "type": "object",
                        "properties": {"name": tool_name.schema, "schema": _SCHEMA_SCHEMA, **_DESCRIPTION},
                        "required": ["name", "schema"],
                    },
                },
                "required": ["type", "json_schema"],
            },
        ]
    },
    _response_format,
)
tool = Check(
    'like {"type": "function", "function": {"name": "…", "parameters": {…}}}',
    {
        "type": "object",
        "properties": {
            "type": {"const": "function"},
            "function": {
                "type": "object",
                "properties": {"name": tool_name.schema, "parameters": _SCHEMA_SCHEMA, **_DESCRIPTION},
                "required": ["name"],
            },
        },
        "required": ["type", "function"],
    },
    _tool,
)
tool_choice = Check(
    '"none", "auto", "required" or an object naming a function',
    {
        "anyOf": [
            {"enum": ["none", "auto", "required"]},
            {
                "type": "object",
                "properties": {
                    "type": {"const": "function"},
                    "function": {"type": "object", "properties": {"name": tool_name.schema}, "required": ["name"]},
                },
                "required": ["type", "function"],
            },
        ]
    },
    _tool_choice,
)
