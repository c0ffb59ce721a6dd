"""Attention of a whole packed stream in one kernel, for GPUs: every prompt and every answer is a sequence of its own.

An answer's sequence has the answer's queries and the keys of its prompt and itself; torch's variable-length kernel
(FlashAttention) puts the last query at the last key, as causal attention after a prompt needs it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from training.examples.batches import Span

CAUSAL = (-1, 0)
"""Everything before a query and itself, as the kernel is told it."""
WIDEST = 256
"""A head's size at most, for FlashAttention."""
OLDEST = (8, 0)
"""Compute capability (Ampere) that FlashAttention needs at least."""


@dataclass(frozen=True)
class Sequences:
    """Queries lie as in the stream; keys_K says where in the stream each sequence's keys are, one after another.

    query_ends and key_ends: int32 [sequences + 1], where each begins and ends; longest_*: of a sequence, in tokens.
    """

    keys_K: Tensor
    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int


def runs_here(query: Tensor) -> bool:
    """Whether the kernel takes queries [..., D]: on a GPU that has it, in half precision, D a multiple of 8."""
    if query.device.type != "cuda" or query.dtype not in (torch.bfloat16, torch.float16):
        return False
    width = query.shape[-1]
    return width <= WIDEST and width % 8 == 0 and torch.cuda.get_device_capability(query.device) >= OLDEST


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, spans: tuple[Span, ...], scale: float) -> Tensor:
    """[T, heads, D] for query [T, heads, D], key and value [T, key heads, D] of the stream."""
    of = sequences(spans, query.device)
    found = varlen_attn(
        query,
        key.index_select(0, of.keys_K),
        value.index_select(0, of.keys_K),
        of.query_ends,
        of.key_ends,
        of.longest_query,
        of.longest_key,
        scale=scale,
        window_size=CAUSAL,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    assert isinstance(found, Tensor)  # a tuple only where more is asked for
    return found


@lru_cache(maxsize=4)
def sequences(spans: tuple[Span, ...], device: torch.device) -> Sequences:
    """Kept for the other layers of a pass, and for its backward pass."""
    queries: list[int] = []
    keys: list[int] = []
    seen: list[Tensor] = []
    for n_queries, ranges in _sequences_of(spans):
        queries.append(n_queries)
        keys.append(sum(len(each) for each in ranges))
        seen += [torch.arange(each.start, each.stop) for each in ranges]
    query_ends, key_ends = (
        torch.tensor([0, *accumulate(each)], dtype=torch.int32, device=device) for each in (queries, keys)
    )
    return Sequences(torch.cat(seen).to(device), query_ends, key_ends, max(queries), max(keys))


def _sequences_of(spans: tuple[Span, ...]) -> Iterator[tuple[int, list[range]]]:
    """How many queries each sequence has, and which parts of the stream they see, in the stream's order."""
    for span in spans:
        prompt = range(span.start, span.start + span.prompt)
        yield span.prompt, [prompt]
        start = prompt.stop
        for size in span.answers:
            yield size, [prompt, range(start, start + size)]
            start += size
