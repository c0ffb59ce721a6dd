"""An engine for the tiny model: samples token by token under any adapter, with the log-probs of what it drew."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from feedback.ids import BASE_VERSION
from tests.training.stand_in_gateway import Sampler
from training.algorithms import AdapterRecipe
from training.base.model import SharedBase
from training.examples.batches import Item, make_pass
from training.examples.tokens import ChatTokens, TokenIds
from training.sampling.gateway import Sample
from training.sampling.rollouts import Asked, Group

ADAPTER = AdapterRecipe(rank=8, alpha=16)


class TinyEngine:
    """Adapters by name on one base; None is the bare base."""

    def __init__(self, model: Path, tokens: ChatTokens) -> None:
        self._base = SharedBase(model, torch.device("cpu"))
        self._base.add_adapter("unused", ADAPTER, seed=0)
        self._tokens = tokens
        self._loaded: set[str] = set()
        self._turn = threading.Lock()

    def load(self, name: str, state: Mapping[str, Tensor]) -> None:
        with self._turn:
            if name in self._loaded:
                self._base.drop_adapter(name)
            self._base.adopt_adapter(name, ADAPTER, state)
            self._loaded.add(name)

    def load_folder(self, folder: Path) -> None:
        """An adapter as it was published, under its folder's name."""
        if folder.name not in self._loaded:
            self.load(folder.name, load_file(folder / "adapter_model.safetensors"))

    def sampler(self, adapters: Path) -> Sampler:
        """Answers for a stand-in gateway, from the versions published in a folder."""

        def sample(version: str, messages: list[dict[str, Any]], seed: int, max_tokens: int) -> Sample:
            name = None if version == BASE_VERSION else version
            if name is not None:
                self.load_folder(adapters / name)
            return self.answer(name, self._tokens.prompt(messages), [seed], max_tokens)[0]

        return sample

    def answer(self, name: str | None, prompt: TokenIds, seeds: Sequence[int], max_tokens: int) -> list[Sample]:
        """An answer for each seed, drawn at temperature 1 until the end token or `max_tokens`."""
        chances = [torch.Generator().manual_seed(seed) for seed in seeds]
        ids: list[list[int]] = [[] for _ in seeds]
        logprobs: list[list[float]] = [[] for _ in seeds]
        with self._turn, torch.no_grad(), self._base.policy(name):
            for _ in range(max_tokens):
                open_ = [i for i, own in enumerate(ids) if not own or own[-1] != self._tokens.end_id]
                if not open_:
                    break
                logits_SV = self._base.logits(make_pass([Item(prompt, tuple((*ids[i], 0) for i in open_))]))
                ends = torch.tensor([len(ids[i]) + 1 for i in open_]).cumsum(0) - 1
                for i, logprobs_V in zip(open_, torch.log_softmax(logits_SV[ends], dim=-1), strict=True):
                    token = int(torch.multinomial(logprobs_V.exp(), 1, generator=chances[i]))
                    ids[i].append(token)
                    logprobs[i].append(float(logprobs_V[token]))
        return [self._sample(*each) for each in zip(ids, logprobs, strict=True)]

    def first_token(self, name: str | None, prompt: TokenIds) -> Tensor:
        """[V] how likely each token is to open the answer."""
        with self._turn, torch.no_grad(), self._base.policy(name):
            return torch.softmax(self._base.logits(make_pass([Item(prompt, ((0,),))]))[0], dim=-1)

    def _sample(self, ids: list[int], logprobs: list[float]) -> Sample:
        reason = "stop" if ids[-1] == self._tokens.end_id else "length"
        return Sample(self._tokens.text(ids), tuple(ids), reason, tuple(logprobs))


class TinyRollouts:
    """Rounds answered by a TinyEngine on the spot. `begun` are those that were begun, each with its policy.

    `serves` is False for an engine that has lost its adapters and says nothing of it; `off` is added to all log-probs.
    """

    def __init__(
        self, engine: TinyEngine, tokens: ChatTokens, asked: Asked, *, serves: bool = True, off: float = 0.0
    ) -> None:
        self.begun: dict[int, Mapping[str, Tensor]] = {}
        self._off = off
        self._engine = engine
        self._tokens = tokens
        self._asked = asked
        self._serves = serves

    def begin(self, number: int, state: Mapping[str, Tensor]) -> None:
        if number in self.begun:
            return
        self.begun[number] = state
        self._engine.load(f"round-{number}", state)

    def groups(self, number: int) -> Iterator[Group]:
        recipe, questions = self._asked.recipe, self._asked.questions(number)
        name = f"round-{number}" if self._serves else None
        for place in range(recipe.prompts):
            own = questions[place * recipe.answers : (place + 1) * recipe.answers]
            prompt = self._tokens.prompt(own[0].prompt)
            samples = self._engine.answer(name, prompt, [each.seed for each in own], recipe.max_tokens)
            yield Group(place, prompt, tuple(self._shifted(each) for each in samples))

    def _shifted(self, sample: Sample) -> Sample:
        return replace(sample, logprobs=tuple(each + self._off for each in sample.logprobs))
