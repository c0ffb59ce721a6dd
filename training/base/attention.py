"""Attention over a packed stream in which several answers share one prompt.

Registered with transformers under NAME; the layout reaches it as the keyword `spans`. Each prompt attends to itself;
each answer to its prompt and itself, never to another answer. Gradients of a shared prompt add up by themselves.
"""

from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from training.base.span_attention import span_attention
from training.base.varlen_attention import runs_here, varlen_attention
from training.errors import ModelRefused
from training.examples.batches import Span

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
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query [1, heads, T, D], key and value [1, key heads, T, D] → [1, T, heads, D] (transformers' own contract).

    ModelRefused for what a base's attention does besides: capped scores (`softcap`), sinks (`s_aux`), a window that is
    shorter than a sequence.
    """
    if softcap is not None or s_aux is not None:
        what = "caps its attention scores" if softcap is not None else "has attention sinks"
        raise ModelRefused(f"this base {what}, which training does not compute; choose another base")
    for span in spans:
        longest = span.prompt + max(span.answers)
        if sliding_window is not None and longest > sliding_window:
            raise ModelRefused(
                f"a prompt with its longest answer has {longest} tokens, more than this model's attention window of "
                f"{sliding_window}; set the recipe's max_example_tokens to at most that"
            )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if runs_here(query):
        query_T, key_T, value_T = (each[0].transpose(0, 1) for each in (query, key, value))
        return varlen_attention(query_T, key_T, value_T, spans, scale)[None], None
    attend = _in_products if query.device.type == "cpu" else _fused
    sizes = [size for span in spans for size in (span.prompt, *span.answers)]
    pieces = zip(query.split(sizes, dim=2), key.split(sizes, dim=2), value.split(sizes, dim=2), strict=True)
    parts: list[Tensor] = []
    for span in spans:
        prompt_q, prompt_k, prompt_v = next(pieces)
        parts.append(attend(prompt_q, prompt_k, prompt_v, scale))
        for own_q, own_k, own_v in islice(pieces, len(span.answers)):
            seen_k, seen_v = torch.cat((prompt_k, own_k), dim=2), torch.cat((prompt_v, own_v), dim=2)
            parts.append(attend(own_q, seen_k, seen_v, scale))
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _in_products(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return span_attention(query[0], key[0], value[0], scale)[None]


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    heads = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(heads, dim=1), value.repeat_interleave(heads, dim=1)
    n, before = query.shape[2], key.shape[2] - query.shape[2]
    if not before:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    return scaled_dot_product_attention(query, key, value, attn_mask=_mask(n, before, query), scale=scale)


def _mask(answer: int, prompt: int, like: Tensor) -> Tensor:
    """[answer, prompt + answer]: 0 for the prompt and for what came before, minus infinity for what comes after."""
    mask = torch.full((answer, prompt + answer), float("-inf"), dtype=like.dtype, device=like.device)
    return mask.triu_(prompt + 1)
