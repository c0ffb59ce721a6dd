"""Turns a copied adapter of peft's into files of our own: checked, and written anew in the one form that is served.

Neither the stranger's adapter_config.json nor the stranger's safetensors header goes any further, so no two readers
can take them differently.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback.policies import Imported
from serve.adapters.adapter_files import AdapterRefused, Shapes, check_weights, file_digest, module_of, version_digest
from serve.adapters.import_files import MAX_CONFIG_BYTES
from serve.adapters.manifest import CONFIG, WEIGHTS
from serve.adapters.safetensors_header import Tensor, read_header

_HARMLESS = frozenset(
    {
        # Where it came from.
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"),
        # How it was trained, or began.
        *("corda_config", "eva_config", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core"),
        *("ensure_weight_tying", "qalora_group_size", "runtime_config", "_attn_implementation_internal"),
        # Which layers it changes: the weights' names say it.
        *("exclude_modules", "layers_pattern", "layers_to_transform"),
    }
)
_READ = frozenset({"bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "target_modules", "use_rslora"})
# Ways to begin that leave the base as it is. The others (PiSSA, OLoRA, CorDA, LoftQ) change the base's weights too,
# which the adapter alone cannot bring along (vllm/lora/peft_helper.py draws the same line).
_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
_EMBEDDING = re.compile(r"embed|^wte$|^wpe$")
_MAX_NAME = 256
_HEADER_BYTES, _ROW_BYTES = 64 * 1024, 1024


@dataclass(frozen=True)
class Limits:
    """What the engine can take: `modules` are the layers it lets adapters change, None for all it has."""

    base: Shapes
    max_rank: int
    max_bytes: int
    modules: frozenset[str] | None


@dataclass(frozen=True)
class Checked:
    """An adapter that passed every check that needs no engine. `digest` names the version, `files` its files' own."""

    digest: str
    files: dict[str, str]
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    imported: Imported


@dataclass(frozen=True)
class _Lora:
    rank: int
    alpha: float
    rank_stabilised: bool
    named: frozenset[str] | None
    base_name: str | None


def rewrite(copy: Path, into: Path, limits: Limits, directory: str) -> Checked:
    """Checks the two files in `copy` and writes ours to `into`; the same adapter gives the same bytes.

    `directory` is what it was called, for the record. AdapterRefused says what is wrong.
    """
    try:
        lora = _read_config(copy / CONFIG, limits.max_rank)
        tensors = _read_weights(copy / WEIGHTS, limits)
        leaves = _check_modules({module_of(name) for name in tensors}, lora, limits)
        check_weights(copy / WEIGHTS, leaves, lora.rank, limits.base)
        _write_config(into / CONFIG, lora, leaves)
        _write_weights(copy / WEIGHTS, tensors, into / WEIGHTS)
    except (OSError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise AdapterRefused(f"its files make no sense: {type(error).__name__}: {error}"[:500]) from error
    files = {name: file_digest(into / name) for name in (CONFIG, WEIGHTS)}
    came_in = {name: file_digest(copy / name) for name in (CONFIG, WEIGHTS)}
    imported = Imported(directory=directory, files=came_in, base_name=lora.base_name)
    return Checked(version_digest(files), files, lora.rank, lora.alpha, tuple(sorted(leaves)), imported)


# The configuration ------------------------------------------------------------------------------------------------
def _read_config(path: Path, max_rank: int) -> _Lora:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise AdapterRefused(f"{CONFIG} has {path.stat().st_size} bytes; {MAX_CONFIG_BYTES} are allowed")
    try:
        config = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=_each_key_once, parse_constant=_number)
    except (ValueError, RecursionError) as error:
        raise AdapterRefused(f"{CONFIG} is not sound JSON: {error}"[:300]) from error
    if not isinstance(config, dict):
        raise AdapterRefused(f"{CONFIG} must be an object")
    _check_features(config)
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    stabilised: Any = config.get("use_rslora", False)
    if type(rank) is not int or not 1 <= rank <= max_rank:
        raise AdapterRefused(f"r is {_short(rank)}; it must be a whole number from 1 to {max_rank}")
    if type(alpha) not in (int, float) or not 0 < alpha < 1e6:
        raise AdapterRefused(f"lora_alpha is {_short(alpha)}; it must be above 0 and below a million")
    if type(stabilised) is not bool:
        raise AdapterRefused(f"use_rslora is {_short(stabilised)}; it must be true or false")
    return _Lora(rank, alpha, stabilised, _named_modules(config.get("target_modules")), _base_name(config))


def _check_features(config: dict[str, Any]) -> None:
    """Whatever changes what the weights mean is refused, and so is what nobody here knows."""
    if config.get("peft_type") != "LORA":
        raise AdapterRefused(f"peft_type is {_short(config.get('peft_type'))}; only 'LORA' is served")
    if config.get("task_type") not in ("CAUSAL_LM", None):
        raise AdapterRefused(f"task_type is {_short(config['task_type'])}; the engine answers by 'CAUSAL_LM' only")
    if config.get("bias", "none") != "none":
        raise AdapterRefused(f"bias is {_short(config['bias'])}; the engine serves 'none' only")
    init = config.get("init_lora_weights")
    if init is not None and type(init) is not bool and (type(init) is not str or init.lower() not in _INITS):
        raise AdapterRefused(
            f"init_lora_weights is {_short(init)}, which changes the base's own weights too; save it with peft's "
            "path_initial_model_for_weight_conversion"
        )
    for name in config.keys() - _HARMLESS - _READ:
        if config[name]:
            raise AdapterRefused(
                f"{name[:80]!r} is {_short(config[name])}: the engine serves adapters without it only, so it must be "
                "left out"
            )


def _named_modules(given: Any) -> frozenset[str] | None:
    """The modules that a list names. None for a pattern, which is never run: what it found is in the weights."""
    if given is None or type(given) is str:
        return None
    if type(given) is not list or not given or any(type(name) is not str for name in given):
        raise AdapterRefused(f"target_modules is {_short(given)}; it must be a list of module names or a text")
    return frozenset(given)


def _base_name(config: dict[str, Any]) -> str | None:
    name = config.get("base_model_name_or_path")
    if name is None:
        return None
    if type(name) is not str or len(name) > _MAX_NAME or not name.isprintable():
        raise AdapterRefused(f"base_model_name_or_path is {_short(name)}; it must be a text of {_MAX_NAME} letters")
    return name


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _number(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _write_config(path: Path, lora: _Lora, leaves: set[str]) -> None:
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": lora.rank_stabilised,
        "use_dora": False,
        "modules_to_save": None,
        "target_modules": sorted(leaves),
        "inference_mode": True,
    }
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


# The weights ------------------------------------------------------------------------------------------------------
def _read_weights(path: Path, limits: Limits) -> dict[str, Tensor]:
    # Reading a header holds up everything else in this process: no longer than the base's layers can need.
    max_header_bytes = _HEADER_BYTES + 2 * _ROW_BYTES * len(limits.base)
    try:
        return read_header(path, max_header_bytes=max_header_bytes)
    except ValueError as error:
        raise AdapterRefused(f"{WEIGHTS}: {error}"[:500]) from error


def _check_modules(modules: set[str], lora: _Lora, limits: Limits) -> set[str]:
    """The last names of the layers that the weights change, each of which the engine lets an adapter change."""
    named: set[str] = set()
    for module in sorted(modules):
        leaf = module.rpartition(".")[2]
        if module not in limits.base:
            raise AdapterRefused(f"the base has no layer {module[:120]!r}; the adapter was made for another model")
        if (limits.modules is not None and leaf not in limits.modules) or _EMBEDDING.search(leaf):
            served = "all linear ones" if limits.modules is None else ", ".join(sorted(limits.modules))
            raise AdapterRefused(
                f"it changes {module!r}; the engine lets adapters change {served} (engine.target_modules)"
            )
        steps = module.split(".")
        ends = {".".join(steps[at:]) for at in range(len(steps))}
        if lora.named is not None and not ends & lora.named:
            raise AdapterRefused(f"{WEIGHTS} changes {module!r}, which {CONFIG} does not name in target_modules")
        named |= ends
    if lora.named is not None and not lora.named <= named:
        unused = sorted(lora.named - named)[:3]
        raise AdapterRefused(f"{CONFIG} names target_modules that {WEIGHTS} has no weights for: {_short(unused)}")
    return {module.rpartition(".")[2] for module in modules}


def _write_weights(copy: Path, tensors: dict[str, Tensor], path: Path) -> None:
    """The same numbers under a header of our own: wider kinds first, so that each is aligned, then by name."""
    order = sorted(tensors, key=lambda name: (-tensors[name].item_bytes, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in order:
        tensor = tensors[name]
        size = tensor.end - tensor.begin
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw = raw.ljust(-(-len(raw) // 8) * 8)
    with copy.open("rb") as source, path.open("xb") as target:
        target.write(len(raw).to_bytes(8, "little") + raw)
        for name in order:
            source.seek(tensors[name].begin)
            target.write(source.read(tensors[name].end - tensors[name].begin))
