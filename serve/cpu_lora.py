"""A vLLM plugin that makes adapters right and fast on the CPU: one matrix product per adapter present in a batch.

Stock vLLM indexes its stack of adapters with −1 for requests without one, so base requests in a mixed batch get the
adapter of the last slot; it also copies A and B once per token. Here tokens are grouped by adapter once per step and
those without one are left alone. Runs inside vLLM's worker, found by its entry point `vllm.general_plugins`; nothing
of ours imports it. It leaves stock vLLM alone off the CPU, with BURNISH_CPU_LORA=off, or where vLLM changed shape.
"""

import inspect
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger("vllm.burnish_cpu_lora")

# A product this small costs more before it begins than while it runs. Of those that vLLM brings, its own kernel for
# packed weights wins up to FEW_ROWS, oneDNN's beyond; where there are none, fp32 wins over torch's own bf16 up to
# FP32_ROWS. Measured on AVX-512.
FEW_ROWS, FP32_ROWS = 8, 16
_KEPT_NUMBERS = 1 << 18

# What is replaced, with the parameters its callers use, and what is read. Anything missing: vLLM changed shape.
_REPLACED = {
    "update_metadata": ("mapping", "lora_index_to_id", "max_loras", "vocab_size"),
    "add_shrink": ("y", "x", "lora_a_stacked", "scale"),
    "add_expand": ("y", "x", "lora_b_stacked", "output_slices", "offset_start", "add_inputs"),
    "add_lora_embedding": ("y", "x", "lora_b_stacked", "add_inputs"),
    "add_lora_linear": ("y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "output_slices"),
    "add_lora_logits": ("y", "x", "lora_a_stacked", "lora_b_stacked", "scale"),
}
_READ = ("token_lora_indices", "sampler_indices")


def register() -> None:
    """Entry point. vLLM calls it in each of its processes; the choice falls where a worker asks for its wrapper."""
    from vllm.platforms import current_platform

    platform = type(current_platform)
    ask_stock = platform.get_punica_wrapper

    def get_punica_wrapper(cls: type) -> str:
        stock: str = ask_stock()
        return _chosen_wrapper(stock, is_cpu=bool(current_platform.is_cpu()))

    platform.get_punica_wrapper = classmethod(get_punica_wrapper)


def reason_to_stay_off(wrapper: type, *, is_cpu: bool, setting: str) -> str | None:
    """Why stock vLLM is left alone, or None to take over. `setting` is BURNISH_CPU_LORA."""
    if setting == "off":
        return "BURNISH_CPU_LORA is off"
    if not is_cpu:
        return "this vLLM does not run on the CPU"
    unlike = [name for name, wanted in _REPLACED.items() if not _takes(getattr(wrapper, name, None), wanted)]
    unlike += [name for name in _READ if not hasattr(wrapper, name)]
    return f"vLLM's {wrapper.__name__} changed shape: {', '.join(unlike)}" if unlike else None


@dataclass(frozen=True)
class Group:
    """The rows of a batch that use the adapter in `slot`: a range where they are consecutive, else their indices."""

    slot: int
    rows: slice | Tensor
    all_rows: bool = False


def group_rows(slots_T: Tensor) -> tuple[Group, ...]:
    """One group per adapter present; rows with slot −1 (no adapter) are in none."""
    slots = slots_T.unique().tolist()
    return tuple(Group(slot, _rows(slots_T == slot), all_rows=len(slots) == 1) for slot in slots if slot >= 0)


@dataclass(frozen=True)
class Packed:
    """One adapter's change to one layer, its slices side by side: delta = x @ a @ b, in fp32 and in the model's dtype.

    Ranks that are zero, because the adapter is smaller than the slot or leaves this layer alone, are left out.
    `packed` is the same product by vLLM's own kernels, where it has them.
    """

    a_IR: Tensor
    b_RO: Tensor
    a_low_RI: Tensor
    b_low_RO: Tensor
    packed: "PackedProduct | None" = None

    def add_to(self, y_TO: Tensor, x_TI: Tensor, scale: float) -> None:
        same_dtype = y_TO.dtype == self.b_low_RO.dtype
        if same_dtype and self.packed is not None:
            y_TO.add_(self.packed(x_TI), alpha=scale)
        elif same_dtype and x_TI.shape[0] > FP32_ROWS:
            y_TO.addmm_(F.linear(x_TI, self.a_low_RI), self.b_low_RO, alpha=scale)
        else:
            y_TO.add_(x_TI.float().mm(self.a_IR).mm(self.b_RO), alpha=scale)


class PackedProduct:
    """x @ a @ b in bf16, its weights packed once, by the kernels that vLLM's own linear layers run on.

    They are called without vLLM's functions around them, which cost as much again, and write rows one right after
    another, whatever a tensor's strides say.
    """

    def __init__(self, a_RI: Tensor, b_RO: Tensor) -> None:
        from vllm import _custom_ops as ops

        kernels, b_OR = torch.ops._C, b_RO.t().contiguous()
        self._rank, self._width = b_RO.shape
        self._owners = [ops.create_onednn_mm(weights.t()) for weights in (a_RI.contiguous(), b_OR)]
        self._many = kernels.onednn_mm.default
        self._many_a, self._many_b = (owner.handler_tensor for owner in self._owners)
        spare = -self._rank % 32  # what the kernel for few rows takes of inputs is a multiple of 32, of outputs of 16
        self._few_rank = self._rank + spare
        self._few_rows = FEW_ROWS if a_RI.shape[1] % 32 == self._width % 16 == 0 else 0
        self._few = kernels.weight_packed_linear.default
        if self._few_rows:
            self._few_a = kernels.convert_weight_packed(F.pad(a_RI, (0, 0, 0, spare)))
            self._few_b = kernels.convert_weight_packed(F.pad(b_OR, (0, spare)))

    def __call__(self, x_TI: Tensor) -> Tensor:
        """Good until the next product is asked for."""
        x_TI, n_rows = x_TI.contiguous(), x_TI.shape[0]
        if n_rows <= self._few_rows:
            low_TR, product_TO = _scratch(x_TI, n_rows, self._few_rank, self._width)
            self._few(low_TR, x_TI, self._few_a, None, True)
            self._few(product_TO, low_TR, self._few_b, None, True)
        else:
            low_TR, product_TO = _scratch(x_TI, n_rows, self._rank, self._width)
            self._many(low_TR, x_TI, None, self._many_a)
            self._many(product_TO, low_TR, None, self._many_b)
        return product_TO


def packed_product(a_RI: Tensor, b_RO: Tensor) -> PackedProduct | None:
    """None where the weights are not in bf16 or this vLLM has no such kernels, or others by their names."""
    if a_RI.dtype is not torch.bfloat16:
        return None
    try:
        product = PackedProduct(a_RI, b_RO)
        for n_rows in (1, FEW_ROWS + 1):
            product(a_RI.new_zeros(n_rows, a_RI.shape[1]))
    except (AttributeError, RuntimeError, TypeError) as error:
        logger.debug("no packed products: %s", error)
        return None
    return product


def _scratch(like: Tensor, n_rows: int, rank: int, width: int) -> tuple[Tensor, Tensor]:
    """Where a product goes and what it goes through. Every layer uses the same, as long as they are small."""
    key = n_rows, rank, width
    found = _SCRATCH.get(key)
    if found is None:
        found = like.new_empty((n_rows, rank)), like.new_empty((n_rows, width))
        if n_rows * width <= _KEPT_NUMBERS:
            _SCRATCH[key] = found
    return found


_SCRATCH: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}


def pack(stacks_a: Sequence[Tensor], stacks_b: Sequence[Tensor], slot: int, dtype: torch.dtype) -> Packed | None:
    """The adapter in `slot` of a layer's stacks, (slots, 1, rank, inputs) and (slots, 1, outputs, rank) per slice.

    None where it changes nothing.
    """
    parts_a, parts_b = [], []
    first, width = 0, sum(stack.shape[-2] for stack in stacks_b)
    for stack_a, stack_b in zip(stacks_a, stacks_b, strict=True):
        a_RI, b_OR = stack_a[slot, 0].float(), stack_b[slot, 0].float()
        used_R = a_RI.any(1) & b_OR.any(0)
        b_RO = b_OR.new_zeros(int(used_R.sum()), width)
        b_RO[:, first : first + len(b_OR)] = b_OR[:, used_R].T
        parts_a.append(a_RI[used_R])
        parts_b.append(b_RO)
        first += len(b_OR)
    a_RI, b_RO = torch.cat(parts_a), torch.cat(parts_b)
    if not len(a_RI):
        return None
    a_low_RI, b_low_RO = a_RI.to(dtype), b_RO.to(dtype)
    return Packed(a_RI.T.contiguous(), b_RO, a_low_RI, b_low_RO, packed_product(a_low_RI, b_low_RO))


class PackedStacks:
    """Packed adapters of every layer, made when first used and again after vLLM writes to the layer's stacks."""

    def __init__(self) -> None:
        self._layers: dict[int, _Layer] = {}

    def get(
        self, stacks_a: Sequence[Tensor], stacks_b: Sequence[Tensor], slot: int, dtype: torch.dtype
    ) -> Packed | None:
        """Called for every layer in every step: what is known is found by one look-up and one comparison."""
        layer = self._layers.get(id(stacks_a[0]))
        # vLLM empties a slot in all stacks of a layer before it writes to any: one of them tells of them all.
        if layer is None or layer.written != stacks_a[0]._version:
            if any(stack.is_inference() for stack in (*stacks_a, *stacks_b)):  # these count no writes
                return pack(stacks_a, stacks_b, slot, dtype)
            layer = self._layers[id(stacks_a[0])] = _Layer((*stacks_a, *stacks_b), stacks_a[0]._version)
        if slot not in layer.slots:
            layer.slots[slot] = pack(stacks_a, stacks_b, slot, dtype)
        return layer.slots[slot]


@dataclass(frozen=True)
class _Layer:
    """What is packed of a layer since its stacks were `written`; it holds them, so that no other comes by their id."""

    stacks: Sequence[Tensor]
    written: int
    slots: dict[int, Packed | None] = field(default_factory=dict)


class GroupedLora:
    """The methods that take the place of `PunicaWrapperCPU`'s, whose subclass it is mixed into.

    T are the tokens of a step, or its sampled ones for the LM head.
    """

    token_lora_indices: Tensor
    sampler_indices: Tensor

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._packs = PackedStacks()
        self._token_groups: tuple[Group, ...] = ()
        self._sampler_groups: tuple[Group, ...] = ()

    def update_metadata(
        self, mapping: Any, lora_index_to_id: Any, max_loras: int, vocab_size: int, **more: Any
    ) -> None:
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **more)  # type: ignore[misc]
        self._token_groups = group_rows(self.token_lora_indices)
        self._sampler_groups = group_rows(self.sampler_indices)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: Sequence[Tensor],
        lora_b_stacked: Sequence[Tensor],
        scale: float,
        output_slices: Sequence[int],
        **_: Any,
    ) -> None:
        """y += scale · x @ A @ B for the rows of each adapter; the slices of the output lie side by side."""
        self._add_packed(y, x, (lora_a_stacked, lora_b_stacked), scale, self._token_groups)

    def add_lora_logits(
        self, y: Tensor, x: Tensor, lora_a_stacked: Tensor, lora_b_stacked: Tensor, scale: float, **_: Any
    ) -> None:
        """The same for the LM head, where a row is a token to sample.

        For the log-probs of a prompt vLLM calls it with that prompt's rows instead, and does not say whose they are:
        they get an adapter only when the whole batch uses one.
        """
        groups, n_sampled = self._sampler_groups, len(self.sampler_indices)
        if x.shape[0] != n_sampled:
            one_for_all = len(groups) == 1 and groups[0].rows == slice(0, n_sampled)
            groups = (Group(groups[0].slot, slice(None), all_rows=True),) if one_for_all else ()
        self._add_packed(y, x, ((lora_a_stacked,), (lora_b_stacked,)), scale, groups)

    def add_lora_embedding(
        self, y: Tensor, x: Tensor, lora_b_stacked: Tensor, add_inputs: bool = True, **_: Any
    ) -> None:
        """y += x @ B, where x are the rows of A that vLLM looked up."""
        _add_rows(y, x, lora_b_stacked, self._token_groups, add_inputs)

    def add_shrink(
        self, y: Sequence[Tensor] | Tensor, x: Tensor, lora_a_stacked: Sequence[Tensor], scale: float, **_: Any
    ) -> None:
        """y[slice] = scale · x @ A; called by itself with sharded adapters only."""
        x_TI = x.view(-1, x.shape[-1])
        for y_TR, stack in zip(y, lora_a_stacked, strict=True):
            _add_rows(y_TR.view(-1, y_TR.shape[-1]), x_TI * scale, stack, self._token_groups, add=False)

    def add_expand(
        self,
        y: Tensor,
        x: Sequence[Tensor] | Tensor,
        lora_b_stacked: Sequence[Tensor],
        output_slices: Sequence[int],
        offset_start: int = 0,
        add_inputs: bool = True,
        **_: Any,
    ) -> None:
        """y[:, slice] += x[slice] @ B; called by itself with sharded adapters only."""
        y_TO, first = y.view(-1, y.shape[-1]), offset_start
        for x_TR, stack, width in zip(x, lora_b_stacked, output_slices, strict=True):
            _add_rows(y_TO[:, first : first + width], x_TR, stack, self._token_groups, add_inputs)
            first += width

    def _add_packed(
        self,
        y: Tensor,
        x: Tensor,
        stacks: tuple[Sequence[Tensor], Sequence[Tensor]],
        scale: float,
        groups: Sequence[Group],
    ) -> None:
        if not groups:
            return
        y_TO = y if y.ndim == 2 else y.view(-1, y.shape[-1])
        x_TI = x if x.ndim == 2 else x.view(-1, x.shape[-1])
        for group in groups:
            packed = self._packs.get(*stacks, group.slot, x.dtype)
            if packed is None:
                continue
            # Stock vLLM allows a layer's output to be padded past the adapter's.
            width = packed.b_RO.shape[1]
            part_TO = y_TO if y_TO.shape[1] == width else y_TO[:, :width]
            if group.all_rows:
                packed.add_to(part_TO, x_TI, scale)
            else:
                _add_to_rows(packed, part_TO, x_TI, group.rows, scale)


def _add_to_rows(packed: Packed, y_TO: Tensor, x_TI: Tensor, rows: slice | Tensor, scale: float) -> None:
    part_TO = y_TO[rows]
    packed.add_to(part_TO, x_TI[rows], scale)
    if not isinstance(rows, slice):  # indexing by a tensor copied them
        y_TO[rows] = part_TO


def _add_rows(y_TO: Tensor, x_TI: Tensor, stack: Tensor, groups: Sequence[Group], add: bool) -> None:
    """y (+)= x @ W^T with W, (outputs, inputs), of each group's adapter; other rows stay as they are."""
    for group in groups:
        weight_OI = stack[group.slot].view(stack.shape[-2:]).to(y_TO.dtype)
        delta_TO = F.linear(x_TI[group.rows].to(y_TO.dtype), weight_OI)
        width = min(y_TO.shape[1], delta_TO.shape[1])
        if add:
            delta_TO[:, :width] += y_TO[group.rows, :width]
        y_TO[group.rows, :width] = delta_TO[:, :width]


def _rows(chosen_T: Tensor) -> slice | Tensor:
    rows_N = chosen_T.nonzero().squeeze(1)
    first, last = int(rows_N[0]), int(rows_N[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows_N) else rows_N


def _takes(method: object, wanted: Sequence[str]) -> bool:
    return callable(method) and set(wanted) <= set(inspect.signature(method).parameters)


def _chosen_wrapper(stock: str, *, is_cpu: bool) -> str:
    """The qualified name of the class that a worker shall use; says in one line what was chosen and why."""
    from vllm.utils.import_utils import resolve_obj_by_qualname

    wrapper = resolve_obj_by_qualname(stock)
    reason = reason_to_stay_off(wrapper, is_cpu=is_cpu, setting=os.environ.get("BURNISH_CPU_LORA", "on"))
    if reason:
        logger.info("burnish_cpu_lora stays off: %s", reason)
        return stock
    logger.info("burnish_cpu_lora: adapters go by one product each, base requests are left alone")
    grouped = type("GroupedPunicaWrapperCPU", (GroupedLora, wrapper), {"__module__": __name__})
    globals()[grouped.__name__] = grouped
    return f"{__name__}.{grouped.__name__}"
