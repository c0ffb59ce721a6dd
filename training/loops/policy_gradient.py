"""The training loop of PPO, RLOO and GRPO: rounds of own answers, rewarded and learned from. Reads from top to bottom.

Policy and value are adapters with one optimizer; the reference is the base. A round's answers, its rewards and its KL
weight are kept, so that a run which was stopped anywhere goes on with them.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.algorithms import GrpoRecipe, PolicyGradientRecipe, PpoRecipe, RlooRecipe
from training.base.model import SharedBase
from training.examples.batches import Item, make_pass, pack
from training.loops.experience import (
    Experience,
    Scorer,
    Scoring,
    check_engine,
    engine_gap,
    gather,
    load_experience,
    save_experience,
)
from training.loops.steps import ENTROPY_EVERY, POLICY, Run, Watch, train
from training.losses import policy_gradient as losses
from training.losses.policy_gradient import Clip
from training.sampling.rollouts import Rollouts
from training.tensor_files import write_tensors

VALUE = "value"
BEHAVIOUR = "behaviour"
"""The policy that answered a round, as an adapter beside the one that learns from it."""


@dataclass(frozen=True)
class Lesson:
    """Answers to some prompts that go through the model together, with what their S tokens are to teach."""

    items: tuple[Item, ...]
    columns: Mapping[str, Tensor]

    @property
    def n_tokens(self) -> int:
        """Tokens that go through the model."""
        return sum(item.n_tokens for item in self.items)

    def halves(self) -> "list[Lesson]":
        """The same answers in two passes, where there are two."""
        if len(self.items) > 1:
            middle = len(self.items) // 2
            sides = self.items[:middle], self.items[middle:]
        else:
            (item,) = self.items
            middle = len(item.answers) // 2
            if not middle:
                return [self]
            sides = (Item(item.prompt, item.answers[:middle]),), (Item(item.prompt, item.answers[middle:]),)
        cut = sum(len(answer) for item in sides[0] for answer in item.answers)
        return [
            Lesson(sides[0], {name: column[:cut] for name, column in self.columns.items()}),
            Lesson(sides[1], {name: column[cut:] for name, column in self.columns.items()}),
        ]


@dataclass(frozen=True)
class Round:
    """A round ready to be learned from."""

    experience: Experience
    lessons: list[Lesson]
    kl_weight: float


def train_policy_gradient(
    model: SharedBase,
    recipe: PolicyGradientRecipe,
    rollouts: Rollouts,
    reward: Scorer,
    folder: Path,
    watch: Watch,
    *,
    every_s: float = 20,
) -> None:
    """Train the adapter POLICY on answers that `rollouts` gives, checkpointing at least `every_s` seconds apart.

    Raises EngineMismatch, Diverged, OutOfMemory, what the rollouts fail with, or Stopped when `watch` says so.
    """
    model.add_adapter(POLICY, recipe.adapter, seed=recipe.seed)
    parameters = {f"{POLICY}/{name}": each for name, each in model.parameters(POLICY).items()}
    if isinstance(recipe, PpoRecipe):
        model.add_adapter(VALUE, recipe.adapter, seed=recipe.seed + 1)
        model.add_head(VALUE, 1)
        own = {**model.parameters(VALUE), **model.head_parameters(VALUE)}
        parameters |= {f"{VALUE}/{name}": each for name, each in own.items()}
    rounds = Rounds(model, recipe, rollouts, reward, folder, watch)
    steps = recipe.epochs * recipe.minibatches
    total = recipe.rollouts.rounds * steps

    def learn(number: int, smaller: bool) -> dict[str, float]:
        """Add up one step's gradients, part by part of its minibatch."""
        round_number, within = divmod(number, steps)
        now = rounds.enter(round_number)
        chosen = [now.lessons[i] for i in minibatch(now.experience, recipe, round_number, within)]
        n_tokens = sum(len(lesson.columns["old_S"]) for lesson in chosen)
        passes = together(chosen, recipe.pass_tokens, model.crew.size)
        seen = model.crew.spread(
            [part for each in passes for part in (each.halves() if smaller else [each])],
            lambda lesson: learn_lesson(model, lesson, now.kl_weight, recipe, n_tokens),
            lambda: watch.check(f"before step {number + 1} of {total}"),
        )
        values_S = {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
        return {"round": round_number + 1, **summary(now, values_S)}

    name = hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()
    run = Run(name, folder, recipe.optimizer, recipe.seed, every_s, most_loss=100, crew=model.crew)
    train(parameters, total, learn, run, watch)


def learn_lesson(
    model: SharedBase, lesson: Lesson, kl_weight: float, recipe: PolicyGradientRecipe, n_tokens: int
) -> dict[str, Tensor]:
    """Add the gradients of one pass, and return [S] what a curve point is made of, the entropy [E].

    A step's loss is the mean over the `n_tokens` tokens of its minibatch, so that long answers weigh by their length.
    """
    columns, clip = lesson.columns, Clip(recipe.clip_low, recipe.clip_high)
    batch = make_pass(lesson.items)
    with model.policy(POLICY):
        logprob_S, entropy_E = (each.cpu() for each in model.logprobs_and_entropy(batch, ENTROPY_EVERY))
    weight_S = losses.truncated_importance(columns["old_S"], columns["engine_S"], recipe.importance_cap)
    surrogate_S = losses.clipped_surrogate(logprob_S, columns["old_S"], columns["advantage_S"], clip)
    kl_S = losses.kl_estimate(logprob_S, columns["reference_S"])
    loss_S = weight_S * surrogate_S
    if isinstance(recipe, GrpoRecipe):
        own_kl_S = losses.kl_of_policy(logprob_S, columns["old_S"], columns["reference_S"])
        loss_S = loss_S + kl_weight * own_kl_S  # the others have it in their rewards
    (loss_S.sum() / n_tokens).backward()
    told = {"loss": loss_S, "kl": kl_S, "entropy": entropy_E, "weight": weight_S}
    told["clipped"] = losses.clipped_share(logprob_S, columns["old_S"], columns["advantage_S"], clip)
    if isinstance(recipe, PpoRecipe):
        value_S = model.token_values(VALUE, batch).cpu()
        error_S = losses.value_loss(value_S, columns["value_S"], columns["return_S"], recipe.value_clip)
        (recipe.value_weight * error_S.sum() / n_tokens).backward()
        told |= {"value_error": error_S, "loss": loss_S + recipe.value_weight * error_S}
    return {name: value.detach() for name, value in told.items()}


class Rounds:
    """The rounds of one run, each made when its first step comes, from what is kept of it where there is something."""

    def __init__(
        self,
        model: SharedBase,
        recipe: PolicyGradientRecipe,
        rollouts: Rollouts,
        reward: Scorer,
        folder: Path,
        watch: Watch,
    ) -> None:
        self._model = model
        self._recipe = recipe
        self._rollouts = rollouts
        self._reward = reward
        self._folder = folder
        self._watch = watch
        self._now: tuple[int, Round] | None = None

    def enter(self, number: int) -> Round:
        """Round `number`, ready to be learned from; with `ahead`, the next one is being sampled from here on."""
        if self._now is None or self._now[0] != number:
            self._model.crew.first(lambda: self._prepare(number))
            self._now = number, self._load(number)
        return self._now[1]

    def _prepare(self, number: int) -> None:
        if not self._path(number).exists():
            self._begin(number)
            self._gather(number)
        if self._recipe.rollouts.ahead and number + 1 < self._recipe.rollouts.rounds:
            self._begin(number + 1)

    def _begin(self, number: int) -> None:
        """Have the policy as it is now answer, or as it was when this round was begun before."""
        path = self._policy_path(number)
        if not path.exists():
            write_tensors(path, self._model.adapter_state(POLICY))
        self._rollouts.begin(number, load_file(path))

    def _gather(self, number: int) -> None:
        model, recipe = self._model, self._recipe
        state = load_file(self._policy_path(number))
        model.adopt_adapter(BEHAVIOUR, recipe.adapter, state)
        value = VALUE if isinstance(recipe, PpoRecipe) else None
        scoring = Scoring(model, BEHAVIOUR, value, self._reward, recipe.pass_tokens)
        try:
            experience = gather(self._rollouts.groups(number), scoring, self._watch)
        finally:
            model.drop_adapter(BEHAVIOUR)
        check_engine(experience, recipe.rollouts.max_engine_gap)
        if number:
            former, more = load_experience(self._path(number - 1))
            kl_weight, scale = steer(float(more["kl_weight"]), former, recipe), more["scale"]
        else:
            rewards_N = experience.reward_N
            kl_weight = recipe.kl_weight
            scale = torch.stack([rewards_N.mean(), rewards_N.std(unbiased=False).clamp(min=1e-3)])
        save_experience(
            self._path(number), experience, {"kl_weight": torch.tensor(kl_weight, dtype=torch.float64), "scale": scale}
        )
        self._policy_path(number).unlink()  # it has answered

    def _load(self, number: int) -> Round:
        experience, more = load_experience(self._path(number))
        kl_weight = float(more["kl_weight"])
        return Round(experience, make_lessons(experience, self._recipe, kl_weight, more["scale"]), kl_weight)

    def _policy_path(self, number: int) -> Path:
        return self._folder / f"policy-{number:04d}.safetensors"

    def _path(self, number: int) -> Path:
        return self._folder / f"round-{number:04d}.safetensors"


def steer(kl_weight: float, former: Experience, recipe: PolicyGradientRecipe) -> float:
    """The KL weight of the round after `former`."""
    if recipe.kl_target is None:
        return kl_weight
    kl = float(former.per_answer(former.old_S - former.reference_S).mean())
    answers = len(former.lengths)
    return losses.next_kl_weight(kl_weight, kl, recipe.kl_target, answers=answers, horizon=recipe.kl_horizon)


def make_lessons(experience: Experience, recipe: PolicyGradientRecipe, kl_weight: float, scale: Tensor) -> list[Lesson]:
    """Every part with the advantages of its tokens; `scale` is the mean and spread that rewards are held to."""
    advantage_S, return_S = advantages(experience, recipe, kl_weight, scale)
    columns = {
        "old_S": experience.old_S,
        "engine_S": experience.engine_S,
        "reference_S": experience.reference_S,
        "value_S": experience.value_S,
        "advantage_S": advantage_S,
        "return_S": return_S,
    }
    sizes = [sum(len(answer) for answer in part.item.answers) for part in experience.parts]
    cut = {name: column.split(sizes) for name, column in columns.items()}
    return [
        Lesson((part.item,), {name: pieces[i] for name, pieces in cut.items()})
        for i, part in enumerate(experience.parts)
    ]


def together(lessons: Sequence[Lesson], pass_tokens: int, processes: int = 1) -> list[Lesson]:
    """The lessons in passes of at most `pass_tokens`, a longer one alone; so many that each process has its share."""
    joined = []
    for group in pack([lesson.n_tokens for lesson in lessons], pass_tokens, math.ceil(len(lessons) / processes)):
        own = [lessons[i] for i in group]
        columns = {name: torch.cat([lesson.columns[name] for lesson in own]) for name in own[0].columns}
        joined.append(Lesson(tuple(item for lesson in own for item in lesson.items), columns))
    return joined


def advantages(
    experience: Experience, recipe: PolicyGradientRecipe, kl_weight: float, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """[S], [S] advantages and the returns that values are to meet (zeros where there are none)."""
    score_N = (experience.reward_N - scale[0]) / scale[1]
    kl_S = experience.old_S - experience.reference_S
    match recipe:
        case PpoRecipe():
            rewards_S = losses.token_rewards(score_N, kl_S, experience.lengths, kl_weight)
            advantage_S, return_S = losses.advantages_and_returns(
                rewards_S, experience.value_S, experience.lengths, discount=recipe.discount, trace=recipe.trace
            )
            return losses.whiten(advantage_S), return_S
        case RlooRecipe():
            held_N = score_N - kl_weight * experience.per_answer(kl_S)
            advantage_S = experience.per_token(losses.leave_one_out(held_N, experience.groups))
        case GrpoRecipe():
            by_group_N = losses.group_relative(score_N, experience.groups, by_spread=recipe.by_spread)
            advantage_S = experience.per_token(by_group_N)
    return advantage_S, torch.zeros_like(advantage_S)


def minibatch(experience: Experience, recipe: PolicyGradientRecipe, round_number: int, within: int) -> list[int]:
    """The parts that a step of the round learns from: every epoch deals all of them out in an order of its own."""
    epoch, number = divmod(within, recipe.minibatches)
    chance = torch.Generator().manual_seed(recipe.seed + 104_729 * (round_number * recipe.epochs + epoch + 1))
    order = torch.randperm(len(experience.parts), generator=chance)
    return [int(i) for i in order.tensor_split(recipe.minibatches)[number]]


def summary(now: Round, values_S: Mapping[str, Tensor]) -> dict[str, float]:
    """One step's curve point; rewards, lengths and the engine's gap are the whole round's."""
    experience, rewards_N = now.experience, now.experience.reward_N
    point = {
        "loss": float(values_S["loss"].mean()),
        "reward_mean": float(rewards_N.mean()),
        "reward_spread": float(rewards_N.std(unbiased=False)),
        "kl": float(values_S["kl"].mean()),
        "kl_weight": now.kl_weight,
        "entropy": float(values_S["entropy"].mean()),
        "clip_fraction": float(values_S["clipped"].mean()),
        "importance": float(values_S["weight"].mean()),
        "engine_gap": engine_gap(experience),
        "answer_tokens": float(experience.lengths.float().mean()),
        "cut_off": float(experience.cut_N.mean()),
    }
    if "value_error" in values_S:
        point["value_error"] = float(values_S["value_error"].mean())
    return point
