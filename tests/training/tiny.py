"""A tiny random Llama with a byte tokenizer and SmolLM2's chat template: trains in milliseconds, means nothing."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.algorithms import AnyRewardRecipe, DpoRecipe, KtoRecipe, SftRecipe
from training.base.convert import model_digest
from training.base.model import SharedBase
from training.examples.example import TokenAnswer, TokenPair
from training.examples.tokens import ChatTokens
from training.recipe import parse_recipe

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_model(folder: Path, *, seed: int = 0) -> Path:
    """Write the model with its tokenizer and digest."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=257,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config)
    model.bfloat16()
    model.save_pretrained(str(folder))
    (folder / "digest.txt").write_text(model_digest(folder) + "\n")
    return folder


def add_random_head(base: SharedBase, name: str, outputs: int = 1, *, seed: int) -> None:
    """A head that says something of every answer, and learns."""
    base.add_head(name, outputs)
    chance = torch.Generator().manual_seed(seed)
    for weight in base.head_parameters(name).values():
        weight.data.copy_(torch.randn(weight.shape, generator=chance) / weight.shape[1] ** 0.5)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the two tokens that open and close a message."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_recipe(**overrides: object) -> DpoRecipe:
    """A recipe that fits the tiny model."""
    adapter = {"rank": 8, "alpha": 16}
    body = {"algorithm": "dpo", "epochs": 2, "batch_pairs": 2, "pass_tokens": 200, "min_pairs": 1, "adapter": adapter}
    return parse_recipe({**body, **overrides})


def make_pairs(tokens: ChatTokens, n: int = 6) -> list[TokenPair]:
    """n pairs of different lengths: short answers are chosen over long ones."""
    return [
        TokenPair(
            event_id=f"ev-{i}",
            question=f"question {i}",
            prompt=tokens.prompt([{"role": "user", "content": "Say " + "a" * (i % 3)}]),
            chosen=tokens.answer("yes" + "." * (i % 2)),
            rejected=tokens.answer("no, not at all" + "!" * i),
            weight=1.0 + i % 2,
        )
        for i in range(n)
    ]


def make_kto_recipe(**overrides: object) -> KtoRecipe:
    """A KTO recipe that fits the tiny model."""
    adapter = {"rank": 8, "alpha": 16}
    body = {"algorithm": "kto", "epochs": 2, "batch_thumbs": 4, "pass_tokens": 200, "min_thumbs": 1, "adapter": adapter}
    return parse_recipe({**body, **overrides})


def make_thumbs(tokens: ChatTokens) -> list[TokenAnswer]:
    """Both sides of the tiny pairs: short answers are liked, long ones are not."""
    return [
        TokenAnswer(pair.event_id, pair.question, pair.prompt, answer, up=up)
        for pair in make_pairs(tokens)
        for answer, up in ((pair.chosen, True), (pair.rejected, False))
    ]


def make_sft_recipe(**overrides: object) -> SftRecipe:
    """A supervised recipe that fits the tiny model."""
    adapter = {"rank": 8, "alpha": 16}
    body = {"algorithm": "sft", "epochs": 2, "batch_examples": 2, "pass_tokens": 200, "adapter": adapter}
    return parse_recipe({**body, **overrides})


def make_demonstrations(tokens: ChatTokens) -> list[TokenAnswer]:
    """The chosen answers of the tiny pairs, as edits."""
    return [
        TokenAnswer(pair.event_id, pair.question, pair.prompt, pair.chosen, source="edit")
        for pair in make_pairs(tokens)
    ]


def make_reward_recipe(**overrides: object) -> AnyRewardRecipe:
    """A recipe of a reward model that fits the tiny model."""
    return parse_recipe(
        {
            "algorithm": "reward",
            "epochs": 2,
            "batch_pairs": 2,
            "pass_tokens": 200,
            "min_pairs": 1,
            "adapter": {"rank": 8, "alpha": 16},
            **overrides,
        }
    )
