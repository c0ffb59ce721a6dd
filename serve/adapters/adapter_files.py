"""Checks an adapter directory before vLLM sees it: files, digests, configuration, tensor names and shapes, numbers.

Reads safetensors headers by hand and never imports torch. AdapterRefused says what is wrong.
"""

import hashlib
import json
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from serve.adapters.manifest import CONFIG, MANIFEST, WEIGHTS, Manifest
from serve.adapters.safetensors_header import Tensor, read_header

ALLOWED_FILES = {CONFIG, MANIFEST, WEIGHTS}
_NAME = re.compile(r"v\d{4,}-[0-9a-f]{12}")
_TENSOR = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])\.weight")
# Of each kind: its word, the bits of its exponent, and these bits in numbers of 65,536 and more, which F16 has not.
_EXPONENT = {
    "BF16": (np.uint16, 0x7F80, 143 << 7),
    "F16": (np.uint16, 0x7C00, 0x7C00),
    "F32": (np.uint32, 0x7F800000, 143 << 23),
}
# Settings of peft that change what the weights mean and that the engine would ignore.
_MUST_BE_EMPTY = ("modules_to_save", "rank_pattern", "alpha_pattern", "use_dora", "fan_in_fan_out", "lora_bias")


class AdapterRefused(Exception):
    """An adapter directory that must not be loaded; the message says why."""


@dataclass(frozen=True)
class Expected:
    """What the registry says of the adapter, and what the engine can take."""

    version: str
    digest: str
    base_digest: str
    max_rank: int
    max_bytes: int


Shapes = dict[str, tuple[int, ...]]
"""Module path → shape of its weight, (outputs, inputs)."""


def base_shapes(model_dir: Path) -> Shapes:
    """The base's two-dimensional weights by module path, from the headers of its safetensors files."""
    shapes: Shapes = {}
    for file in sorted(model_dir.glob("model*.safetensors")):
        for name, tensor in read_header(file).items():
            if name.endswith(".weight") and len(tensor.shape) == 2:
                shapes[name.removesuffix(".weight")] = tensor.shape
    return shapes


def check_adapter(directory: Path, expected: Expected, base: Shapes) -> Manifest:
    """The manifest of a directory that may be loaded. AdapterRefused otherwise, also when it cannot be read."""
    try:
        return _checked(directory, expected, base)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise AdapterRefused(f"its files make no sense or cannot be read: {type(error).__name__}: {error}") from error


def _checked(directory: Path, expected: Expected, base: Shapes) -> Manifest:
    if not _NAME.fullmatch(expected.version) or directory.name != expected.version:
        raise AdapterRefused(f"the directory {directory.name!r} does not carry the version's name {expected.version!r}")
    _check_files(directory, expected.max_bytes)
    manifest = _read_manifest(directory)
    _check_digests(directory, manifest, expected)
    config = _read_config(directory)
    rank = _check_config(config, manifest, expected.max_rank)
    check_weights(directory / WEIGHTS, set(config["target_modules"]), rank, base)
    return manifest


def version_digest(file_digests: dict[str, str]) -> str:
    """The digest (hex) that a version is named after, from its files' SHA-256 (hex)."""
    rows = "".join(f"{name}\0{file_digests[name]}\n" for name in sorted((CONFIG, WEIGHTS)))
    return hashlib.sha256(rows.encode()).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_files(directory: Path, max_bytes: int) -> None:
    if directory.is_symlink() or not directory.is_dir():
        raise AdapterRefused(f"{directory.name!r} is no directory in the adapters folder")
    total_bytes = 0
    found = set()
    for entry in directory.iterdir():
        status = entry.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise AdapterRefused(f"{entry.name!r} is not a plain file (links are refused)")
        found.add(entry.name)
        total_bytes += status.st_size
    if found != ALLOWED_FILES:
        odd = sorted(found ^ ALLOWED_FILES)
        raise AdapterRefused(f"the directory must hold exactly {sorted(ALLOWED_FILES)}; it differs by {odd[:5]}")
    if total_bytes > max_bytes:
        raise AdapterRefused(f"it has {total_bytes} bytes; {max_bytes} are allowed")


def _read_manifest(directory: Path) -> Manifest:
    try:
        return Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise AdapterRefused(f"{MANIFEST}: {where or 'not JSON'}: {first['msg']}") from error


def _check_digests(directory: Path, manifest: Manifest, expected: Expected) -> None:
    if manifest.version != expected.version:
        raise AdapterRefused(f"{MANIFEST} is of version {manifest.version!r}, not {expected.version!r}")
    if manifest.base_digest != expected.base_digest:
        raise AdapterRefused(
            f"it was trained on base {manifest.base_digest[:12]!r}; the engine serves {expected.base_digest[:12]!r}"
        )
    found = {name: file_digest(directory / name) for name in (CONFIG, WEIGHTS)}
    for name, digest in found.items():
        if manifest.files.get(name) != digest:
            raise AdapterRefused(f"{name} has another digest than {MANIFEST} says: it was damaged or changed")
    digest = version_digest(found)
    if digest != manifest.digest or digest != expected.digest or not expected.version.endswith(digest[:12]):
        raise AdapterRefused(f"its digest is {digest[:12]}…, which is not what {expected.version!r} was published with")


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / CONFIG).read_bytes())
    except ValueError as error:
        raise AdapterRefused(f"{CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise AdapterRefused(f"{CONFIG} must be an object")
    return config


def _check_config(config: dict[str, Any], manifest: Manifest, max_rank: int) -> int:
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    modules: Any = config.get("target_modules")
    if config.get("peft_type") != "LORA":
        raise AdapterRefused(f"peft_type is {config.get('peft_type')!r}; only 'LORA' is served")
    if type(rank) is not int or not 1 <= rank <= max_rank:
        raise AdapterRefused(f"r is {rank!r}; it must be a whole number from 1 to {max_rank}")
    if type(alpha) not in (int, float) or not 0 < alpha < 1e6:
        raise AdapterRefused(f"lora_alpha is {alpha!r}; it must be above 0")
    if type(modules) is not list or not modules or any(type(name) is not str for name in modules):
        raise AdapterRefused(f"target_modules is {modules!r}; it must be a list of module names")
    if config.get("bias", "none") != "none":
        raise AdapterRefused(f"bias is {config['bias']!r}; the engine serves 'none' only")
    for name in _MUST_BE_EMPTY:
        if config.get(name):
            raise AdapterRefused(f"{name} is {config[name]!r}; the engine would ignore it, so it must be left out")
    if (rank, alpha, sorted(modules)) != (manifest.rank, manifest.alpha, sorted(manifest.target_modules)):
        raise AdapterRefused(f"{CONFIG} and {MANIFEST} name different ranks, alphas or modules")
    return int(rank)


def check_weights(path: Path, target_modules: set[str], rank: int, base: Shapes) -> None:
    """AdapterRefused unless the file holds A and B of layers so named, in the base's shapes, and sound numbers."""
    try:
        tensors = read_header(path)
    except ValueError as error:
        raise AdapterRefused(f"{WEIGHTS}: {error}") from error
    sides: dict[str, set[str]] = {}
    for name, tensor in tensors.items():
        module, side = _place_of(name)
        _check_shape(name, tensor, _wanted_shape(module, side, rank, base))
        if module.rpartition(".")[2] not in target_modules:
            raise AdapterRefused(f"{WEIGHTS} changes {module!r}, which {CONFIG} does not name in target_modules")
        sides.setdefault(module, set()).add(side)
    lacking = [module for module, found in sides.items() if found != {"A", "B"}]
    if lacking or not sides:
        raise AdapterRefused(f"{WEIGHTS} lacks A or B of {lacking[:3]}" if lacking else f"{WEIGHTS} holds no weights")
    unused = target_modules - {module.rpartition(".")[2] for module in sides}
    if unused:
        raise AdapterRefused(f"{CONFIG} names target_modules that {WEIGHTS} has no weights for: {sorted(unused)}")
    _check_numbers(path, tensors)


def module_of(tensor_name: str) -> str:
    """The path of the layer that a LoRA weight changes."""
    return _place_of(tensor_name)[0]


def _place_of(tensor_name: str) -> tuple[str, str]:
    match = _TENSOR.fullmatch(tensor_name)
    if match is None:
        raise AdapterRefused(f"{WEIGHTS} holds {tensor_name[:120]!r}, which is no LoRA weight of a linear layer")
    return match["module"], match["side"]


def _wanted_shape(module: str, side: str, rank: int, base: Shapes) -> tuple[int, int]:
    if module not in base:
        raise AdapterRefused(f"the base has no layer {module!r}; the adapter was made for another model")
    outputs, inputs = base[module]
    return (rank, inputs) if side == "A" else (outputs, rank)


def _check_shape(name: str, tensor: Tensor, wanted: tuple[int, int]) -> None:
    if tensor.dtype not in _EXPONENT:
        raise AdapterRefused(f"{name!r} is {tensor.dtype}; it must be one of {', '.join(_EXPONENT)}")
    if tensor.shape != wanted:
        raise AdapterRefused(f"{name!r} has shape {list(tensor.shape)}; the base and the rank ask for {list(wanted)}")


def _check_numbers(path: Path, tensors: dict[str, Tensor]) -> None:
    """Refuses NaN and infinity, numbers whose exponent bits are all ones, and what a narrower kind would make so."""
    content = np.memmap(path, dtype=np.uint8, mode="r")
    for name, tensor in tensors.items():
        word, mask, too_large = _EXPONENT[tensor.dtype]
        exponents = np.frombuffer(content[tensor.begin : tensor.end].tobytes(), dtype=word) & mask
        largest = int(exponents.max(initial=0))
        if largest == mask:
            raise AdapterRefused(f"{name!r} holds NaN or infinity")
        if largest >= too_large:
            raise AdapterRefused(f"{name!r} holds a number of 65,536 or more, which is no weight")
