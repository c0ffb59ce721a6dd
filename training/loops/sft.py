"""The supervised loop: answers to imitate, several to a pass that never see each other. Reads from top to bottom."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.algorithms import REPLAY, SftRecipe
from training.base.model import SharedBase
from training.examples.batches import Pass, make_pass, pack
from training.examples.example import TokenAnswer
from training.loops.steps import ENTROPY_EVERY, POLICY, Run, Watch, mean_weight, plan_steps, train


@dataclass(frozen=True)
class AnswerPass:
    """A forward pass over N answers with their weights."""

    answers: tuple[TokenAnswer, ...]
    batch: Pass

    @property
    def weights(self) -> Tensor:
        """[S] every scored token's weight: its answer's."""
        return torch.tensor([answer.weight for answer in self.answers])[self.batch.answer_S]

    def halves(self) -> "list[AnswerPass]":
        """The same answers in two passes, where there are two."""
        middle = len(self.answers) // 2
        return [make_answer_pass(part) for part in (self.answers[:middle], self.answers[middle:]) if part]


def train_sft(
    model: SharedBase,
    demonstrations: Sequence[TokenAnswer],
    recipe: SftRecipe,
    folder: Path,
    watch: Watch,
    *,
    every_s: float = 20,
) -> None:
    """Train the adapter POLICY on `model`, checkpointing into `folder` at least `every_s` seconds apart.

    The loss is the mean over the answers' tokens; the prompts' are masked. Raises Diverged, OutOfMemory, or Stopped
    when `watch` says so (after a checkpoint).
    """
    name = hashlib.sha256(repr((tuple(demonstrations), recipe.model_dump_json())).encode()).hexdigest()
    run = Run(name, folder, recipe.optimizer, recipe.seed, every_s, crew=model.crew)
    chosen = mix(
        demonstrations, {str(source): share for source, share in recipe.shares.items()}, recipe.max_repeats, recipe.seed
    )
    passes = pack_answers(chosen, recipe)
    model.add_adapter(POLICY, recipe.adapter, seed=recipe.seed)
    unit = mean_weight(chosen)
    plan = plan_steps(
        [len(p.answers) for p in passes], epochs=recipe.epochs, least=recipe.batch_examples, seed=recipe.seed
    )

    def learn(number: int, smaller: bool) -> dict[str, float]:
        """Add up one step's gradients, pass by pass."""
        step = plan[number]
        parts = [part for i in step.passes for part in (passes[i].halves() if smaller else [passes[i]])]
        tokens = sum(len(each.batch.targets_S) for each in parts)
        seen = model.crew.spread(
            parts,
            lambda each: learn_pass(model, each, unit * tokens),
            lambda: watch.check(f"before step {number + 1} of {len(plan)}"),
        )
        answers = sum(len(each.answers) for each in parts)
        return {
            "epoch": step.epoch + 1,
            "examples": answers,
            "loss": sum(loss for loss, _ in seen),
            "entropy": float(torch.cat([entropy_E for _, entropy_E in seen]).mean()),
            "answer_tokens": tokens / answers,
        }

    train(model.parameters(POLICY), len(plan), learn, run, watch)


def learn_pass(model: SharedBase, each: AnswerPass, total_weight: float) -> tuple[float, Tensor]:
    """Add the gradients of one pass to POLICY's, and return its part of the step's loss and some tokens' entropy [E].

    `total_weight` is what the weighted losses of the step's tokens are divided by.
    """
    with model.policy(POLICY):
        logprobs_S, entropy_E = (given.cpu() for given in model.logprobs_and_entropy(each.batch, ENTROPY_EVERY))
    part = -(each.weights * logprobs_S).sum() / total_weight
    part.backward()
    return part.item(), entropy_E


def mix(
    demonstrations: Sequence[TokenAnswer], shares: Mapping[str, float], most: float, seed: int
) -> list[TokenAnswer]:
    """Examples in the proportion of their sources' shares, drawn from `seed`.

    Of what people said, the source with the most examples for its share sets the size; the others are repeated to keep
    up, each at most `most` times over (the cap), so that a few edits are not learned by heart. Replayed text is drawn
    to its share of what that makes, however much of it there is.
    """
    by_source: dict[str, list[TokenAnswer]] = {}
    for each in demonstrations:
        if shares.get(each.source, 0) > 0:
            by_source.setdefault(each.source, []).append(each)
    replayed = by_source.pop(REPLAY, [])
    scale = max((len(found) / shares[source] for source, found in by_source.items()), default=0.0)
    mixed: list[TokenAnswer] = []
    for source, found in sorted(by_source.items()):
        mixed += draw(found, min(shares[source] * scale, most * len(found)), f"{seed}/{source}")
    if not replayed:
        return mixed
    said = sum(shares[source] for source in by_source)
    wanted = len(mixed) * shares[REPLAY] / said if said else len(replayed)
    return mixed + draw(replayed, min(wanted, most * len(replayed)), f"{seed}/{REPLAY}")


def draw(found: Sequence[TokenAnswer], wanted: float, seed: str) -> list[TokenAnswer]:
    """So many of them: each as often as goes evenly, and the rest by chance."""
    whole, rest = divmod(round(wanted), len(found))
    return [*found] * whole + random.Random(seed).sample(found, rest)


def pack_answers(answers: Sequence[TokenAnswer], recipe: SftRecipe) -> list[AnswerPass]:
    """Answers in passes of at most `pass_tokens`; each in one of its own unless the recipe packs."""
    most = recipe.batch_examples if recipe.pack else 1
    groups = pack([answer.item.n_tokens for answer in answers], recipe.pass_tokens, most)
    return [make_answer_pass([answers[i] for i in group]) for group in groups]


def make_answer_pass(answers: Sequence[TokenAnswer]) -> AnswerPass:
    return AnswerPass(tuple(answers), make_pass([answer.item for answer in answers]))
