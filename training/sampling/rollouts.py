"""Answers of the policy in training, a round at a time: published as a version of its own, sampled from the engine.

The adapter between the on-policy loops and the gateway. Samples are kept in the job's folder: a job that was killed in
the middle of a round asks only for what is missing.
"""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from feedback.errors import FeedbackError
from feedback.ids import BASE_VERSION, Version
from feedback.policies import Policy, PolicyState
from training.algorithms import RolloutRecipe
from training.base.model import SharedBase
from training.errors import TrainingError
from training.examples.asked import Prompt
from training.examples.tokens import ChatTokens, TokenIds
from training.publishing.adapter_folders import Published, remove_rollouts
from training.publishing.publish import Origin, publish
from training.sampling.answers import Question, SampleStore
from training.sampling.gateway import Sample, SamplingSettings
from training.worker.attempt import Attempt, patiently

FOLDER = "rollouts"
"""Folder in the job's own, with what each round's policy answered."""

_LOOK_S = 0.5


@dataclass(frozen=True)
class Group:
    """All answers to one prompt of a round, as the engine sampled them; `place` is the prompt's in its round."""

    place: int
    prompt: TokenIds
    samples: tuple[Sample, ...]


class Rollouts(Protocol):
    """What the on-policy loops ask of an engine."""

    def begin(self, number: int, state: Mapping[str, Tensor]) -> None:
        """Start sampling round `number` (from 0) from the policy with this adapter. Returns at once."""

    def groups(self, number: int) -> Iterator[Group]:
        """The round's groups, each as soon as it is whole. TrainingError when the sampling failed."""


@dataclass(frozen=True)
class Asked:
    """What is answered in the rounds: prompts that nobody holds out, and how often."""

    prompts: Sequence[Prompt]
    recipe: RolloutRecipe
    seed: int

    def questions(self, number: int) -> list[Question]:
        """The questions of a round, those to one prompt next to each other."""
        n, first = self.recipe.answers, number * self.recipe.prompts
        chosen = round_prompts(len(self.prompts), self.recipe.prompts, number, self.seed)
        return [
            Question(self.prompts[i], 1 + place * n + nth)
            for place, i in enumerate(chosen, start=first)
            for nth in range(n)
        ]


class EngineRollouts:
    """Rounds sampled by the running engine, under a lower priority than anybody's chat."""

    def __init__(self, attempt: Attempt, model: SharedBase, tokens: ChatTokens, asked: Asked, origin: Origin) -> None:
        self._attempt = attempt
        self._model = model
        self._tokens = tokens
        self._asked = asked
        self._origin = origin
        self._rounds: dict[int, _Round] = {}
        recipe = asked.recipe
        settings = SamplingSettings(1.0, recipe.max_tokens, recipe.concurrency, logprobs=True)
        self._store = SampleStore(attempt.folder / FOLDER, settings)

    def begin(self, number: int, state: Mapping[str, Tensor]) -> None:
        """Publish, enter in the registry, and sample in a thread of its own; doing it again changes nothing."""
        if number in self._rounds:
            return
        version = BASE_VERSION if is_unchanged(state) else self._enter(number, state)
        self._rounds[number] = _Round(self._attempt, self._store, version, self._asked.questions(number))

    def groups(self, number: int) -> Iterator[Group]:
        """As Rollouts; Stopped when the attempt is to stop meanwhile."""
        n = self._asked.recipe.answers
        waiting: dict[int, dict[int, Sample]] = defaultdict(dict)
        sampled = self._rounds[number]
        for place, sample in sampled.samples():
            group = waiting[place // n]
            group[place % n] = sample
            if len(group) == n:
                prompt = self._tokens.prompt(sampled.questions[place].prompt)
                yield Group(place // n, prompt, tuple(group[nth] for nth in range(n)))

    def end(self) -> None:
        """Take all rounds' policies out of the registry and off the disk."""
        patiently(lambda: self._attempt.registry.end_rollouts(self._attempt.claim))
        remove_rollouts(self._attempt.settings.adapters, self._attempt.job.id)

    def _enter(self, number: int, state: Mapping[str, Tensor]) -> Version:
        attempt, adapters = self._attempt, self._attempt.settings.adapters
        published = publish(state, replace(self._origin, rollout=number), adapters, self._model, self._tokens)
        patiently(lambda: attempt.registry.enter_rollout(attempt.claim, self._policy(published), keep=0))
        remove_rollouts(adapters, attempt.job.id, keep=frozenset({published.version}))
        return published.version

    def _policy(self, published: Published) -> Policy:
        return Policy(
            version=published.version,
            counter=self._origin.counter,
            state=PolicyState.rollout,
            parent=BASE_VERSION,
            base_digest=self._origin.base_digest,
            adapter=published.folder.name,
            digest=published.digest,
            rank=self._origin.adapter.rank,
            job_id=self._attempt.job.id,
            created_at=time.time(),
        )


class _Round:
    """One round on its way: a thread asks, whoever reads `samples` gets them in the order in which they come."""

    def __init__(self, attempt: Attempt, store: SampleStore, version: Version, questions: list[Question]) -> None:
        self.questions = questions
        self._attempt = attempt
        self._come: queue.Queue[tuple[int, Sample] | Exception] = queue.Queue()
        arguments = (store, version)
        threading.Thread(target=self._sample, args=arguments, daemon=True, name=f"rollouts {version}").start()

    def samples(self) -> Iterator[tuple[int, Sample]]:
        """Each question's place and answer."""
        for _ in self.questions:
            come = self._next()
            if isinstance(come, Exception):
                raise come
            yield come

    def _next(self) -> tuple[int, Sample] | Exception:
        while True:
            self._attempt.check_stop()
            try:
                return self._come.get(timeout=_LOOK_S)
            except queue.Empty:
                continue

    def _sample(self, store: SampleStore, version: Version) -> None:
        gateway, within_s = self._attempt.gateway, self._attempt.settings.gate.load_s
        try:
            gateway.wait_until_loaded(version, within_s=within_s)
            store.collect(gateway, version, self.questions, lambda place, sample: self._come.put((place, sample)))
        except (TrainingError, FeedbackError) as error:
            self._come.put(error)
        except Exception as error:  # noqa: BLE001 - whoever waits for the answers is to know of anything
            self._come.put(RuntimeError(f"sampling {version} failed: {error!r}"))


def round_prompts(count: int, per_round: int, number: int, seed: int) -> list[int]:
    """Which of `count` prompts a round takes: the next ones of an endless row of shuffled passes over all of them."""
    chosen: list[int] = []
    for place in range(number * per_round, (number + 1) * per_round):
        lap, at = divmod(place, count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + 7_368_787 * (lap + 1)))
        chosen.append(int(order[at]))
    return chosen


def is_unchanged(state: Mapping[str, Tensor]) -> bool:
    """Whether an adapter still gives what its base gives: its B is zero."""
    return not any(tensor.any() for name, tensor in state.items() if "lora_B" in name)
