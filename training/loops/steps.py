"""What every loop's optimizer steps have in common: order, rate, clipping, checkpoints, stopping, too little memory.

On one device with one thread, a run that was stopped anywhere and taken up from its checkpoint ends with the same
tensors, bit for bit, as an unbroken one: each step's randomness comes from the seed and the step's number.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from training.algorithms import OptimizerRecipe
from training.base.crew import Crew
from training.errors import Diverged, OutOfMemory, Stopped
from training.examples.batches import group_steps
from training.loops.checkpoint import Checkpoint, Checkpoints, optimizer_state, restore_optimizer

log = logging.getLogger("training.steps")

Result = TypeVar("Result")

POLICY = "policy"
"""The name of the adapter in training, in the model it is trained on."""

ENTROPY_EVERY = 8
"""Loops that do not need the entropy draw its curve from every so manieth token of an answer."""

Point = Mapping[str, float]
"""What a step tells, by name; the status page draws it. A loop gives what it has, and counts of its own.

`loss`, `grad_norm`, `learning_rate`, `entropy` (nats a token). Of whole answers, in nats: `chosen_logprob`,
`rejected_logprob`, `kto_baseline` (z₀). In nats a token: `nll`, `kl` (policy to reference, on the policy's own
answers), `reference_kl` (reference to policy, on the answers voted on), `engine_gap`. `margin` is of implicit rewards,
`reward_margin` of a reward model's, `accuracy` the share of pairs with one above 0. Of a round: `reward_mean`,
`reward_spread` (standard deviation), `kl_weight`, `importance` (mean truncated weight), `clip_fraction`, `value_error`,
`answer_tokens`, `cut_off` (share of answers).
"""
Parameters = Mapping[str, torch.nn.Parameter]


@dataclass(frozen=True)
class Watch:
    """What a run tells and asks while it goes: a curve point per step, the share done, whether to stop."""

    point: Callable[[Point], None]
    progress: Callable[[float], None]
    stopping: Callable[[], bool]

    def between(self, start: float, end: float) -> "Watch":
        """The same watch for a part of the run, whose progress counts from `start` to `end`."""
        return Watch(self.point, lambda share: self.progress(start + (end - start) * share), self.stopping)

    def check(self, when: str) -> None:
        """Stopped once the watch says so."""
        if self.stopping():
            raise Stopped(f"stopped {when}")


SILENT = Watch(point=lambda point: None, progress=lambda share: None, stopping=lambda: False)
"""For a process that has nobody to tell, and is stopped by another."""


@dataclass(frozen=True)
class Step:
    """One optimizer step: the passes it learns from, by their place."""

    epoch: int
    passes: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """One run of the optimizer. `name` says what is run, so that another run's checkpoints are not taken up.

    `most_loss`: the run has diverged when a step's loss is more than so many times the first step's, at least 1, on
    either side of 0. `crew`: the processes that make it together; the first of them keeps the checkpoints.
    """

    name: str
    folder: Path
    optimizer: OptimizerRecipe
    seed: int
    every_s: float = 20.0
    most_loss: float = 10.0
    crew: Crew = field(default_factory=Crew)


Learn = Callable[[int, bool], dict[str, float]]
"""Leaves the gradients of a step (by its number) in the parameters and returns its curve point, with the key `loss`.

Each process of a crew leaves those of its own passes, and returns the point of the whole step.

The second argument asks for smaller passes: memory ran out before. Raises Stopped between passes.
"""


class Weighted(Protocol):
    """An example whose loss is multiplied by its weight."""

    @property
    def weight(self) -> float: ...


def mean_weight(examples: Sequence[Weighted]) -> float:
    """What one example of a run weighs on average.

    A step's weighted losses are divided by so much for each of its examples, not by the step's own weights: these would
    cancel out where a step has one example, or only examples of one weight.
    """
    return sum(each.weight for each in examples) / len(examples)


def plan_steps(sizes: Sequence[int], *, epochs: int, least: int, seed: int) -> list[Step]:
    """The steps of a whole run: every epoch takes all passes in an order of its own, `least` examples to a step."""
    plan: list[Step] = []
    for epoch in range(epochs):
        chance = torch.Generator().manual_seed(seed + 104_729 * (epoch + 1))
        order = torch.randperm(len(sizes), generator=chance).tolist()
        for start, end in group_steps([sizes[i] for i in order], least):
            plan.append(Step(epoch, tuple(order[start:end])))
    return plan


def train(parameters: Parameters, total: int, learn: Learn, run: Run, watch: Watch) -> None:
    """Take `total` steps on `parameters`, going on from the newest checkpoint of this run.

    Raises Diverged (the last good checkpoint stays), OutOfMemory, or Stopped when `learn` does, after a checkpoint.
    """
    settings = run.optimizer
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )
    checkpoints = Checkpoints(run.folder / "checkpoints", run.name)
    done, first_loss, smaller = 0, math.nan, False
    if (kept := checkpoints.newest()) is not None:
        restore(parameters, kept.adapter)
        restore_optimizer(optimizer, parameters, kept.optimizer)
        done, first_loss = kept.step, kept.first_loss
    saved_at = time.monotonic()

    def save(step: int) -> None:
        if not run.crew.is_first:
            return
        state = optimizer_state(optimizer, parameters)
        checkpoints.save(Checkpoint(step, snapshot(parameters), state, first_loss))

    for number in range(done, total):
        try:
            point, smaller = _gradients(parameters, learn, number, run, smaller)
        except Stopped:
            save(number)
            raise
        run.crew.sum_gradients(parameters.values())
        norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), settings.max_grad_norm))
        first_loss = point["loss"] if number == 0 else first_loss
        check_converging({**point, "grad_norm": norm}, number, first_loss, run)
        rate = learning_rate(settings, number, total)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        watch.point({"step": number + 1, **point, "grad_norm": norm, "learning_rate": rate})
        watch.progress((number + 1) / total)
        if time.monotonic() - saved_at >= run.every_s or number + 1 == total:
            save(number + 1)
            saved_at = time.monotonic()


def _gradients(
    parameters: Parameters, learn: Learn, number: int, run: Run, smaller: bool
) -> tuple[dict[str, float], bool]:
    """One step's gradients; where memory runs out, once more in passes of half the size, and so from then on."""

    def work(halved: bool) -> dict[str, float]:
        torch.manual_seed(run.seed + 7919 * (number + 1))  # dropout; the same for this step in any attempt
        for parameter in parameters.values():
            parameter.grad = None
        return learn(number, halved)

    return halved_for_memory(work, smaller, f"step {number + 1}")


def halved_for_memory(work: Callable[[bool], Result], smaller: bool, what: str) -> tuple[Result, bool]:
    """What `work` gives, and whether it was done in halves: when told so, or because memory ran out without.

    OutOfMemory, naming `what`, where the halves do not fit either.
    """
    for halved in (smaller, True):
        try:
            return work(halved), halved
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if halved:
                break
            log.warning("%s ran out of memory; going on with passes of half the size", what)
    raise OutOfMemory(
        f"{what} does not fit into memory, nor in two halves: set training.recompute_activations, lower the "
        "recipe's pass_tokens or the longest length it takes, or give the worker more memory"
    )


_NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, torch's on the CPU, CUDA's within its allocator or not."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in str(error) for sign in _NO_MEMORY)


def check_converging(point: Point, number: int, first_loss: float, run: Run) -> None:
    """Diverged when a number of the step is none, or its loss is far off the first one."""
    settings = run.optimizer
    change = f"Lower optimizer.learning_rate (now {settings.learning_rate:g})"
    if odd := [name for name, value in point.items() if not math.isfinite(value)]:
        raise Diverged(f"step {number + 1}: {odd[0]} is {point[odd[0]]}. {change}")
    most = run.most_loss * max(1.0, abs(first_loss))
    if abs(point["loss"]) > most:  # robust losses have no lower bound
        raise Diverged(f"step {number + 1}: the loss is {point['loss']:.3g}, it began at {first_loss:.3g}. {change}")


def snapshot(parameters: Parameters) -> dict[str, Tensor]:
    """Copies in fp32."""
    return {name: parameter.detach().cpu().float().clone() for name, parameter in parameters.items()}


def restore(parameters: Parameters, state: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def learning_rate(settings: OptimizerRecipe, step: int, total: int) -> float:
    """The rate of step `step` (from 0) of `total`: up over the warmup share, then constant or down towards 0."""
    warmup = math.ceil(settings.warmup_share * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    match settings.schedule:
        case "constant":
            return settings.learning_rate
        case "linear":
            return settings.learning_rate * (1 - share)
        case "cosine":
            return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
