"""What is told to those who learn from the policy's own answers."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from training.algorithms.common import AdapterRecipe, Frozen, Training
from training.algorithms.preference import DpoRecipe, PreferenceRecipe
from training.algorithms.reward import RewardRecipe


class RolloutRecipe(Frozen):
    """How the policy in training answers, round by round: sampled at temperature 1, with nothing cut off."""

    rounds: int = Field(default=8, ge=1, le=1000, description="Times that the policy answers and learns from it.")
    prompts: int = Field(default=16, ge=1, le=4096, description="Prompts that are answered in a round.")
    answers: int = Field(default=4, ge=1, le=64, description="Answers to each prompt.")
    max_tokens: int = Field(default=128, ge=1, le=32_768, description="Longest answer sampled.")
    concurrency: int = Field(default=8, ge=1, le=1024, description="Answers asked for at once.")
    ahead: bool = Field(
        default=False,
        description="Sample a round while the one before it is learned from: its policy is a round old then, and "
        "its answers are weighed for that.",
    )
    max_engine_gap: float = Field(
        default=0.1,
        gt=0,
        le=5,
        description="Most nats a token by which the engine's log-probs may lie off those of training, on average.",
    )


class OnPolicy(Frozen):
    """What every algorithm is told that learns from answers of its own, as a reward model sees them."""

    least_answers: ClassVar[int] = 2
    """Answers to a prompt below which there is nothing to learn from: all but PPO hold them against each other."""

    rollouts: RolloutRecipe = RolloutRecipe()
    reward: RewardRecipe = Field(
        default=RewardRecipe(algorithm="reward"),
        description="The reward model, trained in the same job from the same votes.",
    )
    reward_model: str | None = Field(
        default=None,
        pattern=r"^reward-[0-9a-f]{12}$",
        description="An exported reward model to be used instead, by its name; none that is pairwise.",
    )

    @field_validator("reward_model", mode="before")
    @classmethod
    def _rewards_single_answers(cls, name: object) -> object:
        if isinstance(name, str) and name.startswith("pairwise_reward-"):
            raise ValueError("a pairwise reward model gives no reward of a single answer; name a reward-… one")
        return name

    @model_validator(mode="after")
    def _has_answers_to_compare(self) -> Self:
        if self.rollouts.answers < self.least_answers:
            raise ValueError(
                f"rollouts.answers = {self.rollouts.answers} is too few to hold answers to one prompt against each "
                f"other; it should be greater than or equal to {self.least_answers}"
            )
        return self


class PolicyGradientTraining(Training, OnPolicy):
    """What every policy gradient is told; `epochs` is how often a round is learned from."""

    minibatches: int = Field(default=2, ge=1, le=256, description="Optimizer steps that an epoch of a round takes.")
    clip_low: float = Field(default=0.2, gt=0, lt=1, description="How far below 1 a ratio may move.")
    clip_high: float = Field(default=0.2, gt=0, le=10, description="How far above 1 a ratio may move.")
    importance_cap: float = Field(
        default=2.0, ge=1, le=100, description="Most that a token may weigh for the engine's own log-prob of it."
    )
    kl_weight: float = Field(
        default=0.05,
        ge=0,
        le=10,
        description="Weight β of the KL from the reference, in standard deviations of the first round's rewards a nat: "
        "in PPO on every token's reward, in RLOO on every answer's, in GRPO on the loss.",
    )
    kl_target: float | None = Field(
        default=None, gt=0, le=1000, description="KL in nats an answer that β is steered to; none keeps β as it is."
    )
    kl_horizon: int = Field(default=1000, ge=1, le=10_000_000, description="Answers over which β is steered.")

    @model_validator(mode="after")
    def _every_minibatch_has_a_prompt(self) -> Self:
        if self.minibatches > self.rollouts.prompts:
            raise ValueError(
                f"minibatches = {self.minibatches} is more than rollouts.prompts = {self.rollouts.prompts}"
            )
        return self


class PpoRecipe(PolicyGradientTraining):
    """Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) with a value adapter."""

    least_answers: ClassVar[int] = 1

    algorithm: Literal["ppo"]
    discount: float = Field(default=1.0, gt=0, le=1, description="Discount γ from token to token.")
    trace: float = Field(default=0.95, ge=0, le=1, description="Decay λ of the advantage estimates.")
    value_weight: float = Field(default=0.1, ge=0, le=10, description="Weight of the value's error.")
    value_clip: float = Field(default=0.2, gt=0, le=100, description="How far a value may move from its old one.")


class RlooRecipe(PolicyGradientTraining):
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740)."""

    algorithm: Literal["rloo"]


class GrpoRecipe(PolicyGradientTraining):
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300)."""

    algorithm: Literal["grpo"]
    by_spread: bool = Field(default=True, description="Divide by the spread of a prompt's rewards.")


class OnlinePreferenceRecipe(OnPolicy):
    """On-policy preference rounds (Guo et al. 2024, arXiv 2402.04792): pairs of own answers, and people's votes."""

    algorithm: Literal["online_preference"]
    loss: Annotated[PreferenceRecipe, Field(discriminator="algorithm")] = Field(
        default=DpoRecipe(algorithm="dpo"),
        description="What each round learns from its pairs by, with the adapter, the optimizer and all else.",
    )
    form: Literal["best_worst", "rejection"] = Field(
        default="best_worst",
        description="Pairs of the best and the worst answer, or of answers drawn by rejection sampling "
        "(Liu et al. 2024, arXiv 2309.06657).",
    )
    temperature: float = Field(
        default=1.0, gt=0, le=100, description="Of rejection sampling: how much lower a reward may be, in nats."
    )
    least_margin: float = Field(default=0.0, ge=0, le=100, description="Least difference in reward within a pair.")
    votes_share: float = Field(default=0.5, ge=0, lt=1, description="Weight of people's votes in each round.")

    @field_validator("rollouts")
    @classmethod
    def _begins_where_the_round_before_ended(cls, rollouts: RolloutRecipe) -> RolloutRecipe:
        if rollouts.ahead:
            raise ValueError("rollouts.ahead = true is for ppo, rloo and grpo, which weigh older answers; leave it out")
        return rollouts

    @property
    def adapter(self) -> AdapterRecipe:
        return self.loss.adapter

    @property
    def seed(self) -> int:
        return self.loss.seed

    @property
    def max_mismatched_share(self) -> float:
        return self.loss.max_mismatched_share

    @property
    def max_example_tokens(self) -> int:
        return self.loss.max_example_tokens


PolicyGradientRecipe = PpoRecipe | RlooRecipe | GrpoRecipe
"""Recipes whose loop is `loops/policy_gradient.py`."""
