"""Two real processes of one crew, kept for many scenes: a scene is a function that both run, each with its side of it.

And the scenes themselves, which the processes import from here.
"""

import gc
import logging
import multiprocessing
import os
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from tests.training.loops.notes import Notes
from tests.training.tiny import (
    make_demonstrations,
    make_kto_recipe,
    make_pairs,
    make_recipe,
    make_reward_recipe,
    make_sft_recipe,
    make_thumbs,
)
from tests.training.tiny_engine import TinyEngine, TinyRollouts
from training.base.crew import Crew, Seat, join
from training.base.loading import FP32, load_chat_tokens
from training.base.model import SharedBase
from training.examples.batches import Pass, make_pass
from training.loops.experience import NoRollouts, no_scorer
from training.loops.kto import train_kto
from training.loops.online_preference import train_online_preference
from training.loops.policy_gradient import train_policy_gradient
from training.loops.preference import train_preference
from training.loops.reference import reference_sums
from training.loops.reward import train_reward
from training.loops.sft import train_sft
from training.loops.steps import POLICY, SILENT
from training.recipe import parse_recipe
from training.rewards.reading import read_pairs
from training.rewards.reward_model import Answered
from training.sampling.rollouts import Asked

Scene = Callable[..., Any]


class Two:
    """Both processes, waiting for scenes."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def play(self, scene: Scene, *arguments: Any, within_s: float = 300, **named: Any) -> list[Any]:
        """What the scene came to in each process, by rank: what it returned or raised."""
        self.begin(scene, *arguments, **named)
        return [self.end(rank, within_s=within_s) for rank in range(len(self._pipes))]

    def begin(self, scene: Scene, *arguments: Any, **named: Any) -> None:
        for pipe in self._pipes:
            pipe.send((scene, arguments, named))

    def end(self, rank: int, *, within_s: float = 300) -> Any:
        """What it came to in one of the processes."""
        assert self._pipes[rank].poll(within_s), f"process {rank} hangs"
        return pickle.loads(self._pipes[rank].recv_bytes())  # noqa: S301 - our own


@contextmanager
def two_processes(folder: Path) -> Iterator[Two]:
    """Gone when the block ends."""
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(2)]
    started = [
        context.Process(target=_attend, args=(Seat(rank, 2, folder / "meeting"), ends[rank][1]), daemon=True)
        for rank in range(2)
    ]
    for each in started:
        each.start()
    try:
        yield Two([ours for ours, _ in ends])
    finally:
        for each in started:
            each.kill()
            each.join()


def _attend(seat: Seat, pipe: Connection) -> None:
    torch.set_num_threads(1)
    logging.disable()
    os.environ["HF_HUB_OFFLINE"] = "1"
    join(seat, torch.device("cpu"))
    while True:
        scene, arguments, named = pipe.recv()
        try:
            came = scene(Crew(seat.rank, seat.size), *arguments, **named)
        except Exception as error:  # noqa: BLE001 - it is what the scene came to
            came = error
        pipe.send_bytes(pickle.dumps(came))


# The scenes -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Learned:
    """What a run left in a process and told there, and from how many passes it learned itself."""

    state: dict[str, torch.Tensor]
    points: list[dict[str, float]]
    passes: int

    def without(self, *keys: str) -> "Learned":
        """The same with some curves left out."""
        return replace(self, points=[{k: v for k, v in point.items() if k not in keys} for point in self.points])


def learn(crew: Crew, kind: str, model: Path, folder: Path, *, sharded: bool = False, **options: Any) -> Learned:
    """One attempt at a small run of a kind, with one example to a pass and up to four passes to a step.

    Options: `stop_at` as Notes, `short` (Short), `recompute` as SharedBase, the others are the recipe's.
    """
    recompute = options.pop("recompute", False)
    base = SharedBase(model, torch.device("cpu"), FP32, crew=crew, sharded=sharded, recompute=recompute)
    notes = Notes(options.pop("stop_at", None))
    short: Short | None = options.pop("short", None)
    learning = count_passes(base, short if short is not None and short.rank == crew.rank else None)
    own = {"model": base, "watch": notes.watch() if crew.is_first else SILENT, "folder": folder, "every_s": 1e9}
    return Learned(KINDS[kind](base, own, model, options), notes.points, len(learning))


def learn_apart(crew: Crew, kind: str, model: Path, folder: Path) -> Learned:
    """A run for which each process is given a folder of its own, named after its rank."""
    return learn(crew, kind, model, folder / str(crew.rank))


@dataclass(frozen=True)
class Short:
    """Memory runs out in the process `rank`, in its passes that learn from number `first` (from 0) to before `end`."""

    rank: int
    first: int
    end: int


def count_passes(base: SharedBase, short: Short | None) -> list[Pass]:
    """The passes that `base` will have learned from, filled as it goes on; memory runs out as `short` says."""
    passes: list[Pass] = []

    def counting(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def count(batch: Pass, *rows: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                passes.append(batch)
                if short is not None and short.first < len(passes) <= short.end:
                    raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(batch, *rows)

        return count

    base.logits, base.hidden = counting(base.logits), counting(base.hidden)  # type: ignore[method-assign]
    return passes


ONE_EACH = {"pass_tokens": 64}
"""Of the tiny pairs none goes into a pass with another."""


def _dpo(base: SharedBase, own: dict[str, Any], model: Path, fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    train_preference(
        pairs=make_pairs(load_chat_tokens(model)), recipe=make_recipe(**{"batch_pairs": 4, **ONE_EACH, **fields}), **own
    )
    return base.adapter_state(POLICY)


def _kto(base: SharedBase, own: dict[str, Any], model: Path, fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    train_kto(thumbs=make_thumbs(load_chat_tokens(model)), recipe=make_kto_recipe(**ONE_EACH, **fields), **own)
    return base.adapter_state(POLICY)


def _sft(base: SharedBase, own: dict[str, Any], model: Path, fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    recipe = make_sft_recipe(shares={"edit": 1.0}, batch_examples=4, **ONE_EACH, **fields)
    train_sft(demonstrations=make_demonstrations(load_chat_tokens(model)), recipe=recipe, **own)
    return base.adapter_state(POLICY)


def _reward(base: SharedBase, own: dict[str, Any], model: Path, fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    recipe, tokens = make_reward_recipe(ensemble=2, batch_pairs=4, **ONE_EACH, **fields), load_chat_tokens(model)
    names = train_reward(readings=read_pairs(make_pairs(tokens), recipe, tokens), recipe=recipe, **own)
    state = {f"{name}/{key}": value for name in names for key, value in base.adapter_state(name).items()}
    return state | {f"{n}/{key}": each.detach() for n in names for key, each in base.head_parameters(n).items()}


SIZES = {"rounds": 2, "prompts": 3, "answers": 3, "max_tokens": 6}
SMALL = {"epochs": 2, "pass_tokens": 200, "adapter": {"rank": 8, "alpha": 16}}


def _ppo(base: SharedBase, own: dict[str, Any], model: Path, fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    recipe = parse_recipe({"algorithm": "ppo", "minibatches": 2, "rollouts": SIZES, **SMALL, **fields})
    train_policy_gradient(recipe=recipe, **own, **_answering(base, model, recipe))
    value = {**base.adapter_state("value"), **base.head_parameters("value")}
    return base.adapter_state(POLICY) | {f"value/{key}": each.detach() for key, each in value.items()}


def _online_dpo(base: SharedBase, own: dict[str, Any], model: Path, fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    loss = {"algorithm": "dpo", "batch_pairs": 4, **SMALL, **ONE_EACH}
    recipe = parse_recipe({"algorithm": "online_preference", "rollouts": SIZES, "loss": loss, **fields})
    votes = make_pairs(load_chat_tokens(model))
    train_online_preference(votes=votes, recipe=recipe, **own, **_answering(base, model, recipe))
    return base.adapter_state(POLICY)


def _answering(base: SharedBase, model: Path, recipe: Any) -> dict[str, Any]:
    """Who samples and rewards: the first process alone."""
    if not base.crew.is_first:
        return {"rollouts": NoRollouts(), "reward": no_scorer}
    tokens = load_chat_tokens(model)
    prompts = tuple(({"role": "user", "content": f"Say {letter}"},) for letter in "abcdef")
    rollouts = TinyRollouts(TinyEngine(model, tokens), tokens, Asked(prompts, recipe.rollouts, recipe.seed))
    return {"rollouts": rollouts, "reward": low_bytes}


def low_bytes(asked: list[Answered]) -> list[float]:
    """A taste: the share of tokens from the first half of the bytes."""
    return [sum(token < 128 for token in each.answer) / len(each.answer) for each in asked]


def run_short(crew: Crew) -> bool:
    """Whether what a piece of work held is let go as soon as it has run out of memory, without a collector's help."""
    held: list[weakref.ref[set[int]]] = []

    class Held(set[int]):
        """Sets can be referred to weakly."""

    def work() -> None:
        large = Held()
        held.append(weakref.ref(large))
        raise MemoryError

    gc.disable()
    try:
        with suppress(MemoryError):
            crew.agreed(work)
        return held[0]() is None
    finally:
        gc.enable()


def sum_up(crew: Crew) -> list[list[float] | None]:
    """Gradients of three parameters: of both processes, of the second, of none."""
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    parameters[0].grad = torch.ones(1)
    if not crew.is_first:
        parameters[1].grad = torch.full((1,), 4.0)
    crew.sum_gradients(parameters)
    return [None if each.grad is None else each.grad.tolist() for each in parameters]


def reference_twice(crew: Crew, model: Path, folder: Path) -> list[float]:
    """What the reference gives three passes, asked for two of them first; each process sees a folder of its own."""
    base = SharedBase(model, torch.device("cpu"), FP32, crew=crew)
    batches = [make_pass([pair.item]) for pair in make_pairs(load_chat_tokens(model), 3)]
    cache = folder / str(crew.rank) / "reference.safetensors"
    reference_sums(base, batches[:2], cache, SILENT)
    return [float(value) for sums_N in reference_sums(base, batches, cache, SILENT) for value in sums_N]


KINDS = {"dpo": _dpo, "kto": _kto, "sft": _sft, "reward": _reward, "ppo": _ppo, "online_dpo": _online_dpo}
