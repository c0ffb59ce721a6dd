"""How far the products of vLLM's own kernels are from fp32: one JSON line, in a process of its own.

Loading vLLM's kernels changes the process for good, which the other tests are to be spared.
"""

import json

import torch
from vllm.platforms import current_platform

from serve.cpu_lora import FEW_ROWS, packed_product

ROWS = (1, FEW_ROWS, FEW_ROWS + 1, 40)
SHAPES = ((576, 16, 960), (1536, 48, 576), (576, 4, 136))
"""Inputs, rank, outputs; the kernel for few rows does not take the last."""


def worst(inputs: int, rank: int, outputs: int) -> dict[str, float] | None:
    """The greatest difference at each number of rows, relative to the greatest value; None without such kernels."""
    draw = torch.Generator().manual_seed(rank)
    a_RI, b_RO = (torch.randn(shape, generator=draw).bfloat16() for shape in ((rank, inputs), (rank, outputs)))
    product = packed_product(a_RI, b_RO)
    if product is None:
        return None
    found = {}
    for rows in ROWS:
        x_TI = torch.randn(2 * rows, inputs, generator=draw).bfloat16()[::2]  # not one row right after the other
        exact_TO = x_TI.float() @ a_RI.float().T @ b_RO.float()
        found[str(rows)] = float((product(x_TI).float() - exact_TO).abs().max() / exact_TO.abs().max())
    return found


if __name__ == "__main__":
    current_platform.import_kernels()
    print(json.dumps([worst(*shape) for shape in SHAPES]))
