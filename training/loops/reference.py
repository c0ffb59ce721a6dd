"""What the reference, the base with its adapters off, gives the answers: computed once per job, kept in its folder."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.base.model import SharedBase
from training.examples.batches import Pass
from training.loops.steps import Watch
from training.tensor_files import write_tensors

_AT_A_TIME = 32
"""Passes of each process between two writes of the cache: a minute or so on two cores."""
REFERENCE = "reference.safetensors"
"""The file of a run's reference, in its folder."""


def reference_sums(model: SharedBase, batches: Sequence[Pass], cache: Path, watch: Watch) -> list[Tensor]:
    """Per pass the [N] summed log-probs (nats) of its answers; those of passes that the cache has are taken from it.

    The cache is written every `_AT_A_TIME` passes: who is stopped goes on from there. In bf16 the sums hold for passes
    of this very shape only.
    """

    def read() -> dict[str, Tensor]:
        return load_file(cache) if model.crew.is_first and cache.exists() else {}

    kept = model.crew.agreed(read)[0]  # what the first process has: it alone writes, and all are to score the same
    names = [pass_digest(batch) for batch in batches]
    missing = [batch for batch, name in zip(batches, names, strict=True) if name not in kept]

    def score(numbered: tuple[int, Pass]) -> Tensor:
        number, batch = numbered
        watch.progress(number / len(missing))
        with torch.no_grad(), model.policy(None):
            return batch.sum_answers(model.logprobs(batch).cpu())

    def check() -> None:
        watch.check("while the reference was computed")

    numbered, at_a_time = list(enumerate(missing)), _AT_A_TIME * model.crew.size
    for start in range(0, len(numbered), at_a_time):
        some = numbered[start : start + at_a_time]
        sums = model.crew.spread(some, score, check)
        kept |= {pass_digest(batch): sums_N for (_, batch), sums_N in zip(some, sums, strict=True)}
        if model.crew.is_first:
            write_tensors(cache, kept)
    return [kept[name] for name in names]


def pass_digest(batch: Pass) -> str:
    """Names a pass: its tokens, and how they are laid out."""
    return hashlib.sha256(repr((batch.tokens_T.tolist(), batch.spans)).encode()).hexdigest()
