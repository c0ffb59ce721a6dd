"""A stream as sequences of their own: what each sees, and that the kernel's contract on them is our attention."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from training.base import varlen_attention
from training.base.attention import shared_prompt_attention
from training.base.varlen_attention import CAUSAL, runs_here, sequences
from training.examples.batches import Span

SPANS = (Span(0, 4, (3, 2)), Span(9, 2, (5,)), Span(16, 1, (1, 1, 4)))
TOKENS, HEADS, KEY_HEADS, WIDTH = 23, 6, 2, 16


def kernel_by_its_contract(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    longest_query: int,
    longest_key: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """What torch.nn.attention.varlen documents, one sequence at a time; the CPU has no such kernel."""
    assert window_size == CAUSAL
    assert query_ends.dtype == key_ends.dtype == torch.int32
    parts = []
    for nth in range(len(query_ends) - 1):
        own_q = query[query_ends[nth] : query_ends[nth + 1]].transpose(0, 1)
        own_k, own_v = (each[key_ends[nth] : key_ends[nth + 1]].transpose(0, 1) for each in (key, value))
        n, keys = own_q.shape[1], own_k.shape[1]
        assert n <= longest_query
        assert keys <= longest_key
        sees = torch.ones(n, keys, dtype=torch.bool).tril(keys - n)
        found = scaled_dot_product_attention(own_q, own_k, own_v, sees, scale=scale, enable_gqa=enable_gqa)
        parts.append(found.transpose(0, 1))
    return torch.cat(parts)


def drawn(device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Query, key and value as a layer of transformers gives them."""
    source = torch.Generator().manual_seed(0)
    shapes = ((1, HEADS, TOKENS, WIDTH), *[(1, KEY_HEADS, TOKENS, WIDTH)] * 2)
    return [torch.randn(shape, generator=source).to(device, dtype).requires_grad_() for shape in shapes]


def attended(stream: list[Tensor]) -> list[Tensor]:
    """The attention's output and its gradients."""
    out, _ = shared_prompt_attention(torch.nn.Identity(), *stream, None, spans=SPANS)
    weights = torch.arange(out.numel(), device=out.device).view_as(out).float().sin()
    (out.float() * weights).sum().backward()
    return [out.detach(), *(each.grad for each in stream if each.grad is not None)]


def test_an_answer_sees_its_prompt_and_itself() -> None:
    found = sequences(SPANS[:2], torch.device("cpu"))
    assert found.keys_K.tolist() == [
        *(0, 1, 2, 3),
        *(0, 1, 2, 3, 4, 5, 6),
        *(0, 1, 2, 3, 7, 8),
        *(9, 10),
        *(9, 10, 11, 12, 13, 14, 15),
    ]
    assert found.query_ends.tolist() == [0, 4, 7, 9, 11, 16]
    assert found.key_ends.tolist() == [0, 4, 11, 17, 19, 26]
    assert (found.longest_query, found.longest_key) == (5, 7)


def test_the_kernel_gives_what_the_attention_by_spans_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    by_span = attended(drawn())
    monkeypatch.setattr("training.base.attention.runs_here", lambda query: True)
    monkeypatch.setattr(varlen_attention, "varlen_attn", kernel_by_its_contract)
    in_one = attended(drawn())
    assert len(by_span) == len(in_one) == 4
    for one, other in zip(in_one, by_span, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cpu_keeps_to_its_own(dtype: torch.dtype) -> None:
    assert not runs_here(torch.empty(1, dtype=dtype))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_real_kernel_does() -> None:
    stream = drawn("cuda", torch.bfloat16)
    assert runs_here(stream[0])
    for one, other in zip(attended(stream), attended(drawn()), strict=True):
        torch.testing.assert_close(one.float().cpu(), other, atol=0.05, rtol=0.05)
