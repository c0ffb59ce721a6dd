"""A vLLM plugin that keeps seeded requests from killing the engine on the CPU.

When a prompt is read in several steps, vLLM draws a token after each and takes the draw back by setting the request's
random generator back by a GPU generator's offset. A CPU generator has none: the engine dies of it, and with it every
running request. Here the generator's whole state is kept before the draw and put back after it, so that a seed gives
the same answer however its prompt was cut. Runs inside vLLM's worker; stays off where vLLM changed shape.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("vllm.burnish_cpu_seeds")

_REPLACED = ("_sample", "_bookkeeping_sync")


def register() -> None:
    """Entry point `vllm.general_plugins`: vLLM calls it in each of its processes."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if getattr(GPUModelRunner, "burnish_seeds", False):
        return
    missing = [name for name in _REPLACED if not hasattr(GPUModelRunner, name)]
    if missing or ".get_offset()" not in inspect.getsource(GPUModelRunner._bookkeeping_sync):
        logger.warning("burnish_cpu_seeds stays off: this vLLM no longer sets generators back by an offset")
        return
    repair(GPUModelRunner)


def repair(runner: Any) -> None:
    """Wraps the drawing of tokens and the bookkeeping after it."""
    runner._sample = _keeping_states(runner._sample)
    runner._bookkeeping_sync = _hiding_generators(runner._bookkeeping_sync)
    runner.burnish_seeds = True


def _taken_back(self: Any) -> set[int]:
    """The seeded requests of this step whose draw does not count: their prompt is not read to its end yet."""
    discarded = self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0]
    return {int(row) for row in discarded if int(row) in self.input_batch.generators}


def _keeping_states(sample: Callable[..., Any]) -> Callable[..., Any]:
    def keeping(self: Any, *args: Any, **kwargs: Any) -> Any:
        generators = self.input_batch.generators
        kept = [(generators[row], generators[row].get_state()) for row in _taken_back(self)]
        drawn = sample(self, *args, **kwargs)
        for generator, state in kept:
            generator.set_state(state)
        return drawn

    return keeping


def _hiding_generators(bookkeeping: Callable[..., Any]) -> Callable[..., Any]:
    def hiding(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch, generators = self.input_batch, self.input_batch.generators
        taken_back = _taken_back(self)
        batch.generators = {row: each for row, each in generators.items() if row not in taken_back}
        try:
            return bookkeeping(self, *args, **kwargs)
        finally:
            batch.generators = generators

    return hiding
