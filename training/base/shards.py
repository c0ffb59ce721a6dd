"""Spreads a frozen base over the processes of a crew: each holds a part of every layer, and a layer is put together
while it is passed through.

torch's FSDP2. Adapters are added to the layers afterwards, so they are nobody's shards: every process has them whole.
"""

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from training.errors import ModelRefused


def shard_layers(decoder: Any, device: torch.device, size: int) -> None:
    """Leave this process's part of every layer on `device`; embeddings and norms stay whole where they are.

    ModelRefused when the decoder has no list of layers.
    """
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        raise ModelRefused(f"{type(decoder).__name__} has no list of layers to shard; set training.sharding to none")
    mesh = init_device_mesh(device.type, (size,))
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    # The root, which has no parameters of its own: it lets a layer be fetched while the one before it computes.
    fully_shard(decoder, mesh=mesh, ignored_params={each for each in decoder.parameters() if each not in inside})
