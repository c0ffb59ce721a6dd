"""Our side of `make bench-ppo`: policies published to a running engine, its answers rewarded and learned from."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from torch import Tensor

from tests.bench.ppo_shared import CLIP, KL_WEIGHT, TRACE, VALUE_WEIGHT, Told
from tests.bench.sides import ADAPTER, LEARNING_RATE, Task, load_base, peak_mib, watch
from tests.services import start_engine, start_gateway, start_redis
from tests.training.attempts import make_attempt
from training.base.loading import load_chat_tokens
from training.loops.policy_gradient import train_policy_gradient
from training.loops.steps import Point
from training.publishing.publish import Origin
from training.recipe import parse_recipe
from training.rewards.rewarding import scorer_of
from training.sampling.rollouts import Asked, EngineRollouts, Group, Rollouts

MIB = 2**20


def ours_recomputing(task: Task) -> Told:
    """Ours with training.recompute_activations."""
    return ours(task, recompute=True)


def ours(task: Task, *, recompute: bool = False) -> Told:
    """What a job does: policies published to the running engine, its answers rewarded, learned from, checkpoints."""
    model = Path(task["model"])
    recipe = parse_recipe(ours_recipe(task))
    points: list[Point] = []
    with ExitStack() as held:
        home = Path(held.enter_context(tempfile.TemporaryDirectory()))
        engine = held.enter_context(start_engine(home, model))
        engine_processes = psutil.Process().children(recursive=True)
        redis_url = held.enter_context(start_redis(home / "redis"))
        gateway = held.enter_context(start_gateway(home, redis_url, engine.url, model=model))
        attempt = make_attempt(gateway, model, "ppo", "bench")
        base, tokens = load_base(task, recompute=recompute), load_chat_tokens(model)
        score = scorer_of(Path(task["reward"]), base, tokens, attempt.job.base_digest, watch([]))
        origin = Origin(
            attempt.registry.reserve(attempt.claim), attempt.job.base_digest, attempt.job.id, "ppo", ADAPTER
        )
        prompts = [({"role": "user", "content": text},) for text in task["prompts"]]
        rollouts = Waited(EngineRollouts(attempt, base, tokens, Asked(prompts, recipe.rollouts, 0), origin))
        start = time.perf_counter()
        train_policy_gradient(base, recipe, rollouts, score, attempt.folder / "runs", watch(points))
        seconds = time.perf_counter() - start
        everything = psutil.Process().children(recursive=True)
        return Told(
            seconds=seconds,
            waiting_s=rollouts.seconds,
            peak_mib=peak_mib(),
            steps=len(points),
            answer_tokens=points[0]["answer_tokens"],
            reward_mean=points[0]["reward_mean"],
            engine_mib=resident_mib(engine_processes),
            serving_mib=resident_mib(everything),
        )


def ours_recipe(task: Task) -> dict[str, Any]:
    return {
        "algorithm": "ppo",
        "epochs": task["epochs"],
        "pass_tokens": task["pass_tokens"],
        "minibatches": 1,
        "kl_weight": KL_WEIGHT,
        "value_weight": VALUE_WEIGHT,
        "value_clip": CLIP,
        "clip_low": CLIP,
        "clip_high": CLIP,
        "trace": TRACE,
        "adapter": ADAPTER.model_dump(),
        "optimizer": {"learning_rate": LEARNING_RATE},
        "rollouts": {
            "rounds": task["rounds_each"],
            "prompts": len(task["prompts"]),
            "answers": task["answers"],
            "max_tokens": task["max_tokens"],
            "concurrency": len(task["prompts"]) * task["answers"],
        },
    }


class Waited:
    """Rollouts that count the seconds in which they were waited for: publishing, loading and sampling."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.seconds = 0.0
        self._rollouts = rollouts

    def begin(self, number: int, state: Mapping[str, Tensor]) -> None:
        start = time.perf_counter()
        self._rollouts.begin(number, state)
        self.seconds += time.perf_counter() - start

    def groups(self, number: int) -> Iterator[Group]:
        coming = self._rollouts.groups(number)
        while True:
            start = time.perf_counter()
            group = next(coming, None)
            self.seconds += time.perf_counter() - start
            if group is None:
                return
            yield group


def resident_mib(processes: list[psutil.Process]) -> float:
    """What they hold together; pages that several hold count once."""
    return float(sum(each.memory_full_info().pss for each in processes if each.is_running()) / MIB)
