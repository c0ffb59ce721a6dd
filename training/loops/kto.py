"""The KTO training loop: single answers with thumbs, the base as reference. Reads from top to bottom."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from training.algorithms import KtoRecipe
from training.base.model import SharedBase
from training.examples.batches import Item, Pass, make_pass, pack
from training.examples.example import TokenAnswer
from training.examples.tokens import TokenIds
from training.loops.reference import REFERENCE, reference_sums
from training.loops.steps import ENTROPY_EVERY, POLICY, Run, Watch, mean_weight, plan_steps, train
from training.losses.kto import kto, mismatched_kl


@dataclass(frozen=True)
class ThumbPass:
    """A forward pass over N answers, and one over the same prompts with strays: answers that belong to other prompts.

    reference_N and stray_reference_N: summed log-probs of both under the reference, once they are known.
    """

    thumbs: tuple[TokenAnswer, ...]
    strays: tuple[Item, ...]
    batch: Pass
    stray_batch: Pass
    reference_N: Tensor
    stray_reference_N: Tensor

    def halves(self) -> "list[ThumbPass]":
        """The same answers in two passes, where there are two."""
        middle = len(self.thumbs) // 2
        ends = [(0, middle), (middle, len(self.thumbs))] if middle else [(0, len(self.thumbs))]
        return [
            replace(
                make_thumb_pass(self.thumbs[start:end], self.strays[start:end]),
                reference_N=self.reference_N[start:end],
                stray_reference_N=self.stray_reference_N[start:end],
            )
            for start, end in ends
        ]


def train_kto(
    model: SharedBase,
    thumbs: Sequence[TokenAnswer],
    recipe: KtoRecipe,
    folder: Path,
    watch: Watch,
    *,
    every_s: float = 20,
) -> None:
    """Train the adapter POLICY on `model`, checkpointing into `folder` at least `every_s` seconds apart.

    Raises Diverged, OutOfMemory, or Stopped when `watch` says so (after a checkpoint).
    """
    name = hashlib.sha256(repr((tuple(thumbs), recipe.model_dump_json())).encode()).hexdigest()
    run = Run(name, folder, recipe.optimizer, recipe.seed, every_s, crew=model.crew)
    passes = pack_thumbs(thumbs, recipe)
    ahead = 2 / (2 + 4 * recipe.epochs)  # two forward passes, against two and a backward one in every epoch
    passes = with_reference(model, passes, folder / REFERENCE, watch.between(0, ahead))

    model.add_adapter(POLICY, recipe.adapter, seed=recipe.seed)
    unit = mean_weight(thumbs)
    plan = plan_steps(
        [len(p.thumbs) for p in passes], epochs=recipe.epochs, least=recipe.batch_thumbs, seed=recipe.seed
    )

    def learn(number: int, smaller: bool) -> dict[str, float]:
        """Estimate z₀ over the whole step, then add up its gradients, pass by pass."""
        step = plan[number]
        parts = [part for i in step.passes for part in (passes[i].halves() if smaller else [passes[i]])]
        check = partial(watch.check, f"before step {number + 1} of {len(plan)}")
        kl = mismatched_kl(torch.cat(model.crew.spread(parts, lambda each: stray_ratios(model, each), check)))
        total_weight = unit * sum(len(each.thumbs) for each in parts)
        seen = model.crew.spread(parts, lambda each: learn_pass(model, each, recipe, kl, total_weight), check)
        values = {key: torch.cat([part[key] for part in seen]) for key in seen[0]}
        up_N = values["up"] == 1
        return {
            "epoch": step.epoch + 1,
            "thumbs": len(up_N),
            "loss": float(values["loss"].sum()) / total_weight,
            "nll": _mean(values["nll"][up_N]),
            "reference_kl": -float(values["ratio"].sum() / values["tokens"].sum()),
            "kto_baseline": float(kl),
            "entropy": float(values["entropy"].mean()),
            "margin": recipe.beta * (_mean(values["ratio"][up_N]) - _mean(values["ratio"][~up_N])),
            "chosen_logprob": _mean(values["logprob"][up_N]),
            "rejected_logprob": _mean(values["logprob"][~up_N]),
            "answer_tokens": float(values["tokens"].mean()),
        }

    train(model.parameters(POLICY), len(plan), learn, run, watch.between(ahead, 1))


def stray_ratios(model: SharedBase, each: ThumbPass) -> Tensor:
    """[N] log-ratios of POLICY to the reference on the strays, of which z₀ is estimated; without a gradient."""
    with torch.no_grad(), model.policy(POLICY):
        sums_N = each.stray_batch.sum_answers(model.logprobs(each.stray_batch).cpu())
    return sums_N - each.stray_reference_N


def learn_pass(
    model: SharedBase, each: ThumbPass, recipe: KtoRecipe, kl: Tensor, total_weight: float
) -> dict[str, Tensor]:
    """Add the gradients of one pass to POLICY's, and return what a curve point is made of: [N], the entropy [E].

    `kl` is the step's z₀, `total_weight` what its weighted losses are divided by; the weights of the two sides are no
    part of it, so that a step of one side alone counts by that side's.
    """
    with model.policy(POLICY):
        logprob_S, entropy_E = (given.cpu() for given in model.logprobs_and_entropy(each.batch, ENTROPY_EVERY))
    sums_N = each.batch.sum_answers(logprob_S)
    up_N, weights_N = ups(each), weights(each, recipe)
    kto_N = kto(sums_N - each.reference_N, kl, up_N, recipe.beta)
    nll_N = -up_N * sums_N / each.batch.lengths()
    loss_N = kto_N + recipe.nll_weight * nll_N
    ((weights_N * loss_N).sum() / total_weight).backward()
    found = {"loss": weights_N * loss_N, "up": up_N, "logprob": sums_N, "ratio": sums_N - each.reference_N}
    found |= {"nll": nll_N, "tokens": each.batch.lengths(), "entropy": entropy_E}
    return {key: value.detach() for key, value in found.items()}


def pack_thumbs(thumbs: Sequence[TokenAnswer], recipe: KtoRecipe) -> list[ThumbPass]:
    """Thumbs in passes of at most `pass_tokens`, each with its stray."""
    strays = make_strays(thumbs, recipe.max_example_tokens)
    longest = [max(thumb.item.n_tokens, stray.n_tokens) for thumb, stray in zip(thumbs, strays, strict=True)]
    return [
        make_thumb_pass([thumbs[i] for i in group], [strays[i] for i in group])
        for group in pack(longest, recipe.pass_tokens, recipe.batch_thumbs)
    ]


def make_strays(thumbs: Sequence[TokenAnswer], max_tokens: int) -> list[Item]:
    """Every thumb's prompt with an answer to another prompt, each answer once: that of the thumb before it where all
    prompts differ.

    Thumbs of one prompt are laid together, and the answers move on by the largest such group: both sides of a
    comparison would else stray to each other. Where one prompt has more than half the thumbs, some stay with it. What
    is longer than `max_tokens` with its new prompt is cut.
    """
    by_prompt: dict[TokenIds, list[int]] = {}
    for i, thumb in enumerate(thumbs):
        by_prompt.setdefault(thumb.prompt, []).append(i)
    order = [i for group in by_prompt.values() for i in group]
    shift = max(map(len, by_prompt.values()), default=0)
    taken = {i: thumbs[order[place - shift]].answer for place, i in enumerate(order)}
    return [Item(thumb.prompt, (taken[i][: max(1, max_tokens - len(thumb.prompt))],)) for i, thumb in enumerate(thumbs)]


def make_thumb_pass(thumbs: Sequence[TokenAnswer], strays: Sequence[Item]) -> ThumbPass:
    """A pass without its reference."""
    unknown_N = torch.zeros(len(thumbs))
    items = [thumb.item for thumb in thumbs]
    return ThumbPass(tuple(thumbs), tuple(strays), make_pass(items), make_pass(strays), unknown_N, unknown_N)


def ups(each: ThumbPass) -> Tensor:
    """[N] 1 for a thumb up, 0 for one down."""
    return torch.tensor([float(thumb.up) for thumb in each.thumbs])


def weights(each: ThumbPass, recipe: KtoRecipe) -> Tensor:
    """[N] the thumb's own weight times that of its side."""
    return torch.tensor(
        [thumb.weight * (recipe.up_weight if thumb.up else recipe.down_weight) for thumb in each.thumbs]
    )


def with_reference(model: SharedBase, passes: Sequence[ThumbPass], cache: Path, watch: Watch) -> list[ThumbPass]:
    """The passes with what the reference gives their answers and strays, from the cache where it is there."""
    own = reference_sums(model, [each.batch for each in passes], cache, watch.between(0, 0.5))
    strays = reference_sums(model, [each.stray_batch for each in passes], cache, watch.between(0.5, 1))
    return [
        replace(each, reference_N=own_N, stray_reference_N=stray_N)
        for each, own_N, stray_N in zip(passes, own, strays, strict=True)
    ]


def _mean(values_N: Tensor) -> float:
    """0 where a step happens to hold no such answer."""
    return float(values_N.mean()) if len(values_N) else 0.0
