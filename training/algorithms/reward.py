"""What reward models are told: heads and how they are joined, margins, ensembles."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from feedback.events import OVERALL, AspectName
from training.algorithms.common import Frozen, PairTraining

HeadName = AspectName
"""A head is named after the aspect that it is about."""


class WeightedSum(Frozen):
    """One reward out of several heads: Σ weight · reward of the head."""

    kind: Literal["weighted_sum"] = "weighted_sum"
    weights: dict[HeadName, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default_factory=dict, description="Weight of each head's reward; 1 for a head that is not named."
    )


class SafetyFirst(Frozen):
    """The safety head's reward alone where it is below a threshold, else the weighted sum of the others.

    Touvron et al. 2023 (arXiv 2307.09288), section 3.2.3.
    """

    kind: Literal["safety_first"]
    safety: HeadName = Field(default="harmless", description="The head that says whether an answer is safe.")
    threshold: float = Field(default=0.0, ge=-100, le=100, description="Reward below which an answer is unsafe.")
    weights: dict[HeadName, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default_factory=dict, description="Weight of each other head's reward; 1 for a head that is not named."
    )


RewardRule = Annotated[WeightedSum | SafetyFirst, Field(discriminator="kind")]


class _Reward(PairTraining):
    """What both kinds of reward model are told."""

    margin: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Nats that every chosen answer is to be ahead by, besides its pair's own.",
    )
    margin_per_step: float = Field(
        default=0.0,
        ge=0,
        le=25,
        description="Nats, besides `margin`, for each step between the two scores that made a pair (4 at most).",
    )
    centring: float = Field(
        default=0.01,
        ge=0,
        le=10,
        description="Weight of (r_w + r_l)², which keeps rewards around 0; in a pairwise model, its bias for a place.",
    )
    ensemble: int = Field(default=1, ge=1, le=16, description="Adapters, each with a head, trained from other seeds.")


class RewardRecipe(_Reward):
    """Bradley-Terry reward model (Ouyang et al. 2022, arXiv 2203.02155, equation 1): one answer in, rewards out."""

    algorithm: Literal["reward"]
    heads: tuple[HeadName, ...] = Field(
        default=(OVERALL,),
        min_length=1,
        max_length=8,
        description="Aspects with a head of their own, each learning from the pairs that were compared in it.",
    )
    rule: RewardRule = Field(default=WeightedSum(), description="How the heads' rewards become one.")
    pooling: Literal["last", "mean"] = Field(
        default="last",
        description="Where a head looks: at the answer's last token alone, or at every one of them, for the mean.",
    )

    @property
    def aspects(self) -> tuple[str, ...]:
        return self.heads

    @model_validator(mode="after")
    def _names_its_heads(self) -> Self:
        if len(set(self.heads)) < len(self.heads):
            raise ValueError(f"heads names one twice: {', '.join(self.heads)}")
        named = {*self.rule.weights, *({self.rule.safety} if isinstance(self.rule, SafetyFirst) else ())}
        if unknown := sorted(named - set(self.heads)):
            raise ValueError(f"rule names {', '.join(unknown)}, but heads are {', '.join(self.heads)}")
        if isinstance(self.rule, SafetyFirst) and len(self.heads) < 2:
            raise ValueError(f"rule safety_first needs another head beside {self.rule.safety}")
        return self


class PairwiseRewardRecipe(_Reward):
    """Pairwise reward model: both answers in one context, read in both orders and averaged.

    After PairRanker, Jiang et al. 2023 (arXiv 2306.02561), section 3.
    """

    algorithm: Literal["pairwise_reward"]


AnyRewardRecipe = RewardRecipe | PairwiseRewardRecipe
"""Recipes whose loop is `loops/reward.py`."""
