"""Attention in plain products is torch's own: outputs and gradients, in blocks or not, heads shared or not."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from training.base.span_attention import BLOCK, span_attention

SCALE = 0.125


def torchs_own(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same by torch, each key head written out for its query heads."""
    shared = query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(shared, dim=0), value.repeat_interleave(shared, dim=0)
    n, keys = query.shape[1], key.shape[1]
    sees = torch.ones(n, keys, dtype=torch.bool).tril(keys - n)
    return scaled_dot_product_attention(query, key, value, attn_mask=sees, scale=SCALE)


@pytest.mark.parametrize("before", [0, 1, 200])
@pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
@pytest.mark.parametrize(("heads", "key_heads"), [(6, 2), (3, 3)])
def test_outputs_and_gradients_are_torchs_own(n: int, before: int, heads: int, key_heads: int) -> None:
    drawn = torch.Generator().manual_seed(n + before)
    shapes = ((heads, n, 16), (key_heads, before + n, 16), (key_heads, before + n, 16))
    ours = [torch.randn(shape, generator=drawn).requires_grad_() for shape in shapes]
    theirs = [each.detach().clone().requires_grad_() for each in ours]
    weights = torch.randn((heads, n, 16), generator=drawn)
    results = span_attention(*ours, SCALE), torchs_own(*theirs)
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
    for result in results:
        (result * weights).sum().backward()
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, its.grad, atol=2e-5, rtol=1e-4)


def test_under_autocast_its_scores_stay_in_fp32() -> None:
    """bf16 in and out, scores in fp32: near the truth as the fused attention of torch is."""
    drawn = torch.Generator().manual_seed(0)
    wide = [torch.randn(shape, generator=drawn) for shape in ((6, 150, 16), (2, 190, 16), (2, 190, 16))]
    narrow = [(8 * wide[0]).bfloat16(), *(each.bfloat16() for each in wide[1:])]  # large scores, which bf16 would round
    truth = torchs_own(*(each.float() for each in narrow))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = span_attention(*narrow, SCALE)
    assert ours.dtype == torch.bfloat16
    off, its = ((each.float() - truth).square().mean() for each in (ours, torchs_own(*narrow)))
    assert off <= 3 * its, (off, its)
