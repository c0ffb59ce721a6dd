"""The training loop of every loss on pairs: a policy adapter, the base as its reference. Reads from top to bottom."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from training.algorithms import (
    ConservativeDpoRecipe,
    DpoPositiveRecipe,
    DpoRecipe,
    HingeRecipe,
    IpoRecipe,
    NormalisedDpoRecipe,
    OrpoRecipe,
    PreferenceRecipe,
    RobustDpoRecipe,
    SimpoRecipe,
)
from training.base.model import SharedBase
from training.errors import WrongFirstLoss
from training.examples.batches import Pass, make_pass, pack
from training.examples.example import TokenPair
from training.loops.reference import REFERENCE, reference_sums
from training.loops.steps import ENTROPY_EVERY, POLICY, Run, Watch, mean_weight, plan_steps, train
from training.losses import preference
from training.losses.preference import PairLoss, PairScores, nll, soften

FIRST_LOSS_TOLERANCE = 1e-3
BEGINS_AT_LN_2 = (DpoRecipe, ConservativeDpoRecipe, RobustDpoRecipe, DpoPositiveRecipe, NormalisedDpoRecipe)


@dataclass(frozen=True)
class PairPass:
    """A forward pass over P pairs (answers 2i and 2i+1 are chosen and rejected of pair i).

    label_P: how likely the chosen answer is the better one; reference_N: summed log-probs under the reference, once
    they are known.
    """

    pairs: tuple[TokenPair, ...]
    batch: Pass
    weights_P: Tensor
    label_P: Tensor
    reference_N: Tensor

    def halves(self) -> "list[PairPass]":
        """The same pairs in two passes, where there are two."""
        if len(self.pairs) < 2:
            return [self]
        middle = len(self.pairs) // 2
        return [
            make_pair_pass(self.pairs[:middle], self.reference_N[: 2 * middle]),
            make_pair_pass(self.pairs[middle:], self.reference_N[2 * middle :]),
        ]


def train_preference(
    model: SharedBase,
    pairs: Sequence[TokenPair],
    recipe: PreferenceRecipe,
    folder: Path,
    watch: Watch,
    *,
    every_s: float = 20,
    start: Mapping[str, Tensor] | None = None,
    again: Sequence[TokenPair] = (),
    reference: Path | None = None,
) -> int:
    """Train the adapter POLICY on `model`, checkpointing into `folder` at least `every_s` seconds apart.

    It begins anew, or goes on from the state `start` of the one that is there. `again` are more pairs, which other runs
    learn from too: they go in passes of their own, so that what the reference gives them is computed once for all runs
    whose file `reference` is the same (the run's own when left out). Returns the number of steps of the whole run.
    Raises WrongFirstLoss, Diverged, OutOfMemory, or Stopped when `watch` says so (after a checkpoint).
    """
    together = [*again, *pairs]
    run = Run(run_digest(together, recipe), folder, recipe.optimizer, recipe.seed, every_s, crew=model.crew)
    passes = [*pack_pairs(again, recipe), *pack_pairs(pairs, recipe)]
    ahead = 1 / (1 + 3 * recipe.epochs)  # the reference's share of the work: a forward pass, no backward one
    if not knows_no_reference(recipe):
        passes = with_reference(model, passes, reference or folder / REFERENCE, watch.between(0, ahead))

    if start is None:
        model.add_adapter(POLICY, recipe.adapter, seed=recipe.seed)
    else:
        model.set_adapter_state(POLICY, start)
    unit = mean_weight(together)
    plan = plan_steps([len(p.pairs) for p in passes], epochs=recipe.epochs, least=recipe.batch_pairs, seed=recipe.seed)

    def learn(number: int, smaller: bool) -> dict[str, float]:
        """Add up one step's gradients, pass by pass."""
        step = plan[number]
        total_weight = unit * sum(len(passes[i].pairs) for i in step.passes)
        seen = model.crew.spread(
            [part for i in step.passes for part in (passes[i].halves() if smaller else [passes[i]])],
            lambda each: learn_pass(model, each, recipe, total_weight),
            lambda: watch.check(f"before step {number + 1} of {len(plan)}"),
        )
        values = {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
        # In halves the sums differ by bf16's rounding from the reference's, which were made of whole passes.
        if number == 0 and start is None and not smaller and isinstance(recipe, BEGINS_AT_LN_2):
            check_first_loss(float(values["preference"].mean()))
        return {"epoch": step.epoch + 1, **summary(values, recipe)}

    train(model.parameters(POLICY), len(plan), learn, run, watch.between(ahead, 1))
    return len(plan)


def learn_pass(model: SharedBase, each: PairPass, recipe: PreferenceRecipe, total_weight: float) -> dict[str, Tensor]:
    """Add the gradients of one pass to POLICY's, and return what a curve point is made of: [P], the entropy [E].

    `total_weight` is what the weighted losses of the step are divided by.
    """
    with model.policy(POLICY):
        logprob_S, entropy_E = (given.cpu() for given in model.logprobs_and_entropy(each.batch, ENTROPY_EVERY))
    scores = score(each, each.batch.sum_answers(logprob_S))
    preference_P = soften(loss_of(recipe), scores, each.label_P)
    nll_P = soften(nll, scores, each.label_P)
    loss_P = preference_P + recipe.nll_weight * nll_P
    ((each.weights_P * loss_P).sum() / total_weight).backward()
    values = {**told(each, scores, preference_P, nll_P, loss_P), "margin": margin_of(recipe)(scores)}
    values |= {"entropy": entropy_E}
    return {name: value.detach() for name, value in values.items()}


def loss_of(recipe: PreferenceRecipe) -> PairLoss:
    """The loss that a recipe names, with its settings filled in."""
    match recipe:
        case DpoRecipe():
            return partial(preference.dpo, beta=recipe.beta)
        case IpoRecipe():
            return partial(preference.ipo, beta=recipe.beta)
        case HingeRecipe():
            return partial(preference.hinge, beta=recipe.beta)
        case ConservativeDpoRecipe():
            return partial(preference.conservative_dpo, beta=recipe.beta, flip_rate=recipe.flip_rate)
        case RobustDpoRecipe():
            return partial(preference.robust_dpo, beta=recipe.beta, flip_rate=recipe.flip_rate)
        case DpoPositiveRecipe():
            return partial(preference.dpo_positive, beta=recipe.beta, penalty=recipe.penalty)
        case NormalisedDpoRecipe():
            return partial(preference.normalised_dpo, beta=recipe.beta)
        case OrpoRecipe():
            return partial(preference.orpo, odds_weight=recipe.odds_weight)
        case SimpoRecipe():
            return partial(preference.simpo, beta=recipe.beta, gamma=recipe.gamma)


def margin_of(recipe: PreferenceRecipe) -> PairLoss:
    """How far the recipe's loss finds the chosen answer ahead: what it pushes up."""
    match recipe:
        case IpoRecipe() | NormalisedDpoRecipe():
            return partial(preference.margin_per_token, beta=recipe.beta)
        case OrpoRecipe():
            return preference.log_odds_ratio
        case SimpoRecipe():
            return partial(preference.mean_margin, beta=recipe.beta)
        case _:
            return partial(preference.implicit_margin, beta=recipe.beta)


def knows_no_reference(recipe: PreferenceRecipe) -> bool:
    """Whether the loss is of the policy's own log-probs alone."""
    return isinstance(recipe, OrpoRecipe | SimpoRecipe)


def pack_pairs(pairs: Sequence[TokenPair], recipe: PreferenceRecipe) -> list[PairPass]:
    """Pairs in passes of at most `pass_tokens`, always the same ones together."""
    return [
        make_pair_pass([pairs[i] for i in group], torch.zeros(2 * len(group)))
        for group in pack([pair.item.n_tokens for pair in pairs], recipe.pass_tokens, recipe.batch_pairs)
    ]


def make_pair_pass(pairs: Sequence[TokenPair], reference_N: Tensor) -> PairPass:
    return PairPass(
        tuple(pairs),
        make_pass([pair.item for pair in pairs]),
        torch.tensor([pair.weight for pair in pairs]),
        torch.tensor([pair.label for pair in pairs]),
        reference_N,
    )


def with_reference(model: SharedBase, passes: Sequence[PairPass], cache: Path, watch: Watch) -> list[PairPass]:
    """The passes with what the reference gives their answers, from the cache where it is there."""
    sums = reference_sums(model, [each.batch for each in passes], cache, watch)
    return [replace(each, reference_N=sums_N) for each, sums_N in zip(passes, sums, strict=True)]


def score(each: PairPass, sums_N: Tensor) -> PairScores:
    """What the losses are told: answers 2i and 2i+1 are chosen and rejected of pair i."""
    tokens_N, reference_N = each.batch.lengths(), each.reference_N
    return PairScores(sums_N[0::2], sums_N[1::2], reference_N[0::2], reference_N[1::2], tokens_N[0::2], tokens_N[1::2])


def check_first_loss(loss: float) -> None:
    """WrongFirstLoss unless DPO's loss is what it must be while the policy still equals the reference."""
    if not abs(loss - math.log(2)) <= FIRST_LOSS_TOLERANCE:  # NaN too
        raise WrongFirstLoss(
            f"the first DPO loss is {loss:.6f}, it must be ln 2 = {math.log(2):.6f} within {FIRST_LOSS_TOLERANCE:g}: "
            "policy and reference differ before training; delete the job's folder if the base model was replaced"
        )


def run_digest(pairs: Sequence[TokenPair], recipe: PreferenceRecipe) -> str:
    """Names a run: what it learns from and how."""
    return hashlib.sha256(repr((tuple(pairs), recipe.model_dump_json())).encode()).hexdigest()


def told(each: PairPass, scores: PairScores, preference_P: Tensor, nll_P: Tensor, loss_P: Tensor) -> dict[str, Tensor]:
    """[P] everything a curve point is made of."""
    return {
        "weight": each.weights_P,
        "loss": loss_P,
        "preference": preference_P,
        "nll": nll_P,
        "chosen": scores.chosen_P,
        "rejected": scores.rejected_P,
        "tokens": scores.chosen_tokens_P,
        "both_tokens": scores.chosen_tokens_P + scores.rejected_tokens_P,
        "less_likely": reference_gap(scores),
    }


def reference_gap(scores: PairScores) -> Tensor:
    """[P] how much less likely than the reference the policy finds both answers together, in nats."""
    return scores.reference_chosen_P - scores.chosen_P + scores.reference_rejected_P - scores.rejected_P


def summary(values: Mapping[str, Tensor], recipe: PreferenceRecipe) -> dict[str, float]:
    """One step's curve point: means over its pairs; log-probs are summed over an answer, in nats.

    `reference_kl` (nats a token) is the KL of the reference to the policy as far as the answers are samples of the
    reference, as those of the base are; answers of an adapter make it an estimate.
    """
    weights_P = values["weight"]
    known = {} if knows_no_reference(recipe) else values
    kl = {"reference_kl": float(known["less_likely"].sum() / known["both_tokens"].sum())} if known else {}
    return {
        **kl,
        "entropy": float(values["entropy"].mean()),
        "pairs": len(weights_P),
        "loss": float((weights_P * values["loss"]).sum() / weights_P.sum()),
        "nll": float(values["nll"].mean()),
        "margin": float(values["margin"].mean()),
        "chosen_logprob": float(values["chosen"].mean()),
        "rejected_logprob": float(values["rejected"].mean()),
        "accuracy": float((values["margin"] > 0).float().mean()),
        "answer_tokens": float(values["tokens"].mean()),
    }
