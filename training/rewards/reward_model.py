"""A reward model in process: rewards of answers, preferences between two, and what they are worth on held-out pairs."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from feedback.events import OVERALL
from training.algorithms import AnyRewardRecipe, PairwiseRewardRecipe
from training.base.model import SharedBase
from training.errors import RewardRefused
from training.examples.batches import Item, make_pass, pack
from training.examples.example import TokenPair
from training.examples.tokens import ChatTokens, TokenIds
from training.rewards.calibration import Calibration, fit_temperature, report
from training.rewards.reading import head_index, head_values, heads_of, read_pairs
from training.rewards.reward_rule import join


@dataclass(frozen=True)
class Answered:
    """One answer to one prompt, as the engine's token ids."""

    prompt: TokenIds
    answer: TokenIds


@dataclass(frozen=True)
class Reward:
    """`value`: the heads' joined reward, its mean over the ensemble. `spread`: its standard deviation (0 for one)."""

    value: float
    spread: float
    heads: dict[str, float]


@dataclass(frozen=True)
class Preference:
    """How far the first answer is ahead of the second (nats), over the ensemble, and how likely it is preferred."""

    margin: float
    spread: float
    probability: float


class RewardModel:
    """Frozen adapters with their heads (`members`) on a base in memory.

    The same items asked for together give the same numbers every time. Asked for in other company they differ by the
    rounding of the base's products (about 0.01 in bf16): passes have other shapes then.
    """

    def __init__(
        self,
        base: SharedBase,
        tokens: ChatTokens,
        recipe: AnyRewardRecipe,
        members: Sequence[str],
        *,
        temperature: float = 1.0,
    ) -> None:
        self.base = base
        self.tokens = tokens
        self.recipe = recipe
        self.members = tuple(members)
        self.temperature = temperature
        self.heads = heads_of(recipe)

    @property
    def is_pairwise(self) -> bool:
        return isinstance(self.recipe, PairwiseRewardRecipe)

    def with_temperature(self, temperature: float) -> "RewardModel":
        return RewardModel(self.base, self.tokens, self.recipe, self.members, temperature=temperature)

    def rewards(self, asked: Sequence[Answered], stopping: Callable[[], None] = lambda: None) -> list[Reward]:
        """One reward for each answer, in their order; a prompt is read once for all its answers in a pass.

        RewardRefused for a pairwise model, which tells answers apart but rewards none alone.
        """
        if self.is_pairwise:
            raise RewardRefused("this is a pairwise reward model: it compares two answers, it rewards none alone")
        parts = by_prompt(asked, self.recipe.pass_tokens)
        items = [Item(asked[own[0]].prompt, tuple(asked[i].answer for i in own)) for own in parts]
        values_MNK = self._values(items, stopping)
        order = [place for own in parts for place in own]
        values_MNK = values_MNK[:, torch.tensor(order, dtype=torch.long).argsort()]
        joined_MN = torch.stack([self._joined(values_NK) for values_NK in values_MNK])
        means_NK = values_MNK.mean(dim=0)
        return [
            Reward(*_over_members(joined_MN[:, n]), dict(zip(self.heads, means_NK[n].tolist(), strict=True)))
            for n in range(len(asked))
        ]

    def preferences(
        self, pairs: Sequence[TokenPair], stopping: Callable[[], None] = lambda: None, *, joined: bool = False
    ) -> list[Preference]:
        """For each pair how far its chosen answer is ahead: in the aspect it was compared in where that has a head of
        its own, else (and wherever it is to be `joined`) in the joined reward."""
        return self.preferences_by(self.pair_values(pairs, stopping), pairs, joined=joined)

    def pair_values(self, pairs: Sequence[TokenPair], stopping: Callable[[], None] = lambda: None) -> Tensor:
        """[M, 2P, K] what each head of each member gives every pair's chosen answer, and then its rejected one."""
        readings = read_pairs(pairs, self.recipe, self.tokens)
        return self._values([reading.item for reading in readings], stopping)

    def preferences_by(
        self, values_MNK: Tensor, pairs: Sequence[TokenPair], *, joined: bool = False
    ) -> list[Preference]:
        """The preferences that the pairs' values stand for."""
        joined_MN = torch.stack([self._joined(values_NK) for values_NK in values_MNK])
        found = []
        for n, pair in enumerate(pairs):
            by_rule = joined or len(self.heads) == 1
            head = None if by_rule else head_index(pair.aspect, self.heads)
            rewards_MN = joined_MN if head is None else values_MNK[:, :, head]
            margin, spread = _over_members(rewards_MN[:, 2 * n] - rewards_MN[:, 2 * n + 1])
            found.append(Preference(margin, spread, _sigmoid(margin / self.temperature)))
        return found

    def _joined(self, values_NK: Tensor) -> Tensor:
        """[N]"""
        if isinstance(self.recipe, PairwiseRewardRecipe):
            return values_NK[:, 0]
        return join(values_NK, self.heads, self.recipe.rule)

    def _values(self, items: Sequence[Item], stopping: Callable[[], None]) -> Tensor:
        """[M, N, K] fp32 rewards of N continuations, in the order of the items, by M members with K heads."""
        starts = list(_starts(items))
        values_MNK = torch.empty(len(self.members), sum(len(item.answers) for item in items), len(self.heads))
        for group in pack([item.n_tokens for item in items], self.recipe.pass_tokens, max(1, len(items))):
            batch = make_pass([items[i] for i in group])
            places = torch.tensor([starts[i] + k for i in group for k in range(len(items[i].answers))])
            for number, member in enumerate(self.members):
                stopping()
                with torch.no_grad():
                    values_MNK[number, places] = head_values(self.base, member, batch, self.recipe)
        return values_MNK


def by_prompt(asked: Sequence[Answered], pass_tokens: int) -> list[list[int]]:
    """The places of answers that share one reading of their prompt: as many of each prompt's as a pass takes."""
    parts: list[list[int]] = []
    open_parts: dict[TokenIds, tuple[list[int], int]] = {}
    for place, each in enumerate(asked):
        part, room = open_parts.get(each.prompt, ([], 0))
        if not part or len(each.answer) > room:
            part, room = [], pass_tokens - len(each.prompt)
            parts.append(part)
        part.append(place)
        open_parts[each.prompt] = part, room - len(each.answer)
    return parts


@dataclass(frozen=True)
class Assessment:
    """What a reward model is worth: its temperature, and its report on held-out pairs."""

    calibration: Calibration
    report: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {"calibration": {**asdict(self.calibration), "at_bound": self.calibration.at_bound}, **self.report}


def assess(
    model: RewardModel,
    calibration: Sequence[TokenPair],
    held_out: Sequence[TokenPair],
    stopping: Callable[[], None] = lambda: None,
) -> Assessment:
    """Fit the temperature on pairs of its own, and judge on others. Ties say nothing here and are left out.

    Where there are several heads, each is judged on its aspect too (`heads`, those with a pair to judge by), and the
    reward that they are joined to on the pairs that were compared as a whole (`joined`).
    """
    decided, judged = [p for p in calibration if p.label > 0.5], [p for p in held_out if p.label > 0.5]
    fitted = fit_temperature([found.margin for found in model.preferences(decided, stopping)] if decided else [])
    if not judged:
        return Assessment(fitted, {"report": None})

    def told_of(found: Sequence[Preference], places: Sequence[int]) -> dict[str, Any]:
        longer = [float(len(judged[n].chosen) - len(judged[n].rejected)) for n in places]
        told = report([found[n].margin for n in places], longer, fitted.temperature).as_json()
        return {**told, "spread": sum(found[n].spread for n in places) / len(places)}

    values_MNK = model.pair_values(judged, stopping)
    found = model.preferences_by(values_MNK, judged)
    told = told_of(found, range(len(judged)))
    if len(model.heads) > 1:
        own = {head: [n for n, pair in enumerate(judged) if pair.aspect == head] for head in model.heads}
        told["heads"] = {head: told_of(found, places) for head, places in own.items() if places}
        if whole := [n for n, pair in enumerate(judged) if pair.aspect == OVERALL]:
            told["joined"] = told_of(model.preferences_by(values_MNK, judged, joined=True), whole)
    return Assessment(fitted, {"report": told})


def _over_members(values_M: Tensor) -> tuple[float, float]:
    """Mean and standard deviation (of a sample) over an ensemble."""
    spread = float(values_M.double().std()) if len(values_M) > 1 else 0.0
    return float(values_M.double().mean()), spread


def _starts(items: Sequence[Item]) -> Iterator[int]:
    """Where each item's continuations begin among all."""
    start = 0
    for item in items:
        yield start
        start += len(item.answers)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
