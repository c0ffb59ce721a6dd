"""Log-probs of tokens from the hidden states before them, a few rows at a time: the table of all logits is never whole.

The LM head is frozen, so a log-prob's gradient in its hidden state is known as soon as the log-prob is: the token's row
of the head, less the mean row of all tokens that could have come. That is kept, [S, H], in place of [S, V] logits.
"""

from typing import Any

import torch
from torch import Tensor

ROWS_CPU, ROWS_GPU = 64, 1024
"""Tokens whose logits are there at once: on a CPU few enough for its cache."""

_CHANGES = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""Settings by which a model's logits are not simply the head times the hidden state."""


def plain_head(model: Any) -> Tensor | None:
    """[V, H] the weight of a model's LM head; None where its logits are more than hidden states times that.

    Adapters are compared with the engine's own log-probs before they serve, so a model that changes its logits in a way
    unknown here is noticed there.
    """
    head = model.get_output_embeddings()
    is_plain = type(head) is torch.nn.Linear and getattr(head, "bias", None) is None
    changed = any(getattr(model.config, name, None) not in (None, 1) for name in _CHANGES)
    return head.weight if is_plain and not changed else None


def token_logprobs(
    hidden_SH: Tensor, weight_VH: Tensor, targets_S: Tensor, products: torch.dtype, every: int = 1
) -> tuple[Tensor, Tensor]:
    """[S], [E] fp32 log-probs (nats) of the targets, and the entropy of what each `every`-th was drawn from.

    Products are made in `products`, everything else in fp32. The entropy carries no gradient, nor does the head.
    """
    return _TokenLogprobs.apply(hidden_SH, weight_VH.to(products), targets_S, every)  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def logprobs_and_divergence(
    own_SH: Tensor, base_SH: Tensor, weight_VH: Tensor, targets_S: Tensor, products: torch.dtype
) -> tuple[Tensor, Tensor]:
    """[S], [S] as `divergence`, from the hidden states of both before each target; products are made in `products`."""
    weight_VH = weight_VH.to(products)
    blocks = [
        divergence(own_SH[rows].to(products) @ weight_VH.T, base_SH[rows].to(products) @ weight_VH.T, targets_S[rows])
        for rows in _blocks(targets_S)
    ]
    logprobs, kls = zip(*blocks, strict=True)
    return torch.cat(logprobs), torch.cat(kls)


def divergence(own_SV: Tensor, base_SV: Tensor, targets_S: Tensor) -> tuple[Tensor, Tensor]:
    """[S], [S] fp32 nats: the targets' log-probs by the base, and KL(own ‖ base) before each. `own_SV` is used up."""
    own_SV, base_SV = own_SV.float(), base_SV.float()
    own_S1, base_S1 = own_SV.logsumexp(dim=-1, keepdim=True), base_SV.logsumexp(dim=-1, keepdim=True)
    logprob_S = (base_SV.gather(1, targets_S[:, None]) - base_S1)[:, 0]
    apart_SV = own_SV - base_SV
    apart_S = torch.linalg.vecdot(own_SV.sub_(own_S1).exp_(), apart_SV)
    return logprob_S, apart_S - (own_S1 - base_S1)[:, 0]


def _blocks(targets_S: Tensor) -> list[slice]:
    rows = ROWS_CPU if targets_S.device.type == "cpu" else ROWS_GPU
    return [slice(start, start + rows) for start in range(0, len(targets_S), rows)]


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, hidden_SH: Tensor, weight_VH: Tensor, targets_S: Tensor, every: int
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropies, slopes = [], [], []
        with torch.autocast(hidden_SH.device.type, enabled=False):
            for rows in _blocks(targets_S):
                targets_R1 = targets_S[rows, None]
                logits_RV = (hidden_SH[rows].to(weight_VH.dtype) @ weight_VH.T).float()
                total_R1 = logits_RV.logsumexp(dim=-1, keepdim=True)
                logprobs.append(logits_RV.gather(1, targets_R1) - total_R1)
                drawn = slice(-rows.start % every, None, every)
                drawn_EV = logits_RV[drawn] - total_R1[drawn]
                entropies.append(-(drawn_EV.exp() * drawn_EV).sum(dim=-1))
                if context.needs_input_grad[0]:
                    pull_RV = logits_RV.sub_(total_R1).exp_().neg_()
                    pull_RV.scatter_add_(1, targets_R1, torch.ones_like(total_R1))
                    slopes.append(pull_RV.to(weight_VH.dtype) @ weight_VH)
        if context.needs_input_grad[0]:
            context.save_for_backward(torch.cat(slopes))
        entropy_E = torch.cat(entropies)
        context.mark_non_differentiable(entropy_E)
        return torch.cat(logprobs)[:, 0], entropy_E

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (slope_SH,) = context.saved_tensors
        return gradients[0][:, None] * slope_SH, None, None, None
