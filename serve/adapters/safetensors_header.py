"""The header of a safetensors file, read without torch: which tensors it holds, of what kind, and where.

Strict on purpose: the byte ranges must be in bounds, without gap or overlap, and as long as kind and shape say; names
come once, and nothing is left to how another reader would take it.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I8": 1, "U8": 1, "I16": 2, "I32": 4, "I64": 8, "BOOL": 1}
_MAX_HEADER_BYTES = 25_000_000
_MOST_AXES = 8
_MOST = 2**53


@dataclass(frozen=True)
class Tensor:
    """`begin` and `end` are offsets from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def item_bytes(self) -> int:
        return _BYTES[self.dtype]


def read_header(path: Path, *, max_header_bytes: int = _MAX_HEADER_BYTES) -> dict[str, Tensor]:
    """The tensors of a file by name. ValueError when the file is not sound."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(max_header_bytes, size - 8):
            raise ValueError(f"its header claims {length} bytes in a file of {size}; {max_header_bytes} are allowed")
        raw = file.read(length)
    try:
        rows = json.loads(raw.decode("utf-8"), object_pairs_hook=_each_name_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is not JSON ({error})") from error
    if not isinstance(rows, dict):
        raise ValueError("its header is not an object")
    _check_metadata(rows.get("__metadata__", {}))
    start = 8 + length
    tensors = {name: _tensor(name, row, start) for name, row in rows.items() if name != "__metadata__"}
    _check_ranges(tensors, start, size)
    return tensors


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:120]!r} comes twice")
        found[name] = value
    return found


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or any(type(value) is not str for value in metadata.values()):
        raise ValueError("its __metadata__ is not an object of texts")


def _tensor(name: str, row: Any, start: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
        sound = len(shape) <= _MOST_AXES and all(type(n) is int and 0 <= n < _MOST for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name[:120]!r} has no dtype, shape and offsets") from error
    known = type(dtype) is str and dtype in _BYTES
    if not sound or not known or end - begin != prod(shape) * _BYTES[dtype]:
        said = f"{dtype!r:.20}, {shape[:_MOST_AXES]!r:.120}, bytes {begin!r:.20} to {end!r:.20}"
        raise ValueError(f"{name[:120]!r} does not fit its bytes ({said})")
    return Tensor(dtype, shape, start + begin, start + end)


def _check_ranges(tensors: dict[str, Tensor], start: int, size: int) -> None:
    at = start
    for tensor in sorted(tensors.values(), key=lambda t: (t.begin, t.end)):
        if tensor.begin != at:
            raise ValueError("its tensors overlap or leave gaps")
        at = tensor.end
    if at != size:
        raise ValueError(f"its tensors end at byte {at} of {size}: it was cut off or has something appended")
