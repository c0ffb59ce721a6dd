"""A vLLM plugin that makes adapters right on the CPU; runs inside vLLM's process and is imported by nobody else.

vLLM's CPU path indexes the stack of adapter weights with -1 for requests that have no adapter, so a base request in
a batch with adapter requests is answered by whatever adapter sits in the last slot; and it copies A and B once per
token. Here every adapter present in a batch costs one pair of matrix products over its own rows, and rows without an
adapter are left alone. Which rows are whose is worked out once per step, not per layer.
"""

import inspect
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

log = logging.getLogger("vllm.burnish")

SWITCH = "BURNISH_CPU_LORA"
"""Environment variable: `off` leaves vLLM as it is."""

_WRAPPER = "vllm.lora.punica_wrapper.punica_cpu"
_EXPECTED: dict[str, tuple[str, ...]] = {
    "update_metadata": ("self", "mapping", "lora_index_to_id", "max_loras", "vocab_size", "kwargs"),
    "add_shrink": ("self", "y", "x", "lora_a_stacked", "scale", "kwargs"),
    "add_expand": (
        "self",
        "y",
        "x",
        "lora_b_stacked",
        "output_slices",
        "offset_start",
        "add_inputs",
        "kwargs",
    ),
    "add_lora_embedding": ("self", "y", "x", "lora_b_stacked", "add_inputs", "kwargs"),
    "add_lora_linear": (
        "self",
        "y",
        "x",
        "lora_a_stacked",
        "lora_b_stacked",
        "scale",
        "output_slices",
        "buffer",
        "kwargs",
    ),
    "add_lora_logits": ("self", "y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "buffer", "kwargs"),
}


@dataclass(frozen=True)
class Group:
    """The rows of one adapter in a batch: `slot` in the weight stack, `rows` a slice or an index tensor."""

    slot: int
    rows: slice | torch.Tensor


def group_rows(slots: Sequence[int]) -> tuple[Group, ...]:
    """The groups of a batch whose row i belongs to the adapter in `slots[i]`; -1 is no adapter and no group."""
    rows_of: dict[int, list[int]] = {}
    for row, slot in enumerate(slots):
        if slot >= 0:
            rows_of.setdefault(slot, []).append(row)
    groups = []
    for slot, rows in rows_of.items():
        contiguous = rows[-1] - rows[0] == len(rows) - 1
        groups.append(Group(slot, slice(rows[0], rows[-1] + 1) if contiguous else torch.tensor(rows)))
    return tuple(groups)


def add_product(y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> None:
    """y += scale · (x Aᵀ) Bᵀ for one adapter's rows: y a view (rows, out), x (rows, in), a (r, in), b (out, r)."""
    y.addmm_((x.to(a.dtype) @ a.t()).to(y.dtype), b.t().to(y.dtype), alpha=scale)


def add_grouped(
    y: torch.Tensor,
    x: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor],
    groups: Sequence[Group],
    scale: float,
) -> None:
    """Adds every group's low-rank product to y in place; other rows stay bit for bit as they are.

    y (rows, out) may be a view of wider rows; x (rows, in); weights are the stacks A (slots, 1, r, in) and
    B (slots, 1, out, r). y may be wider than B's out (padding of the vocabulary), and is then left alone there.
    """
    stack_a, stack_b = weights
    out = min(y.shape[-1], stack_b.shape[-2])
    for group in groups:
        a, b = _matrix(stack_a, group.slot), _matrix(stack_b, group.slot)[:out]
        if isinstance(group.rows, slice):
            add_product(y[group.rows, :out], x[group.rows], a, b, scale)
        else:
            rows = y[group.rows, :out]
            add_product(rows, x[group.rows], a, b, scale)
            y[group.rows, :out] = rows


def _matrix(stack: torch.Tensor, slot: int) -> torch.Tensor:
    """One adapter's matrix out of a stack (slots, 1, rows, columns) or (slots, rows, columns)."""
    matrix = stack[slot]
    return matrix[0] if matrix.dim() == 3 else matrix


def register() -> None:
    """vLLM calls this in each of its processes (entry point `vllm.general_plugins`)."""
    if os.environ.get(SWITCH, "").lower() in {"off", "0", "false"}:
        log.warning("%s=off: adapters on the CPU are left to vLLM, whose mixed batches are wrong", SWITCH)
        return
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    try:
        from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
    except ImportError:
        log.warning("vLLM has no %s any more: the CPU adapter repair stays off", _WRAPPER)
        return
    changed = changed_methods(PunicaWrapperCPU)
    if changed:
        log.warning("vLLM has changed %s: the CPU adapter repair stays off", ", ".join(changed))
        return
    if getattr(PunicaWrapperCPU, "burnish_repaired", False):
        return
    repair(PunicaWrapperCPU)
    log.info("the CPU adapter repair is on: one matrix product per adapter, base requests untouched")


def changed_methods(wrapper: type) -> list[str]:
    """The methods of vLLM's wrapper that do not take what this repair was written for."""
    return [
        name
        for name, expected in _EXPECTED.items()
        if not hasattr(wrapper, name) or tuple(inspect.signature(getattr(wrapper, name)).parameters) != expected
    ]


def repair(wrapper: Any) -> None:
    """Puts the grouped products in the place of the wrapper's own."""
    # Before the first batch is described (vLLM's own warm-up) nobody has an adapter.
    wrapper.token_groups = wrapper.sample_groups = ()
    wrapper.update_metadata = _regrouping(wrapper.update_metadata)
    wrapper.add_shrink = _add_shrink
    wrapper.add_expand = _add_expand
    wrapper.add_lora_embedding = _add_lora_embedding
    wrapper.add_lora_linear = _add_lora_linear
    wrapper.add_lora_logits = _add_lora_logits
    wrapper.burnish_repaired = True


def _regrouping(update_metadata: Callable[..., None]) -> Callable[..., None]:
    def update(self: Any, *args: Any, **kwargs: Any) -> None:
        update_metadata(self, *args, **kwargs)
        self.token_groups = group_rows(self.token_lora_indices.tolist())
        self.sample_groups = group_rows(self.sampler_indices.tolist())

    return update


def _add_lora_linear(
    self: Any,
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a_stacked: tuple[torch.Tensor, ...],
    lora_b_stacked: tuple[torch.Tensor, ...],
    scale: float,
    output_slices: tuple[int, ...],
    *,
    buffer: tuple[torch.Tensor, ...] | None = None,
    **kwargs: Any,
) -> None:
    if not self.token_groups:
        return
    flat_y, flat_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    offset = 0
    for stacks, width in zip(zip(lora_a_stacked, lora_b_stacked, strict=True), output_slices, strict=True):
        add_grouped(flat_y[:, offset : offset + width], flat_x, stacks, self.token_groups, scale)
        offset += width


def _add_lora_logits(
    self: Any,
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a_stacked: torch.Tensor,
    lora_b_stacked: torch.Tensor,
    scale: float,
    *,
    buffer: torch.Tensor | None = None,
    **kwargs: Any,
) -> None:
    # Most adapters leave the LM head alone; B spans the vocabulary, so an empty A is worth a look.
    groups = [group for group in self.sample_groups if bool(lora_a_stacked[group.slot].any())]
    if groups:
        add_grouped(
            y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), (lora_a_stacked, lora_b_stacked), groups, scale
        )


def _add_lora_embedding(
    self: Any,
    y: torch.Tensor,
    x: torch.Tensor,
    lora_b_stacked: torch.Tensor,
    add_inputs: bool = True,
    **kwargs: Any,
) -> None:
    _expand_into(y.view(-1, y.shape[-1]), x, lora_b_stacked, self.token_groups)


def _add_shrink(
    self: Any, y: Any, x: torch.Tensor, lora_a_stacked: tuple[torch.Tensor, ...], scale: float, **kwargs: Any
) -> None:
    flat_x = x.view(-1, x.shape[-1])
    for target, stack in zip(y, lora_a_stacked, strict=True):
        rows_out = target.view(-1, target.shape[-1])
        for group in self.token_groups:
            a = _matrix(stack, group.slot)
            rows_out[group.rows, : a.shape[0]] = ((flat_x[group.rows].to(a.dtype) @ a.t()) * scale).to(rows_out.dtype)


def _add_expand(
    self: Any,
    y: torch.Tensor,
    x: Any,
    lora_b_stacked: tuple[torch.Tensor, ...],
    output_slices: tuple[int, ...],
    offset_start: int = 0,
    add_inputs: bool = True,
    **kwargs: Any,
) -> None:
    flat_y = y.view(-1, y.shape[-1])
    offset = offset_start
    for shrunk, stack, width in zip(x, lora_b_stacked, output_slices, strict=True):
        _expand_into(flat_y[:, offset : offset + width], shrunk, stack, self.token_groups)
        offset += width


def _expand_into(y: torch.Tensor, x: torch.Tensor, stack: torch.Tensor, groups: Sequence[Group]) -> None:
    """y += x Bᵀ for the rows of every group."""
    for group in groups:
        b = _matrix(stack, group.slot)
        y[group.rows, : b.shape[0]] += (x[group.rows].to(b.dtype) @ b.t()).to(y.dtype)
