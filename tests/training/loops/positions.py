"""Which positions of a pass a loss's gradient flows through."""

from collections.abc import Callable

import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm


def moved_positions(learn: Callable[[], object]) -> list[int]:
    """The places in the stream whose last hidden state, which a head would read, gets a gradient from `learn`.

    All its passes that have a gradient are over the same stream.
    """
    outputs: list[tuple[torch.nn.Module, torch.Tensor]] = []

    def keep(module: torch.nn.Module, _: object, output: object) -> None:
        if isinstance(module, LlamaRMSNorm) and isinstance(output, torch.Tensor) and output.requires_grad:
            outputs.append((module, output))
            output.retain_grad()

    hook = torch.nn.modules.module.register_module_forward_hook(keep)
    try:
        learn()
    finally:
        hook.remove()
    last = outputs[-1][0]
    gradients = [output.grad[0] for module, output in outputs if module is last and output.grad is not None]
    return sum(each.abs().amax(-1) for each in gradients).nonzero()[:, 0].tolist()
