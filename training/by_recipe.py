"""From a recipe to its loop: what a job of each kind trains, and what is learned on the way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.algorithms import (
    AnyRewardRecipe,
    GrpoRecipe,
    KtoRecipe,
    OnlinePreferenceRecipe,
    OnPolicy,
    PolicyGradientRecipe,
    PolicyRecipe,
    PpoRecipe,
    PreferenceTraining,
    RlooRecipe,
    SftRecipe,
)
from training.base.model import SharedBase
from training.errors import TooFewPrompts
from training.examples.asked import Prompt, with_room
from training.examples.example import TokenAnswer, TokenPair
from training.examples.lessons import Lessons
from training.examples.tokens import ChatTokens
from training.loops.kto import train_kto
from training.loops.online_preference import train_online_preference
from training.loops.policy_gradient import train_policy_gradient
from training.loops.preference import train_preference
from training.loops.sft import train_sft
from training.loops.steps import Point, Watch
from training.publishing.publish import Origin
from training.rewards.reward_files import Exported, RewardOrigin
from training.rewards.rewarding import Votes, reward_model_once, scorer_of
from training.sampling.rollouts import Asked, EngineRollouts
from training.worker.attempt import Attempt, CurveWriter

_REWARD_SHARE = 0.2
"""Of an on-policy job's training, as its progress counts it."""
_REWARD_PART = "reward model"
"""What the curve points of an on-policy job's own reward model say that they are of."""


@dataclass(frozen=True)
class Desk:
    """What lies ready for a loop: the base with its tokens, what is to be learned, where checkpoints go."""

    attempt: Attempt
    model: SharedBase
    tokens: ChatTokens
    lessons: Lessons
    folder: Path
    curve: CurveWriter
    watch: Watch

    @property
    def every_s(self) -> float:
        return self.attempt.settings.training.checkpoint_s

    def together(self, loop: Callable[..., object], own: Mapping[str, object] | None = None, **lesson: object) -> None:
        """Run a loop in all processes that hold the model; `own` are arguments that the others have their own of."""
        mine = {"model": self.model, "watch": self.watch, **(own or {})}
        self.model.crew.together(loop, mine, folder=self.folder, every_s=self.every_s, **lesson)

    @property
    def pairs(self) -> list[TokenPair]:
        return [each for each in self.lessons.train if isinstance(each, TokenPair)]

    @property
    def answers(self) -> list[TokenAnswer]:
        return [each for each in self.lessons.train if isinstance(each, TokenAnswer)]


def train_by(recipe: PolicyRecipe, desk: Desk, origin: Origin) -> None:
    """Leave the recipe's policy in the model, as the adapter POLICY. Raises what its loop does."""
    match recipe:
        case PreferenceTraining():
            desk.together(train_preference, pairs=desk.pairs, recipe=recipe)
        case KtoRecipe():
            desk.together(train_kto, thumbs=desk.answers, recipe=recipe)
        case SftRecipe():
            desk.together(train_sft, demonstrations=desk.answers, recipe=recipe)
        case PpoRecipe() | RlooRecipe() | GrpoRecipe() | OnlinePreferenceRecipe():
            train_on_policy(recipe, desk, origin)


def train_on_policy(recipe: OnlinePreferenceRecipe | PolicyGradientRecipe, desk: Desk, origin: Origin) -> None:
    """A reward model first, then rounds of answers from the engine.

    The rounds' policies leave the engine when their training has ended; those of a stopped one are there for the next
    attempt.
    """
    attempt, watch = desk.attempt, desk.watch.between(_REWARD_SHARE, 1)
    prompts = askable(recipe, desk)
    exported = reward_for(recipe, desk)
    base_digest = attempt.job.base_digest
    reward = scorer_of(exported, desk.model, desk.tokens, base_digest, watch)
    asked = Asked(prompts, recipe.rollouts, recipe.seed)
    rollouts = EngineRollouts(attempt, desk.model, desk.tokens, asked, origin)
    own, shared = {"rollouts": rollouts, "reward": reward}, replace(desk, watch=watch)
    if isinstance(recipe, OnlinePreferenceRecipe):
        shared.together(train_online_preference, own, votes=desk.lessons.beside, recipe=recipe)
    else:
        shared.together(train_policy_gradient, own, recipe=recipe)
    rollouts.end()


def askable(recipe: OnPolicy, desk: Desk) -> list[Prompt]:
    """The prompts that the policy is to answer. TooFewPrompts when the engine has room for none of them."""
    asked, most = desk.lessons.asked, recipe.rollouts.max_tokens
    context_tokens = desk.attempt.gateway.context_tokens()
    if found := with_room(asked, desk.tokens, context_tokens, most):
        return found
    if asked:
        raise TooFewPrompts(
            f"none of {len(asked)} prompts leaves room for an answer of rollouts.max_tokens = {most} in the engine's "
            f"context of {context_tokens} tokens; lower it, or wait for votes on shorter ones"
        )
    raise TooFewPrompts(
        "no prompt is left that the policy could answer: those voted on are held out or too long; wait for votes on "
        "others"
    )


def reward_for(recipe: OnPolicy, desk: Desk) -> Path:
    """The folder of the reward model that an on-policy recipe asks for: the one it names, or one of its own."""
    if recipe.reward_model is not None:
        return desk.attempt.settings.reward_models / recipe.reward_model
    desk.attempt.stage("training the reward model", 0.05)
    watch = replace(desk.watch.between(0, _REWARD_SHARE), point=lambda each: desk.curve.add(each, part=_REWARD_PART))
    exported = make_reward_model(recipe.reward, replace(desk, watch=watch))
    desk.attempt.stage("training", 0.05 + 0.55 * _REWARD_SHARE)
    return exported.folder


def make_reward_model(recipe: AnyRewardRecipe, desk: Desk) -> Exported:
    """Train, judge and export; what came of it stands in the job's report."""
    attempt = desk.attempt

    def point(each: Point) -> None:
        if not each["member"]:  # the others of an ensemble look the same
            desk.watch.point(each)

    exported = reward_model_once(
        desk.model,
        desk.tokens,
        Votes(desk.pairs, desk.lessons.held_out_of_heads),
        recipe,
        RewardOrigin(attempt.job.base_digest, attempt.job.id, attempt.job.recipe),
        attempt.settings.reward_models,
        desk.folder / "reward",
        replace(desk.watch, point=point),
        every_s=desk.every_s,
    )
    attempt.report["reward_model"] = told(exported)
    return exported


def told(exported: Exported) -> dict[str, Any]:
    """What is reported of a reward model: its name, and what it is worth on held-out votes."""
    return {key: exported.manifest.get(key) for key in ("name", "report", "calibration")}
