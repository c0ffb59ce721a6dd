"""Adapter directories that mean harm, or would do it: each a name, what makes it, and a word of why it is refused.

`MAKERS` start from a sound adapter in the imports folder under the name `stranger` and spoil it. `NAMES` are names that
nobody may ask for.
"""

import gzip
import json
import os
import pickle
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from serve.adapters.manifest import CONFIG, MANIFEST, WEIGHTS
from tests.serve.adapters.test_adapter_files import (
    LAYER,
    Damage,
    change_config,
    change_header,
    change_tensors,
    first,
    half,
    poison,
    renamed,
    reshaped,
    retyped,
    write_weights,
)

NAMES: dict[str, Any] = {
    "the folder above": "..",
    "the folder itself": ".",
    "a neighbour's folder": "../adapters",
    "a way out and in": "stranger/../stranger",
    "an absolute path": "/etc",
    "a path within": "stranger/inner",
    "a slash at the end": "stranger/",
    "no name": "",
    "a hidden folder": ".hidden",
    "capitals": "STRANGER",
    "a zero byte": "stranger\0",
    "a line break": "stranger\n",
    "encoded dots": "%2e%2e",
    "backslashes": "..\\stranger",
    "a very long name": "s" * 65,
    "another alphabet": "strangеr",
    "half a letter": "\ud800",
    "a home folder": "~root",
    "a number": 7,
    "a list": ["stranger"],
    "nobody's": "nobody",
}


def written(name: str, content: bytes) -> Damage:
    return lambda directory: (directory / name).write_bytes(content)


def linked(name: str, to: Callable[[Path], Path]) -> Damage:
    """`name` is a link to what `to` makes of the imports folder."""

    def damage(directory: Path) -> None:
        target = to(directory.parent)
        if (directory / name).exists():
            shutil.move(directory / name, target) if not target.exists() else (directory / name).unlink()
        (directory / name).symlink_to(target)

    return damage


def linked_folder(directory: Path) -> None:
    elsewhere = directory.with_name("elsewhere")
    directory.rename(elsewhere)
    directory.symlink_to(elsewhere)


def looped(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    (directory / WEIGHTS).symlink_to(directory / WEIGHTS)


def replaced(name: str, make: Callable[[Path], object]) -> Damage:
    def damage(directory: Path) -> None:
        (directory / name).unlink()
        make(directory / name)

    return damage


def bind_socket(path: Path) -> None:
    home = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{home}/{path.name}")  # a socket's whole path may have 108 letters only
    os.close(home)


def not_a_folder(make: Callable[[Path], object]) -> Damage:
    def damage(directory: Path) -> None:
        shutil.rmtree(directory)
        make(directory)

    return damage


def only(*names: str) -> Damage:
    def damage(directory: Path) -> None:
        for entry in directory.iterdir():
            if entry.name not in names:
                entry.unlink()

    return damage


def crowded(directory: Path) -> None:
    for number in range(2000):
        (directory / f"{number}.safetensors").touch()


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("archive/data.pkl", b"\0" * 50_000_000)


def sparse(size: int) -> Damage:
    return lambda directory: os.truncate(directory / WEIGHTS, size)


def added(name: str, shape: tuple[int, ...]) -> Damage:
    return change_tensors(lambda tensors: tensors.update({name: torch.zeros(shape, dtype=torch.bfloat16)}))


def config_text(change: Callable[[str], str | bytes]) -> Damage:
    def damage(directory: Path) -> None:
        changed = change((directory / CONFIG).read_text())
        (directory / CONFIG).write_bytes(changed if isinstance(changed, bytes) else changed.encode())

    return damage


def header_text(change: Callable[[bytes], bytes]) -> Damage:
    """Changes the header's bytes, which JSON written by anybody's library would never hold so."""

    def damage(directory: Path) -> None:
        raw = (directory / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        made = change(raw[8 : 8 + length].rstrip())
        (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(made)) + made + raw[8 + length :])

    return damage


def with_hole(directory: Path) -> None:
    """Bytes that belong to no tensor, in the middle of the file."""
    change_header(
        lambda h: [
            row.update(data_offsets=[at + 64 for at in row["data_offsets"]])
            for name, row in h.items()
            if name not in ("__metadata__", first(h))
        ]
    )(directory)
    with (directory / WEIGHTS).open("ab") as file:
        file.write(b"\0" * 64)


def shared_bytes(header: dict[str, Any]) -> None:
    one, two = sorted(name for name in header if name.endswith("q_proj.lora_A.weight"))[:2]
    header[two]["data_offsets"] = header[one]["data_offsets"]


def one_more_half(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first(tensors)] = tensors[first(tensors)][:-1].contiguous()


SAVED_BY_PICKLE = pickle.dumps({"weights": [1.0] * 100})

# What is spoilt → (how, a word of the reason).
MAKERS: dict[str, tuple[Damage, str]] = {
    # Links, and what is no file ------------------------------------------------------------------------------------
    "a folder that is a link": (linked_folder, "is a link"),
    "weights that are a link": (linked(WEIGHTS, lambda imports: imports / "far.safetensors"), "not a plain file"),
    "a config that is a link to a secret": (linked(CONFIG, lambda _: Path("/etc/passwd")), "not a plain file"),
    "a link to nowhere": (replaced(WEIGHTS, lambda path: path.symlink_to("/nowhere/at/all")), "not a plain file"),
    "a link to itself": (looped, "not a plain file"),
    "a README that is a link": (lambda d: (d / "README.md").symlink_to("/etc/passwd"), "not a plain file"),
    "weights with a second name": (lambda d: os.link(d / WEIGHTS, d.with_name("second")), "hard link"),
    "weights that are a folder": (replaced(WEIGHTS, Path.mkdir), "not a plain file"),
    "weights that are a pipe": (replaced(WEIGHTS, os.mkfifo), "not a plain file"),
    "a config that is a pipe": (replaced(CONFIG, os.mkfifo), "not a plain file"),
    "weights that are a socket": (replaced(WEIGHTS, bind_socket), "not a plain file"),
    "a folder that is a file": (not_a_folder(Path.touch), "Not a directory"),
    "a folder that is a pipe": (not_a_folder(os.mkfifo), "Not a directory"),
    # Which files ---------------------------------------------------------------------------------------------------
    "an empty folder": (only(), "lacks"),
    "no weights": (only(CONFIG), "lacks"),
    "no config": (only(WEIGHTS), "lacks"),
    "weights by pickle": (lambda d: (d / WEIGHTS).rename(d / "adapter_model.bin"), "adapter_model.bin"),
    "weights by pickle beside the sound ones": (written("adapter_model.bin", SAVED_BY_PICKLE), "adapter_model.bin"),
    "a checkpoint of torch's": (written("adapter_model.pt", SAVED_BY_PICKLE), "adapter_model.pt"),
    "a trainer's pickle": (written("training_args.bin", SAVED_BY_PICKLE), "training_args.bin"),
    "a manifest of its own": (written(MANIFEST, b"{}"), MANIFEST),
    "a program": (written("modeling_llama.py", b"import os"), "modeling_llama.py"),
    "a chat template": (written("chat_template.jinja", b"{{ evil }}"), "chat_template.jinja"),
    "a folder within": (lambda d: (d / "inner").mkdir(), "inner"),
    "a file whose name is no text": (lambda d: Path(os.fsdecode(bytes(d) + b"/\xff\xfe")).touch(), "also holds"),
    "thousands of files": (crowded, "also holds"),
    # The config: how it is written ---------------------------------------------------------------------------------
    "an empty config": (written(CONFIG, b""), "not sound JSON"),
    "a config that is a list": (written(CONFIG, b"[]"), "must be an object"),
    "a huge config": (change_config(auto_mapping="x" * 70_000), "are allowed"),
    "a config nested too deep": (written(CONFIG, b'{"a":' * 9_000 + b"1" + b"}" * 9_000), "not sound JSON"),
    "a config with a key twice": (config_text(lambda text: text.replace("{", '{"r": 1,', 1)), "comes twice"),
    "a config in UTF-16": (config_text(lambda text: text.encode("utf-16")), "not sound JSON"),
    "a number of 5,000 digits": (config_text(lambda text: text.replace("{", '{"a": 1' + "0" * 5000 + ",", 1)), "JSON"),
    "half a letter in the base's name": (change_config(base_model_name_or_path="\ud800"), "base_model_name_or_path"),
    "a base's name that moves the cursor": (change_config(base_model_name_or_path="\x1b[2J"), "base_model_name"),
    "a base's name without end": (change_config(base_model_name_or_path="b" * 9000), "base_model_name_or_path"),
    # The config: ranks and scale -----------------------------------------------------------------------------------
    "rank 0": (change_config(r=0), "r is 0"),
    "a rank below 0": (change_config(r=-2), "r is -2"),
    "a rank bomb": (change_config(r=1 << 20), "whole number from 1 to 64"),
    "a rank that is no whole number": (change_config(r=2.0), "r is 2.0"),
    "a rank that is true": (change_config(r=True), "r is True"),
    "another rank than the weights'": (change_config(r=4), "has shape"),
    "a rank pattern bomb": (change_config(rank_pattern={".*": 1 << 20}), "rank_pattern"),
    "a rank pattern": (change_config(rank_pattern={"q_proj": 4}), "rank_pattern"),
    "an alpha pattern": (change_config(alpha_pattern={"q_proj": 4096}), "alpha_pattern"),
    "alpha NaN": (change_config(lora_alpha=float("nan")), "NaN is no number"),
    "alpha beyond measure": (change_config(lora_alpha=1e300), "lora_alpha"),
    "alpha below 0": (change_config(lora_alpha=-16), "lora_alpha"),
    "alpha as text": (change_config(lora_alpha="16"), "lora_alpha"),
    "rsLoRA as text": (change_config(use_rslora="no"), "use_rslora"),
    "a scale for the engine alone": (change_config(vllm_lora_scaling_factor=1e9), "vllm_lora_scaling_factor"),
    # The config: what the engine would ignore ----------------------------------------------------------------------
    "another method": (change_config(peft_type="IA3"), "peft_type"),
    "no method": (change_config(peft_type=None), "peft_type"),
    "a classifier": (change_config(task_type="SEQ_CLS"), "task_type"),
    "DoRA": (change_config(use_dora=True), "use_dora"),
    "biases": (change_config(bias="all"), "bias"),
    "LoRA biases": (change_config(lora_bias=True), "lora_bias"),
    "whole modules": (change_config(modules_to_save=["lm_head"]), "modules_to_save"),
    "PiSSA": (change_config(init_lora_weights="pissa_niter_16"), "init_lora_weights"),
    "OLoRA": (change_config(init_lora_weights="olora"), "init_lora_weights"),
    "layers used twice": (change_config(layer_replication=[[0, 30], [0, 30]]), "layer_replication"),
    "aLoRA": (change_config(alora_invocation_tokens=[1]), "alora_invocation_tokens"),
    "QALoRA": (change_config(use_qalora=True), "use_qalora"),
    "BD-LoRA": (change_config(use_bdlora={"nblocks": 2}), "use_bdlora"),
    "experts' parameters": (change_config(target_parameters=["mlp.experts"]), "target_parameters"),
    "trained tokens": (change_config(trainable_token_indices=[1, 2]), "trainable_token_indices"),
    "turned weights": (change_config(fan_in_fan_out=True), "fan_in_fan_out"),
    "a setting that nobody knows": (change_config(run_this="rm -rf /"), "run_this"),
    # The config: which layers --------------------------------------------------------------------------------------
    "modules that are an object": (change_config(target_modules={"q_proj": 1}), "target_modules"),
    "modules that are numbers": (change_config(target_modules=[1]), "target_modules"),
    "no modules": (change_config(target_modules=[]), "target_modules"),
    "a module too few": (change_config(target_modules=["q_proj"]), "does not name in target_modules"),
    "a module without weights": (
        config_text(lambda text: text.replace('"v_proj"', '"v_proj", "lm_head"')),
        "has no weights for",
    ),
    # The weights' header -------------------------------------------------------------------------------------------
    "a pickle by the weights' name": (written(WEIGHTS, SAVED_BY_PICKLE), "header claims"),
    "a zip bomb": (replaced(WEIGHTS, zipped), "header claims"),
    "a gzip bomb": (written(WEIGHTS, gzip.compress(b"\0" * 10_000_000)), "header claims"),
    "empty weights": (written(WEIGHTS, b""), "header claims"),
    "a sparse file beyond the budget": (sparse(1 << 40), "are allowed"),
    "a file of zeros": (write_weights(b"\0" * 4096), "header claims"),
    "a header that claims all memory": (write_weights(struct.pack("<Q", 2**63) + b"{}"), "header claims"),
    "a header larger than any base needs": (
        header_text(lambda raw: raw.ljust(4_000_000)),
        "header claims",
    ),
    "a header nested too deep": (write_weights(struct.pack("<Q", 200_000) + b"[" * 200_000), "not JSON"),
    "a header that is no text": (write_weights(struct.pack("<Q", 4) + b"\xff\xfe{}"), "not JSON"),
    "a header that is a list": (write_weights(struct.pack("<Q", 2) + b"[]"), "not an object"),
    "a tensor twice": (header_text(lambda raw: raw[:-1] + b"," + raw[1:]), "comes twice"),
    "metadata that is no text": (change_header(lambda h: h.update(__metadata__={"a": {"b": 1}})), "__metadata__"),
    "overlapping tensors": (change_header(shared_bytes), "overlap or leave gaps"),
    "a hole between tensors": (with_hole, "overlap or leave gaps"),
    "offsets beyond the file": (change_header(lambda h: h[first(h)].update(data_offsets=[0, 2**40])), "does not fit"),
    "negative offsets": (change_header(lambda h: h[first(h)].update(data_offsets=[-8, 0])), "does not fit"),
    "a negative shape": (change_header(lambda h: h[first(h)].update(shape=[-2, -576])), "does not fit"),
    "a shape of ten thousand axes": (
        change_header(lambda h: h[first(h)].update(shape=[9**99] * 2_000)),
        "does not fit",
    ),
    "a shape without numbers": (change_header(lambda h: h[first(h)].update(shape=[0, 1536])), "does not fit"),
    "an unknown dtype": (change_header(lambda h: h[first(h)].update(dtype="PICKLE")), "does not fit"),
    "a truncated file": (sparse(100_000), "cut off"),
    "something appended": (lambda d: write_weights((d / WEIGHTS).read_bytes() + b"PK\3\4")(d), "something appended"),
    # The weights' names and shapes ---------------------------------------------------------------------------------
    "another model's layer": (renamed(f"{LAYER}.999.self_attn.q_proj.lora_A.weight"), "has no layer"),
    "another model's names": (renamed("base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"), "has no layer"),
    "a wrong prefix": (renamed("model.layers.0.self_attn.q_proj.lora_A.weight"), "no LoRA weight"),
    "a path as a name": (renamed("base_model.model.../../etc/passwd.lora_A.weight"), "no LoRA weight"),
    "a name in another alphabet": (renamed(f"{LAYER}.0.self_attn.q_prоj.lora_A.weight"), "no LoRA weight"),
    "a name that goes on": (renamed(f"{LAYER}.0.mlp.up_proj.lora_A.weight\nx"), "no LoRA weight"),
    "the base's own weights": (added(f"{LAYER}.0.mlp.up_proj.weight", (1536, 576)), "no LoRA weight"),
    "the layer beneath": (added(f"{LAYER}.0.mlp.up_proj.base_layer.weight", (1536, 576)), "no LoRA weight"),
    "a bias": (added(f"{LAYER}.0.mlp.up_proj.lora_B.bias", (1536,)), "no LoRA weight"),
    "DoRA's magnitudes": (added(f"{LAYER}.0.mlp.up_proj.lora_magnitude_vector", (1536,)), "no LoRA weight"),
    "a second adapter's name": (added(f"{LAYER}.0.mlp.up_proj.lora_A.other.weight", (2, 576)), "no LoRA weight"),
    "the embedding's LoRA": (added("base_model.model.model.embed_tokens.lora_embedding_A", (2, 49152)), "no LoRA"),
    "the embedding as a linear layer": (
        added("base_model.model.model.embed_tokens.lora_A.weight", (2, 576)),
        "lets adapters change",
    ),
    "a saved LM head": (added("base_model.model.lm_head.weight", (49152, 576)), "no LoRA weight"),
    "the LM head": (added("base_model.model.lm_head.lora_A.weight", (2, 576)), "has no layer"),
    "a norm": (renamed(f"{LAYER}.0.input_layernorm.lora_A.weight"), "has no layer"),
    "A without B": (change_tensors(half), "lacks A or B"),
    "no tensors": (change_tensors(lambda tensors: tensors.clear()), "has no weights for"),
    "a transposed matrix": (change_tensors(reshaped), "has shape"),
    "a row too few": (change_tensors(one_more_half), "has shape"),
    # The numbers ---------------------------------------------------------------------------------------------------
    "NaN": (poison(float("nan")), "NaN or infinity"),
    "infinity": (poison(float("inf")), "NaN or infinity"),
    "minus infinity": (poison(float("-inf")), "NaN or infinity"),
    "numbers that make infinity of everything": (poison(3e38), "65,536 or more"),
    "float64": (retyped(torch.float64), "must be one of"),
    "int8": (retyped(torch.int8), "must be one of"),
    "float8": (retyped(torch.float8_e4m3fn), "does not fit"),
}


def put_sound(imports: Path, sound: Path) -> Path:
    """A sound adapter as `stranger` in the imports folder, which is emptied first."""
    shutil.rmtree(imports, ignore_errors=True)
    imports.mkdir()
    shutil.copytree(sound, imports / "stranger")
    return imports / "stranger"


def config_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / CONFIG).read_text())
    return found
