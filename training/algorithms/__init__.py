"""What each algorithm may be told: frozen models with the meaning and bounds of every field. Never imports torch."""

from training.algorithms.answers import REPLAY, DemonstrationSource, KtoRecipe, SftRecipe
from training.algorithms.common import AdapterRecipe, Frozen, OptimizerRecipe, PairTraining, Training
from training.algorithms.on_policy import (
    GrpoRecipe,
    OnlinePreferenceRecipe,
    OnPolicy,
    PolicyGradientRecipe,
    PolicyGradientTraining,
    PpoRecipe,
    RlooRecipe,
    RolloutRecipe,
)
from training.algorithms.preference import (
    BETA,
    FLIP_RATE,
    ConservativeDpoRecipe,
    DpoPositiveRecipe,
    DpoRecipe,
    HingeRecipe,
    IpoRecipe,
    NormalisedDpoRecipe,
    OrpoRecipe,
    PreferenceRecipe,
    PreferenceTraining,
    RobustDpoRecipe,
    SimpoRecipe,
)
from training.algorithms.reward import (
    AnyRewardRecipe,
    HeadName,
    PairwiseRewardRecipe,
    RewardRecipe,
    RewardRule,
    SafetyFirst,
    WeightedSum,
)

PolicyRecipe = PreferenceRecipe | KtoRecipe | SftRecipe | PolicyGradientRecipe | OnlinePreferenceRecipe
"""Recipes that make a policy."""

Recipe = PolicyRecipe | AnyRewardRecipe
"""Any recipe."""

__all__ = [
    "BETA",
    "FLIP_RATE",
    "REPLAY",
    "AdapterRecipe",
    "AnyRewardRecipe",
    "ConservativeDpoRecipe",
    "DemonstrationSource",
    "DpoPositiveRecipe",
    "DpoRecipe",
    "Frozen",
    "GrpoRecipe",
    "HeadName",
    "HingeRecipe",
    "IpoRecipe",
    "KtoRecipe",
    "NormalisedDpoRecipe",
    "OnPolicy",
    "OnlinePreferenceRecipe",
    "OptimizerRecipe",
    "OrpoRecipe",
    "PairTraining",
    "PairwiseRewardRecipe",
    "PolicyGradientRecipe",
    "PolicyGradientTraining",
    "PolicyRecipe",
    "PpoRecipe",
    "PreferenceRecipe",
    "PreferenceTraining",
    "Recipe",
    "RewardRecipe",
    "RewardRule",
    "RlooRecipe",
    "RobustDpoRecipe",
    "RolloutRecipe",
    "SafetyFirst",
    "SftRecipe",
    "SimpoRecipe",
    "Training",
    "WeightedSum",
]
