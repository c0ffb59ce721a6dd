"""Attention of one span's queries in plain matrix products, for the CPU, where they are faster than torch's own.

torch's fused kernel multiplies small blocks there; its backward pass takes several times as long as these products.
As it does, this keeps no probabilities for the backward pass and has its scores and sums in fp32.
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = 128
"""Queries of a head that go together: what they cannot see of the keys is left out."""


def span_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """[heads, Q, D] for query [heads, Q, D], key and value [key heads, K, D], whose last Q are the queries' own.

    Query i sees keys 0 … K − Q + i. Query heads that share a key head lie next to each other.
    """
    with torch.autocast(query.device.type, enabled=False):  # scores are to stay in fp32
        return _SpanAttention.apply(query, key, value, scale)  # type: ignore[no-any-return, no-untyped-call]


class _SpanAttention(torch.autograd.Function):
    """Softmax(scale · Q·Kᵀ)·V and its gradients, block by block; the probabilities are computed a second time."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        grouped = _grouped(query, key)
        scaled, wide_key = grouped.float() * scale, key.float()
        out = torch.empty_like(grouped)
        for rows, seen in _blocks(query, key):
            chances = _chances(scaled[:, :, rows], wide_key[:, :seen]).to(value.dtype)
            out[:, :, rows] = _rows(chances @ value[:, :seen], grouped)
        context.save_for_backward(query, key, value, out)
        context.scale = scale
        return out.view_as(query)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, out = context.saved_tensors
        grouped = _grouped(query, key)
        scaled, wide_key = grouped.float() * context.scale, key.float()
        d_out = gradients[0].reshape(grouped.shape)
        inner = (d_out.float() * out.float()).sum(dim=-1, keepdim=True)  # Σ chance · d chance of each query
        d_query = torch.empty_like(grouped)
        d_key, d_value = torch.zeros_like(wide_key), torch.zeros_like(wide_key)
        for rows, seen in _blocks(query, key):
            chances = _chances(scaled[:, :, rows], wide_key[:, :seen])
            d_rows = _flat(d_out[:, :, rows])
            d_value[:, :seen] += chances.to(value.dtype).transpose(1, 2) @ d_rows
            d_scores = (d_rows @ value[:, :seen].transpose(1, 2)).float()
            d_scores = d_scores.sub_(_flat(inner[:, :, rows])).mul_(chances).to(key.dtype)
            d_query[:, :, rows] = _rows(d_scores @ key[:, :seen], grouped)
            d_key[:, :seen] += d_scores.transpose(1, 2) @ _flat(grouped[:, :, rows])
        return (
            (d_query * context.scale).view_as(query),
            (d_key * context.scale).to(key.dtype),
            d_value.to(value.dtype),
            None,
        )


def _grouped(query: Tensor, key: Tensor) -> Tensor:
    """[key heads, query heads of each, Q, D]"""
    return query.reshape(key.shape[0], -1, *query.shape[1:])


def _flat(rows: Tensor) -> Tensor:
    """[key heads, query heads of each · rows, …]"""
    return rows.flatten(1, 2)


def _rows(flat: Tensor, grouped: Tensor) -> Tensor:
    """`_flat` undone."""
    return flat.view(*grouped.shape[:2], -1, flat.shape[-1])


def _blocks(query: Tensor, key: Tensor) -> list[tuple[slice, int]]:
    """Ranges of queries, and how many keys the last of each sees."""
    n, before = query.shape[1], key.shape[1] - query.shape[1]
    ends = [min(start + BLOCK, n) for start in range(0, n, BLOCK)]
    return [(slice(start, end), before + end) for start, end in zip(range(0, n, BLOCK), ends, strict=True)]


def _chances(scaled: Tensor, key: Tensor) -> Tensor:
    """[key heads, query heads of each · rows, seen] fp32 probabilities; the last key seen is the last query's own."""
    scores = _flat(scaled) @ key.transpose(1, 2)
    n, seen = scaled.shape[2], key.shape[1]
    later = torch.full((n, n), float("-inf")).triu_(1)
    scores.view(*scaled.shape[:2], n, seen)[..., seen - n :] += later
    return torch.softmax(scores, dim=-1)
