"""Publishing an adapter: named by its bytes, rounded as it is served, the same again for the same job."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from feedback.ids import JobId
from tests.training.tiny import make_recipe
from training.base.model import SharedBase
from training.errors import AdapterDamaged, ModelRefused
from training.examples.batches import Item, make_pass
from training.examples.tokens import ChatTokens
from training.publishing.adapter_folders import Published, check_files, find_published, remove_rollouts
from training.publishing.publish import Origin, publish

RECIPE = make_recipe().adapter
ORIGIN = Origin(counter=7, base_digest="ba5e", job_id="job-1", recipe="dpo", adapter=RECIPE)


@pytest.fixture
def base(tiny_model: Path) -> SharedBase:
    return SharedBase(tiny_model, torch.device("cpu"))


def make_state(base: SharedBase, *, seed: int = 3) -> dict[str, torch.Tensor]:
    base.add_adapter("policy", RECIPE, seed=0)
    chance = torch.Generator().manual_seed(seed)
    state = base.adapter_state("policy")
    return {name: torch.randn(value.shape, generator=chance) * 0.1 for name, value in state.items()}


def published(base: SharedBase, tokens: ChatTokens, adapters: Path, **origin: int | str) -> Published:
    return publish(make_state(base), Origin(**{**ORIGIN.__dict__, **origin}), adapters, base, tokens)


def test_a_folder_is_named_by_counter_and_digest_and_holds_three_files(
    base: SharedBase, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    found = published(base, tiny_tokens, tmp_path)
    assert found.version == f"v0007-{found.digest[:12]}" == found.folder.name
    assert {path.name for path in found.folder.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "manifest.json",
    }
    assert [path.name for path in tmp_path.iterdir()] == [found.version]
    check_files(found.folder, found.digest)


def test_tensors_are_bf16_and_carry_pefts_names(base: SharedBase, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    tensors = load_file(published(base, tiny_tokens, tmp_path).folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in tensors
    assert len(tensors) == 2 * 7 * 2


def test_probes_are_logprobs_of_base_and_rounded_adapter(
    base: SharedBase, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    found = published(base, tiny_tokens, tmp_path)
    manifest = json.loads((found.folder / "manifest.json").read_text())
    assert len(manifest["probes"]) >= 3
    base.load_adapter("again", found.folder)
    for probe in manifest["probes"]:
        ids, start = tuple(probe["token_ids"]), probe["start"]
        batch = make_pass([Item(ids[:start], (ids[start:],))])
        for side, policy in (("base", None), ("adapter", "again")):
            with torch.no_grad(), base.policy(policy):
                assert probe[side] == pytest.approx(base.logprobs(batch).tolist(), abs=1e-4)
        assert all(math.isfinite(x) and x <= 0 for x in probe["base"] + probe["adapter"])
        assert probe["base"] != probe["adapter"]


def test_publishing_the_same_again_finds_what_is_there(
    base: SharedBase, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    first = published(base, tiny_tokens, tmp_path)
    written = (first.folder / "manifest.json").stat().st_mtime_ns
    base.drop_adapter("policy")
    assert publish(load(first), ORIGIN, tmp_path, base, tiny_tokens) == first
    assert (first.folder / "manifest.json").stat().st_mtime_ns == written
    assert find_published(tmp_path, "job-1", 7) == first


def load(found: Published) -> dict[str, torch.Tensor]:
    return load_file(found.folder / "adapter_model.safetensors")


def test_another_jobs_adapter_or_counter_is_not_taken_for_its_own(
    base: SharedBase, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    published(base, tiny_tokens, tmp_path)
    assert find_published(tmp_path, "job-2", 7) is None
    assert find_published(tmp_path, "job-1", 8) is None


def test_a_half_written_folder_is_swept_and_written_anew(
    base: SharedBase, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    (tmp_path / ".job-1").mkdir()
    (tmp_path / ".job-1" / "adapter_model.safetensors").write_bytes(b"half")
    found = published(base, tiny_tokens, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [found.version]


def test_a_changed_file_is_noticed(base: SharedBase, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    found = published(base, tiny_tokens, tmp_path)
    weights = found.folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(AdapterDamaged, match="restore the folder"):
        find_published(tmp_path, "job-1", 7)


def test_an_adapter_of_other_modules_is_refused(base: SharedBase, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    found = published(base, tiny_tokens, tmp_path)
    config = json.loads((found.folder / "adapter_config.json").read_text())
    (found.folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["q_proj"]}))
    with pytest.raises(ModelRefused, match="do not fit"):
        base.load_adapter("odd", found.folder)


@pytest.mark.parametrize("manifest", ["{", "[]", "{}", None])
def test_a_damaged_manifest_holds_up_no_other_job_and_its_own_is_written_anew(
    base: SharedBase, tiny_tokens: ChatTokens, tmp_path: Path, manifest: str | None
) -> None:
    state = make_state(base)
    damaged = publish(state, ORIGIN, tmp_path, base, tiny_tokens)
    whole = (damaged.folder / "manifest.json").read_bytes()
    (damaged.folder / "manifest.json").unlink()
    if manifest is not None:
        (damaged.folder / "manifest.json").write_text(manifest)
    remove_rollouts(tmp_path, JobId("job-2"))
    assert damaged.folder.exists()
    assert find_published(tmp_path, "job-1", 7) is None
    again = publish(state, ORIGIN, tmp_path, base, tiny_tokens)
    assert again == damaged
    assert (again.folder / "manifest.json").read_bytes() == whole
