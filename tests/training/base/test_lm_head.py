"""The LM head by rows is torch's own cross-entropy, and a head that is more than a product is left to the model."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.base.lm_head import ROWS_CPU, logprobs_and_divergence, plain_head, token_logprobs
from training.base.loading import FP32
from training.base.model import SharedBase

HIDDEN, TOKENS = 16, 300


def drawn(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(rows)
    hidden, weight = torch.randn(rows, HIDDEN, generator=chance), torch.randn(TOKENS, HIDDEN, generator=chance)
    return hidden.requires_grad_(), weight, torch.randint(TOKENS, (rows,), generator=chance)


@pytest.mark.parametrize("every", [1, 3, 8, 1000])
@pytest.mark.parametrize("rows", [1, ROWS_CPU - 1, ROWS_CPU, ROWS_CPU + 1, 2 * ROWS_CPU + 5])
def test_log_probs_entropy_and_gradients_are_torchs_own(rows: int, every: int) -> None:
    hidden, weight, targets = drawn(rows)
    logprobs, entropy = token_logprobs(hidden, weight, targets, torch.float32, every)
    logits = hidden @ weight.T
    theirs = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(logprobs, theirs)
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits[::every]).entropy())
    assert not entropy.requires_grad
    weights = torch.linspace(-2, 3, rows)
    (mine,) = torch.autograd.grad((weights * logprobs).sum(), hidden)
    (its,) = torch.autograd.grad((weights * theirs).sum(), hidden)
    torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-4)


def test_without_a_gradient_the_log_probs_are_the_same() -> None:
    hidden, weight, targets = drawn(100)
    with_gradient, _ = token_logprobs(hidden, weight, targets, torch.float32)
    without, _ = token_logprobs(hidden.detach(), weight, targets, torch.float32)
    assert torch.equal(without, with_gradient.detach())


@pytest.mark.parametrize("rows", [1, ROWS_CPU, 2 * ROWS_CPU + 5])
def test_divergence_is_torchs_own(rows: int) -> None:
    own, weight, targets = drawn(rows)
    base = own.detach() + 0.5 * torch.randn(own.shape, generator=torch.Generator().manual_seed(7))
    logprobs, kl = logprobs_and_divergence(own, base, weight, targets, torch.float32)
    told, drawn_from = (torch.distributions.Categorical(logits=each @ weight.T) for each in (base, own.detach()))
    torch.testing.assert_close(logprobs, told.log_prob(targets))
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(drawn_from, told), atol=1e-5, rtol=1e-4)


def test_the_gradient_of_an_almost_certain_token_is_right_in_bf16_too() -> None:
    """Its row of the head and the mean row are nearly one: taken from each other in bf16, nothing right is left."""
    _, weight, _ = drawn(8)
    sure, weight = (2 * weight[:8]).bfloat16().float(), weight.bfloat16().float()
    grads = []
    for products in (torch.float32, torch.bfloat16):
        hidden = sure.clone().requires_grad_()
        logprobs, _ = token_logprobs(hidden, weight, (sure @ weight.T).argmax(dim=1), products)
        logprobs.sum().backward()
        grads.append(hidden.grad)
    exact, rounded = grads
    assert exact is not None
    assert rounded is not None
    off = (rounded - exact).norm(dim=1) / exact.norm(dim=1)
    assert float(off.max()) < 0.1, off


@pytest.mark.parametrize("setting", ["final_logit_softcapping", "logits_scaling", "logit_scale"])
def test_a_model_that_changes_its_logits_is_asked_for_them(tiny_model: Path, setting: str) -> None:
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    assert plain_head(base._base) is not None
    setattr(base._base.config, setting, 30.0)
    assert plain_head(base._base) is None


def test_a_head_with_a_bias_is_the_models_own_affair(tiny_model: Path) -> None:
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)._base
    base.get_output_embeddings().bias = torch.nn.Parameter(torch.zeros(base.config.vocab_size))
    assert plain_head(base) is None
