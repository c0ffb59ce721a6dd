"""The training loop of reward models: adapters with heads on the shared base, from pairs. Reads from top to bottom.

Both kinds of model go through it; they differ in how a pair is read (`reading.py`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.algorithms import AnyRewardRecipe
from training.base.model import SharedBase
from training.errors import TooFewPairs
from training.examples.batches import Pass, make_pass, pack
from training.loops.steps import Run, Watch, mean_weight, plan_steps, train
from training.losses.reward import bradley_terry, centring
from training.rewards.reading import Reading, head_index, head_values, heads_of


@dataclass(frozen=True)
class RewardPass:
    """A forward pass over P pairs: continuations 2i and 2i+1 speak for the chosen and the rejected answer of pair i.

    head_P: the head that each pair teaches; label_P: how likely the chosen answer is the better one.
    """

    readings: tuple[Reading, ...]
    batch: Pass
    head_P: Tensor
    weights_P: Tensor
    label_P: Tensor
    margin_P: Tensor


def train_reward(
    model: SharedBase,
    readings: Sequence[Reading],
    recipe: AnyRewardRecipe,
    folder: Path,
    watch: Watch,
    *,
    every_s: float = 20,
) -> list[str]:
    """Train the recipe's ensemble on `model`, one adapter with its head after another; returns their names.

    Members differ by the seed of adapter and order. Each checkpoints into a folder of its own, at least
    `every_s` seconds apart. Raises TooFewPairs when a head has none, Diverged, OutOfMemory, or Stopped when `watch`
    says so (after a checkpoint).
    """
    heads = heads_of(recipe)
    usable = [reading for reading in readings if head_index(reading.pair.aspect, heads) is not None]
    check_every_head_learns(usable, heads)
    for number in range(recipe.ensemble):
        part = watch.between(number / recipe.ensemble, (number + 1) / recipe.ensemble)
        train_member(model, usable, recipe, folder, part, number=number, every_s=every_s)
    return [member_name(number) for number in range(recipe.ensemble)]


def member_name(number: int) -> str:
    """The adapter of an ensemble's member."""
    return f"reward-{number}"


def train_member(
    model: SharedBase,
    readings: Sequence[Reading],
    recipe: AnyRewardRecipe,
    folder: Path,
    watch: Watch,
    *,
    number: int,
    every_s: float,
) -> None:
    """Train one adapter with its head."""
    name, seed, heads = member_name(number), recipe.seed + 15_485_863 * number, heads_of(recipe)
    passes = [
        make_reward_pass([readings[i] for i in group], heads)
        for group in pack([reading.item.n_tokens for reading in readings], recipe.pass_tokens, recipe.batch_pairs)
    ]
    model.add_adapter(name, recipe.adapter, seed=seed)
    model.add_head(name, len(heads))
    unit = mean_weight([reading.pair for reading in readings])
    plan = plan_steps([len(p.readings) for p in passes], epochs=recipe.epochs, least=recipe.batch_pairs, seed=seed)

    def learn(step_number: int, smaller: bool) -> dict[str, float]:
        """Add up one step's gradients, pass by pass."""
        step = plan[step_number]
        total_weight = unit * sum(len(passes[i].readings) for i in step.passes)
        seen = model.crew.spread(
            [part for i in step.passes for part in (halves(passes[i], heads) if smaller else [passes[i]])],
            lambda each: learn_pass(model, name, each, recipe, total_weight),
            lambda: watch.check(f"before step {step_number + 1} of {len(plan)}"),
        )
        values = {key: torch.cat([part[key] for part in seen]) for key in seen[0]}
        return {"member": number, "epoch": step.epoch + 1, **summary(values)}

    parameters = {**model.parameters(name), **model.head_parameters(name)}
    run = Run(run_digest(readings, recipe, number), folder / name, recipe.optimizer, seed, every_s, crew=model.crew)
    train(parameters, len(plan), learn, run, watch)


def learn_pass(
    model: SharedBase, name: str, each: RewardPass, recipe: AnyRewardRecipe, total_weight: float
) -> dict[str, Tensor]:
    """Add the gradients of one pass to those of adapter `name` and its head, and return [P] what a point is made of.

    `total_weight` is what the weighted losses of the step are divided by.
    """
    rewards_NK = head_values(model, name, each.batch, recipe)
    chosen_P, rejected_P = own_head(rewards_NK, each.head_P)
    loss_P = bradley_terry(chosen_P, rejected_P, each.margin_P + recipe.margin, each.label_P)
    loss_P = loss_P + recipe.centring * centring(chosen_P, rejected_P)
    ((each.weights_P * loss_P).sum() / total_weight).backward()
    told = {"weight": each.weights_P, "loss": loss_P, "chosen": chosen_P, "rejected": rejected_P}
    return {key: value.detach() for key, value in told.items()}


def check_every_head_learns(readings: Sequence[Reading], heads: Sequence[str]) -> None:
    """TooFewPairs when a head would stay at the zeros that it began with."""
    taught = {head_index(reading.pair.aspect, heads) for reading in readings}
    if idle := [head for number, head in enumerate(heads) if number not in taught]:
        raise TooFewPairs(
            f"no pair teaches the reward model's {', '.join(idle) or 'only'} head; "
            "wait for votes on that aspect, or leave the head out of the recipe"
        )


def make_reward_pass(readings: Sequence[Reading], heads: Sequence[str]) -> RewardPass:
    pairs = [reading.pair for reading in readings]
    return RewardPass(
        tuple(readings),
        make_pass([reading.item for reading in readings]),
        torch.tensor([head_index(pair.aspect, heads) for pair in pairs]),
        torch.tensor([pair.weight for pair in pairs]),
        torch.tensor([pair.label for pair in pairs]),
        torch.tensor([pair.margin for pair in pairs]),
    )


def halves(each: RewardPass, heads: Sequence[str]) -> list[RewardPass]:
    """The same pairs in two passes, where there are two."""
    middle = len(each.readings) // 2
    if not middle:
        return [each]
    return [make_reward_pass(part, heads) for part in (each.readings[:middle], each.readings[middle:])]


def own_head(rewards_NK: Tensor, head_P: Tensor) -> tuple[Tensor, Tensor]:
    """[P], [P] rewards of chosen and rejected answers by the head that each pair teaches."""
    rewards_P2K = rewards_NK.view(len(head_P), 2, -1)
    rewards_P2 = rewards_P2K.gather(2, head_P[:, None, None].expand(-1, 2, 1))[:, :, 0]
    return rewards_P2[:, 0], rewards_P2[:, 1]


def run_digest(readings: Sequence[Reading], recipe: AnyRewardRecipe, number: int) -> str:
    """Names a member's run: what it learns from and how."""
    return hashlib.sha256(repr((tuple(readings), recipe.model_dump_json(), number)).encode()).hexdigest()


def summary(values: Mapping[str, Tensor]) -> dict[str, float]:
    """One step's curve point: means over its pairs; rewards in nats, their spread a standard deviation."""
    weights_P, chosen_P, rejected_P = values["weight"], values["chosen"], values["rejected"]
    rewards_N = torch.cat([chosen_P, rejected_P])
    return {
        "pairs": len(weights_P),
        "loss": float((weights_P * values["loss"]).sum() / weights_P.sum()),
        "accuracy": float((chosen_P > rejected_P).float().mean()),
        "reward_margin": float((chosen_P - rejected_P).mean()),
        "reward_mean": float(rewards_N.mean()),
        "reward_spread": float(rewards_N.std(correction=0)),
    }
