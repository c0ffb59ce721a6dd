"""Pairs of the policy's own answers, chosen by their rewards. Pure."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from training.algorithms import OnlinePreferenceRecipe
from training.examples.example import TokenPair
from training.examples.tokens import TokenIds


def best_and_worst(rewards: Sequence[float]) -> list[tuple[int, int]]:
    """The places of the best and the worst answer."""
    return [(rewards.index(max(rewards)), rewards.index(min(rewards)))]


def by_rejection(rewards: Sequence[float], temperature: float, chance: torch.Generator) -> list[tuple[int, int]]:
    """Pairs among answers that rejection sampling accepts: half of them, two at least, the better one first.

    A candidate is accepted with probability exp((r − r_max) / T), until there are enough: as if they came from the
    best policy that the rewards and the KL allow. Liu et al. 2024 (arXiv 2309.06657), algorithm 1.
    """
    accepted: list[int] = []
    left = list(range(len(rewards)))
    enough = max(2, len(rewards) // 2)
    while len(accepted) < enough and left:
        most = max(rewards[i] for i in left)
        for i in [left[j] for j in torch.randperm(len(left), generator=chance).tolist()]:
            if len(accepted) == enough:
                break
            if float(torch.rand((), generator=chance)) < math.exp((rewards[i] - most) / temperature):
                accepted.append(i)
                left.remove(i)
    couples = zip(accepted[0::2], accepted[1::2], strict=False)
    return [(a, b) if rewards[a] >= rewards[b] else (b, a) for a, b in couples]


def form_pairs(
    groups: Sequence[tuple[TokenIds, Sequence[TokenIds], Sequence[float]]], recipe: OnlinePreferenceRecipe, number: int
) -> list[TokenPair]:
    """Pairs of round `number`, from each prompt with its answers and their rewards (nats).

    Equal answers, and pairs whose rewards differ by less than the recipe's least margin, teach nothing and are left
    out.
    """
    chance = torch.Generator().manual_seed(recipe.seed + 32_452_843 * (number + 1))
    pairs: list[TokenPair] = []
    for place, (prompt, answers, rewards) in enumerate(groups):
        for better, worse in _chosen(rewards, recipe, chance):
            if answers[better] != answers[worse] and rewards[better] - rewards[worse] > recipe.least_margin:
                name = f"round-{number}-{place}-{better}-{worse}"
                pairs.append(TokenPair(name, name, prompt, answers[better], answers[worse]))
    return pairs


def _chosen(
    rewards: Sequence[float], recipe: OnlinePreferenceRecipe, chance: torch.Generator
) -> Iterator[tuple[int, int]]:
    if len(rewards) < 2:
        return
    if recipe.form == "rejection":
        yield from by_rejection(rewards, recipe.temperature, chance)
    else:
        yield from best_and_worst(rewards)


def mix(
    votes: Sequence[TokenPair], own: Sequence[TokenPair], votes_share: float
) -> tuple[list[TokenPair], list[TokenPair]]:
    """People's votes, and the policy's own pairs at such a weight that the votes have `votes_share` of all of it.

    Where there is but one of them, it stays as it is; no votes at all where their share is 0.
    """
    if not votes_share:
        return [], list(own)
    if not votes or not own:
        return list(votes), list(own)
    said = sum(pair.weight for pair in votes)
    weight = said * (1 - votes_share) / votes_share / len(own)
    return list(votes), [replace(pair, weight=weight) for pair in own]
