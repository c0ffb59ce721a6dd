"""Bounds on the JSON schemas that callers send, so that none holds up the engine's grammar compiler. Pure.

The engine compiles one grammar at a time on a small machine, and cannot be told to stop: a schema of some kilobytes can
keep it for minutes, and others that it cannot take at all end in its 500. What is refused here never gets there.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from serve.errors import BadRequest

MAX_SCHEMA_NODES = 1500
MAX_SCHEMA_CHARACTERS = 20_000
MAX_PROPERTIES = 150
MAX_BRANCHES = 32
MAX_COUNT = 2000
MAX_PATTERN_CHARACTERS = 200
MAX_PATTERN_REPEATS = 100
MAX_REPEATS = 500
_BRANCHES = ("anyOf", "oneOf", "allOf")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_REPEATS = re.compile(r"\{(\d+)(?:,(\d*))?\}")


def refuse_costly_schema(where: str, schema: Mapping[str, Any]) -> None:
    """BadRequest where a schema is beyond a bound; it names the bound and what was found."""
    nodes = list(_nodes(schema))
    objects = [node for node in nodes if type(node) is dict]
    characters = sum(len(node) for node in nodes if type(node) is str)
    properties = sum(len(o["properties"]) for o in objects if type(o.get("properties")) is dict)
    branches = sum(len(o[name]) for o in objects for name in _BRANCHES if type(o.get(name)) is list)
    for what, found, most in (
        ("values", len(nodes), MAX_SCHEMA_NODES),
        ("characters", characters, MAX_SCHEMA_CHARACTERS),
        ("properties", properties, MAX_PROPERTIES),
        ("branches of anyOf, oneOf and allOf", branches, MAX_BRANCHES),
    ):
        if found > most:
            raise _refused(where, f"has {found} {what}; at most {most} are compiled")
    repeats = 0
    for found_object in objects:
        _refuse_keywords(where, schema, found_object)
        repeats += sum(_repeats_of(where, pattern) for pattern in _patterns(found_object))
    if repeats > MAX_REPEATS:
        raise _refused(where, f"has patterns that repeat {repeats} times in all; at most {MAX_REPEATS}")


def _nodes(schema: Any) -> Iterator[Any]:
    """Every value in a schema and every key, without recursion."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        yield node
        if type(node) is dict:
            waiting += [*node, *node.values()]
        elif type(node) is list:
            waiting += node


def _refuse_keywords(where: str, root: Mapping[str, Any], node: Mapping[str, Any]) -> None:
    if type(node.get("allOf")) is list and len(node["allOf"]) > 1:
        raise _refused(where, "has allOf with several branches, which the engine would not keep; join them into one")
    for name in _COUNTS:
        count = node.get(name)
        if isinstance(count, int | float) and not 0 <= count <= MAX_COUNT:
            raise _refused(where, f"has {name} {count}; it must be from 0 to {MAX_COUNT}")
    if type(node.get("$ref")) is str:
        _refuse_reference(where, root, node["$ref"])


def _patterns(node: Mapping[str, Any]) -> list[str]:
    by_name = node.get("patternProperties")
    return [
        *([node["pattern"]] if type(node.get("pattern")) is str else ()),
        *(by_name if type(by_name) is dict else ()),
    ]


def _repeats_of(where: str, pattern: str) -> int:
    """How often a pattern repeats its parts at most, 1 for none; counts that stand side by side are multiplied too."""
    if "\0" in pattern:
        raise _refused(where, "has a pattern with a NUL character")
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise _refused(where, f"has a pattern of {len(pattern)} characters; at most {MAX_PATTERN_CHARACTERS}")
    repeats = 1
    for least, most in _REPEATS.findall(pattern):
        repeats *= max(int(least[:9]), int(most[:9] or 0), 1)
    if repeats > MAX_PATTERN_REPEATS:
        raise _refused(where, f"has a pattern that repeats {repeats} times; at most {MAX_PATTERN_REPEATS}")
    return repeats


def _refuse_reference(where: str, root: Mapping[str, Any], reference: str) -> None:
    """A reference must lead, perhaps through others, to a schema in the same document."""
    seen: set[str] = set()
    while True:
        if reference in seen:
            raise _refused(where, f"has $ref {reference[:80]!r}, which leads back to itself")
        seen.add(reference)
        target = _target(root, reference)
        if target is None:
            raise _refused(where, f"has $ref {reference[:80]!r}, which names nothing in this schema")
        if type(target) is not dict or type(target.get("$ref")) is not str:
            return
        reference = target["$ref"]


def _target(root: Mapping[str, Any], reference: str) -> Any:
    """What a JSON pointer (RFC 6901) such as `#/$defs/a` points at; None for anything else."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    node: Any = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if type(node) is list and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        elif type(node) is dict:
            node = node.get(name)
        else:
            return None
    return node


def _refused(where: str, problem: str) -> BadRequest:
    return BadRequest(f"{where} {problem}", param=where)
