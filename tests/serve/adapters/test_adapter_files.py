"""Hostile and damaged adapter directories: each is refused by name, before the engine would see it."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from feedback.ids import Version
from serve.adapters.adapter_files import AdapterRefused, Expected, Shapes, base_shapes, check_adapter, version_digest
from serve.adapters.manifest import CONFIG, MANIFEST, WEIGHTS
from serve.adapters.safetensors_header import read_header
from tests.adapters import make_adapter
from tests.serve.conftest import fake_probes
from tests.serve.publish import base_digest, place, sha256, write_manifest

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def shapes(model_dir: Path) -> Shapes:
    return base_shapes(model_dir)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    return make_adapter(tmp_path_factory.mktemp("made") / "small", model_dir, seed=5, rank=2)


def expected(directory: Path, model_dir: Path, **changes: Any) -> Expected:
    digest = version_digest({name: sha256(directory / name) for name in (CONFIG, WEIGHTS)})
    fields = {"version": directory.name, "digest": digest, "base_digest": base_digest(model_dir)}
    return Expected(**{**fields, "max_rank": 64, "max_bytes": 1 << 28, **changes})


def refused(directory: Path, model_dir: Path, shapes: Shapes, **changes: Any) -> str:
    with pytest.raises(AdapterRefused) as refusal:
        check_adapter(directory, expected(directory, model_dir, **changes), shapes)
    return str(refusal.value)


@pytest.fixture
def placed(tmp_path: Path, made: Path, model_dir: Path) -> Path:
    version, _ = place(made, tmp_path / "adapters", 7)
    write_manifest(tmp_path / "adapters" / version, model_dir, fake_probes)
    return tmp_path / "adapters" / version


def test_a_sound_adapter_passes(placed: Path, model_dir: Path, shapes: Shapes) -> None:
    manifest = check_adapter(placed, expected(placed, model_dir), shapes)
    assert manifest.version == placed.name
    assert len(shapes) > 200


def change_config(**changes: Any) -> Damage:
    def damage(directory: Path) -> None:
        config = json.loads((directory / CONFIG).read_text())
        (directory / CONFIG).write_text(json.dumps({**config, **changes}))

    return damage


def change_tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Damage:
    def damage(directory: Path) -> None:
        tensors = load_file(directory / WEIGHTS)
        change(tensors)
        save_file(tensors, directory / WEIGHTS)

    return damage


def change_header(change: Callable[[dict[str, Any]], None], *, keep_length: bool = False) -> Damage:
    def damage(directory: Path) -> None:
        raw = (directory / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        change(header)
        made = json.dumps(header).encode()
        made = made.ljust(length) if keep_length else made
        (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(made)) + made + raw[8 + length :])

    return damage


def write_weights(content: bytes) -> Damage:
    return lambda directory: (directory / WEIGHTS).write_bytes(content)


def first(tensors: dict[str, Any]) -> str:
    return min(name for name in tensors if name != "__metadata__")


def poison(value: float) -> Damage:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[first(tensors)][0, 0] = value

    return change_tensors(change)


def renamed(name: str) -> Damage:
    return change_tensors(lambda tensors: tensors.update({name: tensors.pop(first(tensors))}))


def reshaped(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first(tensors)] = tensors[first(tensors)].T.contiguous()


def half(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[first(tensors)]


def retyped(dtype: torch.dtype) -> Damage:
    return change_tensors(lambda tensors: tensors.update({first(tensors): tensors[first(tensors)].to(dtype)}))


LAYER = "base_model.model.model.layers"
# The manifest is written anew after the damage, so that each check is reached and not the digests alone.
DAMAGED: dict[str, tuple[Damage, str]] = {
    "NaN": (poison(float("nan")), "NaN or infinity"),
    "infinity": (poison(float("inf")), "NaN or infinity"),
    "an unknown layer": (renamed(f"{LAYER}.999.self_attn.q_proj.lora_A.weight"), "has no layer"),
    "the embedding": (renamed("base_model.model.lm_head.lora_embedding_A"), "no LoRA weight"),
    "a whole layer": (renamed("base_model.model.model.layers.0.mlp.down_proj.weight"), "no LoRA weight"),
    "a wrong prefix": (renamed("model.layers.0.self_attn.q_proj.lora_A.weight"), "no LoRA weight"),
    "a norm": (renamed(f"{LAYER}.0.input_layernorm.lora_A.weight"), "has no layer"),
    "a path as a name": (renamed("base_model.model.../../etc/passwd.lora_A.weight"), "no LoRA weight"),
    "A without B": (change_tensors(half), "lacks A or B"),
    "a transposed matrix": (change_tensors(reshaped), "has shape"),
    "float64": (retyped(torch.float64), "must be one of"),
    "int8": (retyped(torch.int8), "must be one of"),
    "no weights": (change_tensors(lambda tensors: tensors.clear()), "no weights"),
    "rank 0": (change_config(r=0), "whole number from 1 to 64"),
    "a huge rank": (change_config(r=4096), "whole number from 1 to 64"),
    "rank as text": (change_config(r="2"), "whole number from 1 to 64"),
    "rank true": (change_config(r=True), "whole number from 1 to 64"),
    "another rank": (change_config(r=4), "has shape"),
    "a rank pattern": (change_config(rank_pattern={"q_proj": 512}), "rank_pattern"),
    "an alpha pattern": (change_config(alpha_pattern={"q_proj": 512}), "alpha_pattern"),
    "alpha 0": (change_config(lora_alpha=0), "lora_alpha"),
    "alpha NaN": (change_config(lora_alpha=float("nan")), "lora_alpha"),
    "DoRA": (change_config(use_dora=True), "use_dora"),
    "biases": (change_config(bias="all"), "bias"),
    "whole modules": (change_config(modules_to_save=["lm_head"]), "modules_to_save"),
    "another method": (change_config(peft_type="IA3"), "peft_type"),
    "all linear": (change_config(target_modules="all-linear"), "target_modules"),
    "no modules": (change_config(target_modules=[]), "target_modules"),
    "a module too few": (change_config(target_modules=["q_proj"]), "does not name in target_modules"),
    "a module too many": (
        change_config(
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "x"]
        ),
        "no weights for",
    ),
    "a list as config": (lambda d: (d / CONFIG).write_text("[]"), "must be an object"),
    "a truncated file": (lambda d: write_weights((d / WEIGHTS).read_bytes()[:-100])(d), "cut off"),
    "something appended": (lambda d: write_weights((d / WEIGHTS).read_bytes() + b"PK\3\4")(d), "something appended"),
    "a pickle": (write_weights(b"\x80\x04\x95" + b"x" * 64), "header claims"),
    "an empty file": (write_weights(b""), "header claims"),
    "a header that claims all memory": (write_weights(struct.pack("<Q", 2**62) + b"{}"), "header claims"),
    "a header that is no JSON": (write_weights(struct.pack("<Q", 4) + b"{{{{"), "not JSON"),
    "a header that is nested too deep": (
        write_weights(struct.pack("<Q", 200_004) + b"[" * 100_000 + b"]" * 100_004),
        "not JSON",
    ),
    "a header that is a list": (write_weights(struct.pack("<Q", 2) + b"[]"), "not an object"),
    "overlapping tensors": (
        change_header(lambda h: h[sorted(h)[2]].update(data_offsets=h[sorted(h)[1]]["data_offsets"])),
        "",
    ),
    "offsets beyond the file": (change_header(lambda h: h[first(h)].update(data_offsets=[0, 2**40])), "does not fit"),
    "negative offsets": (change_header(lambda h: h[first(h)].update(data_offsets=[-8, 0])), "does not fit"),
    "a negative shape": (change_header(lambda h: h[first(h)].update(shape=[-1, -576])), "does not fit"),
    "an unknown dtype": (change_header(lambda h: h[first(h)].update(dtype="PICKLE")), "does not fit"),
    "a dtype that is a list": (change_header(lambda h: h[first(h)].update(dtype=[])), "does not fit"),
    "no offsets": (change_header(lambda h: h[first(h)].pop("data_offsets")), "no dtype, shape and offsets"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_adapter_is_refused_with_the_reason(name: str, placed: Path, model_dir: Path, shapes: Shapes) -> None:
    damage, words = DAMAGED[name]
    damage(placed)
    digest = version_digest({file: sha256(placed / file) for file in (CONFIG, WEIGHTS)})
    directory = placed.with_name(f"v0007-{digest[:12]}")
    placed.rename(directory)
    rewrite_manifest(directory, model_dir)
    assert words in refused(directory, model_dir, shapes)


def rewrite_manifest(directory: Path, model_dir: Path) -> None:
    """A manifest that agrees with the damaged files where it can."""
    known = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).unlink()
    files = {name: sha256(directory / name) for name in (CONFIG, WEIGHTS)}
    changes: dict[str, Any] = {"version": directory.name, "files": files, "digest": version_digest(files)}
    config = json.loads((directory / CONFIG).read_text())
    if isinstance(config, dict) and type(config["r"]) is int and config["r"] > 0 and config["lora_alpha"] > 0:
        changes |= {"rank": config["r"], "alpha": config["lora_alpha"]}
        if isinstance(config["target_modules"], list) and config["target_modules"]:
            changes["target_modules"] = config["target_modules"]
    (directory / MANIFEST).write_text(json.dumps(known | changes))


MANIFESTS: dict[str, tuple[dict[str, Any], str]] = {
    "another format": ({"format": 2}, "format"),
    "another version": ({"version": "v0008-aaaaaaaaaaaa"}, "is of version"),
    "another base": ({"base_digest": "0" * 64}, "trained on base"),
    "another digest": ({"digest": "0" * 64}, "its digest is"),
    "another file digest": ({"files": {CONFIG: "0" * 64, WEIGHTS: "0" * 64}}, "another digest"),
    "another rank": ({"rank": 3}, "different ranks"),
    "no probes": ({"probes": []}, "probes"),
    "probes of NaN": ({"probes": [{"token_ids": [1, 2], "start": 1, "base": [None], "adapter": [0]}]}, "probes"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_does_not_fit_is_refused(name: str, placed: Path, model_dir: Path, shapes: Shapes) -> None:
    changes, words = MANIFESTS[name]
    (placed / MANIFEST).write_text(json.dumps(json.loads((placed / MANIFEST).read_text()) | changes))
    assert words in refused(placed, model_dir, shapes)


def test_links_and_odd_files_are_refused(placed: Path, model_dir: Path, shapes: Shapes, tmp_path: Path) -> None:
    (placed / "adapter_model.bin").write_bytes(b"x")
    assert "exactly" in refused(placed, model_dir, shapes)
    (placed / "adapter_model.bin").unlink()
    (placed / "more").mkdir()
    assert "not a plain file" in refused(placed, model_dir, shapes)
    (placed / "more").rmdir()
    elsewhere = tmp_path / "elsewhere"
    shutil.move(placed / WEIGHTS, elsewhere)
    (placed / WEIGHTS).symlink_to(elsewhere)
    assert "links are refused" in refused(placed, model_dir, shapes)
    (placed / WEIGHTS).unlink()
    assert "exactly" in _refused_without_weights(placed, model_dir, shapes)


def _refused_without_weights(placed: Path, model_dir: Path, shapes: Shapes) -> str:
    wanted = Expected(placed.name, "0" * 64, base_digest(model_dir), 64, 1 << 28)
    with pytest.raises(AdapterRefused) as refusal:
        check_adapter(placed, wanted, shapes)
    return str(refusal.value)


def test_a_linked_directory_is_refused(placed: Path, model_dir: Path, shapes: Shapes, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(placed, elsewhere)
    placed.symlink_to(elsewhere)
    assert "no directory" in refused(placed, model_dir, shapes)


def test_a_name_that_is_no_version_a_big_one_and_one_that_the_registry_does_not_know_are_refused(
    placed: Path, model_dir: Path, shapes: Shapes
) -> None:
    assert "version's name" in refused(placed, model_dir, shapes, version=Version("../../etc"))
    assert "are allowed" in refused(placed, model_dir, shapes, max_bytes=1000)
    assert "its digest is" in refused(placed, model_dir, shapes, digest="1" * 64)


def test_every_cut_of_a_header_is_refused(made: Path, tmp_path: Path) -> None:
    raw = (made / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    for size in (*range(12), length // 2, length + 7, length + 8, len(raw) - 1):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(raw[:size])
        with pytest.raises(ValueError):
            read_header(cut)
