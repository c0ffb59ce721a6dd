"""Log-probs of an adapter by transformers alone: the adapter's product added to each weight, no peft and no vLLM."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from feedback.ids import Version
from tests.serve.publish import WEIGHTS, sha256

PROBES = (
    ("What is a map for?", "A map shows where places lie, so that you can find a way between them."),
    ("Name three things that float.", "A cork, a leaf and an empty bottle all float on water."),
)


@cache
def _model(base_dir: Path) -> Any:
    # Beside an engine on the same cores, more threads only wait for each other.
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32).eval()


@cache
def probe_tokens(base_dir: Path) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Token ids of each probe and where its answer starts."""
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    found = []
    for ask, say in PROBES:
        chat = [{"role": "user", "content": ask}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = tokenizer(say, add_special_tokens=False)["input_ids"]
        found.append(((*start, *answer), len(start)))
    return tuple(found)


def logprobs(base_dir: Path, token_ids: Sequence[int], start: int, adapter: Path | None = None) -> list[float]:
    """Log-probs (nats) of `token_ids[start:]` in fp32, under the base or with the adapter."""
    model = _model(base_dir)
    with torch.no_grad(), _merged(model, adapter):
        logits_TV = model(torch.tensor([list(token_ids)])).logits[0].float()
    logprobs_TV = logits_TV[start - 1 : -1].log_softmax(-1)
    picked_T = logprobs_TV.gather(1, torch.tensor(list(token_ids[start:]))[:, None])[:, 0]
    return [round(x, 5) for x in picked_T.tolist()]


@dataclass
class Reference:
    """What `publish` writes into a manifest: the reference's numbers, worked out once for the same weights."""

    base_dir: Path
    known: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __call__(self, version: Version, directory: Path) -> list[dict[str, Any]]:
        digest = sha256(directory / WEIGHTS)
        if digest not in self.known:
            self.known[digest] = [self._probe(ids, start, directory) for ids, start in probe_tokens(self.base_dir)]
        return self.known[digest]

    def _probe(self, ids: Sequence[int], start: int, directory: Path) -> dict[str, Any]:
        base, adapter = (logprobs(self.base_dir, ids, start, each) for each in (None, directory))
        return {"token_ids": ids, "start": start, "base": base, "adapter": adapter}


@contextmanager
def _merged(model: Any, adapter: Path | None) -> Iterator[None]:
    if adapter is None:
        yield
        return
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    modules = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    changes = {}
    for module in modules:
        lora_a, lora_b = (tensors[f"{module}.lora_{side}.weight"].float() for side in "AB")
        target = model.get_submodule(module.removeprefix("base_model.model."))
        changes[target] = lora_b @ lora_a * (config["lora_alpha"] / config["r"])
    kept = {target: target.weight.data.clone() for target in changes}
    try:
        for target, change in changes.items():
            target.weight.data += change
        yield
    finally:
        for target, weight in kept.items():
            target.weight.data = weight
