"""What the reference, the base with its adapters off, gives the answers: computed once per job, kept in its folder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.base.model import SharedBase
from training.examples.batches import Pass
from training.loops.steps import Watch
from training.tensor_files import write_tensors


def reference_sums(model: SharedBase, batches: Sequence[Pass], cache: Path, run: str, watch: Watch) -> list[Tensor]:
    """Per pass the [N] summed log-probs (nats) of its answers. `run` names what is run: another's cache is not taken.

    In bf16 they hold for passes of this very shape only.
    """
    name = f"{run}/sums_N"
    sizes = [batch.n_answers for batch in batches]
    if cache.exists() and name in (kept := load_file(cache)) and len(kept[name]) == sum(sizes):
        return list(kept[name].split(sizes))

    def score(numbered: tuple[int, Pass]) -> Tensor:
        number, batch = numbered
        watch.progress(number / len(batches))
        with torch.no_grad(), model.policy(None):
            return batch.sum_answers(model.logprobs(batch).cpu())

    parts = model.crew.spread(list(enumerate(batches)), score, lambda: watch.check("while the reference was computed"))
    if model.crew.is_first:
        write_tensors(cache, {name: torch.cat(parts)})
    return parts
