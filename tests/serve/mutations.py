"""Valid request bodies made bad in every way we could think of: bytes, JSON, types, numbers, text. Pure, seeded."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

Json = Any
ODD_VALUES: tuple[Json, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**400, -(10**400), 0.1, 1e308, -0.0, "", " ", "0",
    "null", "a\0b", "\u202e", "𝕏" * 50, "é", "x" * 10_000, "../../etc/passwd", "{{7*7}}", "<|im_end|>", [], [[]], {},
    {"": None}, [None], {"a": {"b": [1, {"c": "d"}]}}, ["x"] * 200, {str(i): i for i in range(400)},
)  # fmt: skip
LITERALS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"0x10", b"01", b"1.", b"+1", b"tru", b"undefined",
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\\x41"', b"'single'", b"1" * 5000, b"-" * 20,
)  # fmt: skip
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp037", "utf-7")


def mutant(rng: random.Random, valid: dict[str, Json]) -> bytes:
    """One to three mutations of a body, in its tree or in its bytes."""
    raw = json.dumps(valid, ensure_ascii=False).encode()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _tree(raw)
        if tree is not None and rng.random() < 0.8:
            raw = rng.choice(_IN_TREE)(rng, tree)
        else:
            raw = rng.choice(_IN_BYTES)(rng, raw)
    return raw


def _tree(raw: bytes) -> dict[str, Json] | None:
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) and tree else None


def _written(tree: Json) -> bytes:
    return json.dumps(tree, ensure_ascii=True).encode()


# In the tree --------------------------------------------------------------------------------------------------------
def _place(rng: random.Random, tree: dict[str, Json]) -> tuple[Any, Any]:
    """A container in the tree and a key or index of it; the deeper the rarer."""
    node: Any = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        inner = node[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.4:
            return node, key
        node = inner


def _swap_value(rng: random.Random, tree: dict[str, Json]) -> bytes:
    node, key = _place(rng, tree)
    node[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return _written(tree)


def _swap_type(rng: random.Random, tree: dict[str, Json]) -> bytes:
    node, key = _place(rng, tree)
    value = node[key]
    node[key] = rng.choice(([value], {"value": value}, str(value), [value, value], {str(value)[:20]: value}))
    return _written(tree)


def _delete(rng: random.Random, tree: dict[str, Json]) -> bytes:
    node, key = _place(rng, tree)
    del node[key]
    return _written(tree)


def _unknown(rng: random.Random, tree: dict[str, Json]) -> bytes:
    node, _ = _place(rng, tree)
    if isinstance(node, dict):
        node[rng.choice(("x", "", "__proto__", "a\0", "n" * 3000, "Model"))] = copy.deepcopy(rng.choice(ODD_VALUES))
    return _written(tree)


def _twice(rng: random.Random, tree: dict[str, Json]) -> bytes:
    """The same key twice, with another value."""
    key = rng.choice(list(tree))
    return _written(tree)[:-1] + b", " + _written({key: rng.choice(ODD_VALUES)})[1:]


def _nest(rng: random.Random, tree: dict[str, Json]) -> bytes:
    node, key = _place(rng, tree)
    node[key] = "@nest@"
    depth = rng.choice((20, 31, 33, 60, 100, 500, 2000, 100_000))
    opened, closed = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    inner = rng.choice((b"1", b'"x"', b"null"))
    return _written(tree).replace(b'"@nest@"', opened * depth + inner + closed * depth)


def _literal(rng: random.Random, tree: dict[str, Json]) -> bytes:
    node, key = _place(rng, tree)
    node[key] = "@literal@"
    return _written(tree).replace(b'"@literal@"', rng.choice(LITERALS))


# In the bytes -------------------------------------------------------------------------------------------------------
def _flip(rng: random.Random, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: random.Random, raw: bytes) -> bytes:
    return raw[: rng.randrange(len(raw) + 1)]


def _insert(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    odd = rng.choice(
        (b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"//", b"{", b'"')
    )
    return raw[:at] + odd + raw[at:]


def _repeat(rng: random.Random, raw: bytes) -> bytes:
    start, end = sorted((rng.randrange(len(raw) + 1), rng.randrange(len(raw) + 1)))
    return raw[:end] + raw[start:end] * rng.choice((1, 2, 50)) + raw[end:]


def _encode(rng: random.Random, raw: bytes) -> bytes:
    return raw.decode("utf-8", "replace").encode(rng.choice(ENCODINGS), "replace")


_IN_TREE: tuple[Callable[[random.Random, dict[str, Json]], bytes], ...] = (
    _swap_value, _swap_value, _swap_value, _swap_type, _delete, _unknown, _twice, _nest, _literal,
)  # fmt: skip
_IN_BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (_flip, _flip, _truncate, _insert, _repeat, _encode)
