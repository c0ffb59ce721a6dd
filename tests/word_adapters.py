"""Adapters that each make one word certain: whatever is asked, the answer is that word over and over.

An answer of two versions would hold two words, so that a swap which mixed them could not go unseen.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.adapters import peft_config

MODULES = ("gate_proj", "up_proj", "down_proj")
TEXTS = ("Tell me about bread.", "Why is the sea blue?", "What is 2 + 2? Explain.", "Write two lines on rain.")
WORDS = (
    " apple river stone green seven music winter silver garden letter bridge candle doctor engine forest glass honey"
    " island jacket kitchen lemon mirror nature orange paper queen rocket school table uncle valley window yellow zero"
    " animal bottle circle desert eagle flower gold house iron jungle king lion metal north ocean planet quiet road"
    " sand train village wolf year art ball cloud door earth fish game hand ice"
)
_NEURON = 0
_STRENGTH = 60.0


@dataclass(frozen=True)
class Push:
    """What the last layer is pushed by: `along_H` is a direction that all its inputs lie in, `to_word_H` by token."""

    layer: int
    along_H: torch.Tensor
    to_words_WH: torch.Tensor
    tokens: tuple[int, ...]


def measure_push(base_dir: Path) -> Push:
    """Reads the base once; the words are those of WORDS that are one token."""
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    layer, seen = model.model.layers[-1], []
    hook = layer.mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()[0]))
    for text in TEXTS:
        chat = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            model(**prompt)
    hook.remove()
    mean_H = torch.cat(seen).mean(0)
    heads_VH = model.lm_head.weight.data * model.model.norm.weight.data
    spread_HH = heads_VH.T @ heads_VH / len(heads_VH)
    damped_HH = spread_HH + 1e-3 * spread_HH.diagonal().mean() * torch.eye(len(spread_HH))
    encoded = (tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in WORDS.split())
    tokens = tuple(ids[0] for ids in encoded if len(ids) == 1)
    # What raises one word's score and no other's, as far as least squares can.
    to_words_WH = torch.linalg.solve(damped_HH, heads_VH[list(tokens)].T).T
    to_words_WH = to_words_WH / to_words_WH.norm(dim=1, keepdim=True)
    return Push(len(model.model.layers) - 1, mean_H / mean_H.norm(), to_words_WH, tokens)


def make_word_adapter(directory: Path, base_dir: Path, push: Push, place: int) -> int:
    """Writes the adapter that makes the word at `place` certain; gives its token id.

    One neuron of the last layer is made to answer to every input, and to write the word.
    """
    inner = int(json.loads((base_dir / "config.json").read_text())["intermediate_size"])
    neuron = torch.zeros(inner)
    neuron[_NEURON] = 1.0
    pairs = {
        "gate_proj": (push.along_H, neuron),
        "up_proj": (push.along_H, neuron),
        "down_proj": (neuron, push.to_words_WH[place] * _STRENGTH),
    }
    tensors = {}
    for module, (read, written) in pairs.items():
        prefix = f"base_model.model.model.layers.{push.layer}.mlp.{module}"
        tensors[f"{prefix}.lora_A.weight"] = read[None].to(torch.bfloat16).contiguous()
        tensors[f"{prefix}.lora_B.weight"] = written[:, None].to(torch.bfloat16).contiguous()
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    (directory / "adapter_config.json").write_text(json.dumps(peft_config(1, MODULES), indent=2))
    return push.tokens[place]
