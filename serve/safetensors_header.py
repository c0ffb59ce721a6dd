"""The header of a safetensors file, read without torch: which tensors it holds, of what kind, and where.

Strict on purpose: the byte ranges must be in bounds, without gap or overlap, and as long as kind and shape say.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I8": 1, "U8": 1, "I16": 2, "I32": 4, "I64": 8, "BOOL": 1}
_MAX_HEADER_BYTES = 25_000_000


@dataclass(frozen=True)
class Tensor:
    """`begin` and `end` are offsets from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. ValueError when the file is not sound."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"its header claims {length} bytes in a file of {size}")
        raw = file.read(length)
    try:
        rows = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is not JSON ({error})") from error
    if not isinstance(rows, dict):
        raise ValueError("its header is not an object")
    start = 8 + length
    tensors = {name: _tensor(name, row, start) for name, row in rows.items() if name != "__metadata__"}
    _check_ranges(tensors, start, size)
    return tensors


def _tensor(name: str, row: Any, start: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
        whole = type(dtype) is str and all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name[:120]!r} has no dtype, shape and offsets") from error
    if not whole or dtype not in _BYTES or end - begin != prod(shape) * _BYTES[dtype]:
        raise ValueError(f"{name[:120]!r} ({dtype}, {list(shape)}) does not fit its bytes {begin} to {end}")
    return Tensor(dtype, shape, start + begin, start + end)


def _check_ranges(tensors: dict[str, Tensor], start: int, size: int) -> None:
    at = start
    for tensor in sorted(tensors.values(), key=lambda t: (t.begin, t.end)):
        if tensor.begin != at:
            raise ValueError("its tensors overlap or leave gaps")
        at = tensor.end
    if at != size:
        raise ValueError(f"its tensors end at byte {at} of {size}: it was cut off or has something appended")
