"""Attention over a packed stream in which several answers share one prompt.

Registered with transformers under NAME; the layout reaches it as the keyword `spans`. Each prompt attends to itself;
each answer to its prompt and itself, never to another answer. Gradients of a shared prompt add up by themselves.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from training.batches import Span
from training.errors import ModelRefused

NAME = "burnish_shared_prompt"


def register() -> None:
    """Make the attention known to transformers; doing it again changes nothing."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, shared_prompt_attention)


def shared_prompt_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    spans: tuple[Span, ...],
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query [1, heads, T, D], key and value [1, key heads, T, D] → [1, T, heads, D] (transformers' own contract)."""
    heads = query.shape[1] // key.shape[1]
    if heads > 1:
        key, value = key.repeat_interleave(heads, dim=1), value.repeat_interleave(heads, dim=1)
    parts: list[Tensor] = []
    for span in spans:
        longest = span.prompt + max(span.answers)
        if sliding_window is not None and longest > sliding_window:
            raise ModelRefused(
                f"a pair of {longest} tokens is longer than this model's attention window of {sliding_window}; "
                f"set the recipe's max_example_tokens to at most {sliding_window}"
            )
        prompt = slice(span.start, span.start + span.prompt)
        prompt_k, prompt_v = key[:, :, prompt], value[:, :, prompt]
        parts.append(
            scaled_dot_product_attention(query[:, :, prompt], prompt_k, prompt_v, is_causal=True, scale=scaling)
        )
        first = prompt.stop
        for length in span.answers:
            own = slice(first, first + length)
            parts.append(
                scaled_dot_product_attention(
                    query[:, :, own],
                    torch.cat((prompt_k, key[:, :, own]), dim=2),
                    torch.cat((prompt_v, value[:, :, own]), dim=2),
                    attn_mask=_mask(length, span.prompt, query),
                    scale=scaling,
                )
            )
            first = own.stop
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _mask(answer: int, prompt: int, like: Tensor) -> Tensor:
    """[answer, prompt + answer]: 0 for the prompt and for what came before, minus infinity for what comes after."""
    mask = torch.full((answer, prompt + answer), float("-inf"), dtype=like.dtype, device=like.device)
    return mask.triu_(prompt + 1)
