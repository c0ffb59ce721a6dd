"""What the losses on pairs are told."""

from typing import Literal

from pydantic import Field

from training.algorithms.common import PairTraining


class PreferenceTraining(PairTraining):
    """What every loss on pairs is told."""

    nll_weight: float = Field(
        default=0.0, ge=0, le=10, description="Weight of the chosen answer's negative log-likelihood per token."
    )


BETA = Field(default=0.1, gt=0, le=5, description="How strongly the policy is held to the reference.")
FLIP_RATE = Field(default=0.1, ge=0, lt=0.5, description="Share of the votes that are taken to be the wrong way round.")


class DpoRecipe(PreferenceTraining):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290)."""

    algorithm: Literal["dpo"]
    beta: float = BETA


class IpoRecipe(PreferenceTraining):
    """Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036), on log-ratios per token."""

    algorithm: Literal["ipo"]
    beta: float = BETA


class HingeRecipe(PreferenceTraining):
    """SLiC's hinge loss on DPO's margin (Liu et al. 2023, arXiv 2309.06657)."""

    algorithm: Literal["hinge"]
    beta: float = BETA


class ConservativeDpoRecipe(PreferenceTraining):
    """DPO with smoothed labels (Mitchell 2023): stops pushing a pair once it is as sure as the votes deserve."""

    algorithm: Literal["conservative_dpo"]
    beta: float = BETA
    flip_rate: float = FLIP_RATE


class RobustDpoRecipe(PreferenceTraining):
    """DPO unbiased under votes flipped at a known rate (Chowdhury et al. 2024, arXiv 2403.00409)."""

    algorithm: Literal["robust_dpo"]
    beta: float = BETA
    flip_rate: float = FLIP_RATE


class DpoPositiveRecipe(PreferenceTraining):
    """DPO with a penalty where the chosen answer becomes less likely (Pal et al. 2024, arXiv 2402.13228)."""

    algorithm: Literal["dpo_positive"]
    beta: float = BETA
    penalty: float = Field(default=5.0, ge=0, le=500, description="Weight λ of the chosen answer's lost log-prob.")


class NormalisedDpoRecipe(PreferenceTraining):
    """DPO on log-ratios per token (Meng et al. 2024, arXiv 2405.14734, section 4.4)."""

    algorithm: Literal["normalised_dpo"]
    beta: float = Field(default=2.0, gt=0, le=50, description="Scale of the log-ratios per token.")


class OrpoRecipe(PreferenceTraining):
    """Odds-ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691): no reference, NLL included."""

    algorithm: Literal["orpo"]
    odds_weight: float = Field(default=0.1, gt=0, le=10, description="Weight λ of the odds-ratio term.")


class SimpoRecipe(PreferenceTraining):
    """Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734): no reference, a target margin."""

    algorithm: Literal["simpo"]
    beta: float = Field(default=2.0, gt=0, le=50, description="Scale of the mean log-probs.")
    gamma: float = Field(default=1.0, ge=0, le=50, description="Margin that the chosen answer is to be ahead by.")


PreferenceRecipe = (
    DpoRecipe
    | IpoRecipe
    | HingeRecipe
    | ConservativeDpoRecipe
    | RobustDpoRecipe
    | DpoPositiveRecipe
    | NormalisedDpoRecipe
    | OrpoRecipe
    | SimpoRecipe
)
"""Recipes whose loop is `loops/preference.py`."""
