"""What each algorithm may be told: frozen models with the meaning and bounds of every field. Never imports torch."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AdapterRecipe(_Frozen):
    """The LoRA that is trained: W + scale·B·A on the named linear layers."""

    kind: Literal["lora", "rslora"] = Field(
        default="lora",
        description="Scale alpha / rank, or for rslora alpha / √rank (Kalajdzievski 2023, arXiv 2312.03732).",
    )

    @field_validator("kind", mode="before")
    @classmethod
    def _servable(cls, kind: object) -> object:
        if kind in ("dora", "adalora", "loha", "lokr", "oft", "boft", "vera", "ia3"):
            raise ValueError("vLLM serves no such adapter beside its base; choose lora or rslora")
        return kind

    rank: Literal[1, 8, 16, 32, 64] = Field(default=16, description="Rank of A and B; the ranks vLLM serves.")
    alpha: int = Field(default=32, ge=1, le=1024, description="Scale of the update, divided by the rank or its root.")
    dropout: float = Field(default=0.0, ge=0, le=0.5, description="Dropout on the adapter's input.")
    target_modules: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        max_length=16,
        description="Linear layers that get an adapter, by the last part of their name.",
    )


class OptimizerRecipe(_Frozen):
    """AdamW with a warmup, a decay and clipped gradients."""

    learning_rate: float = Field(default=1e-4, gt=0, le=1e-2, description="Peak learning rate.")
    schedule: Literal["constant", "linear", "cosine"] = Field(default="linear", description="Decay to 0 after warmup.")
    warmup_share: float = Field(default=0.1, ge=0, le=0.5, description="Share of the steps that warm up from 0.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Decoupled weight decay.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of the gradient's mean.")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="Decay of the gradient's square.")
    max_grad_norm: float = Field(default=1.0, gt=0, le=100, description="Norm that gradients are clipped to.")


class _Training(_Frozen):
    """What every algorithm is told."""

    epochs: int = Field(default=2, ge=1, le=50, description="Times that everything is learned from.")
    pass_tokens: int = Field(
        default=512, ge=32, le=1_048_576, description="Most tokens in one forward pass; a longer example goes alone."
    )
    max_mismatched_share: float = Field(
        default=0.02,
        ge=0,
        le=0.5,
        description="Share of examples whose tokens may differ from the engine's and be left out, one at least; "
        "above it the job stops. 0 tolerates none.",
    )
    max_example_tokens: int = Field(
        default=2048,
        ge=32,
        le=1_048_576,
        description="Longest prompt with the answers to it that are learned from at once; longer ones are left out.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the adapter, the order and the dropout.")
    adapter: AdapterRecipe = AdapterRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()


class PairTraining(_Training):
    """What every algorithm that learns from pairs is told."""

    batch_pairs: int = Field(default=8, ge=1, le=1024, description="Least pairs an optimizer step learns from.")
    min_pairs: int = Field(default=4, ge=1, le=1_000_000, description="Fewest training pairs to go on with.")
    ties: bool = Field(default=False, description="Learn from ties too, as pairs that are right either way round.")


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


class KtoRecipe(_Training):
    """Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306): single answers, good or bad."""

    algorithm: Literal["kto"]
    beta: float = BETA
    up_weight: float = Field(default=1.0, ge=0, le=10, description="Weight λ_D of answers with a thumb up.")
    down_weight: float = Field(default=1.0, ge=0, le=10, description="Weight λ_U of answers with a thumb down.")
    nll_weight: float = Field(
        default=0.0, ge=0, le=10, description="Weight of the liked answers' negative log-likelihood per token."
    )
    from_pairs: bool = Field(default=True, description="Take both sides of a preference as thumbs too.")
    batch_thumbs: int = Field(default=16, ge=2, le=1024, description="Least thumbs an optimizer step learns from.")
    min_thumbs: int = Field(default=4, ge=1, le=1_000_000, description="Fewest thumbs of each side to go on with.")


DemonstrationSource = Literal["edit", "preferred", "liked", "replay"]


class SftRecipe(_Training):
    """Supervised fine-tuning on demonstrations: the negative log-likelihood of the answers alone."""

    algorithm: Literal["sft"]
    shares: dict[DemonstrationSource, float] = Field(
        default={"edit": 1.0},
        min_length=1,
        description="What to learn from, and in which proportion: edits, preferred and liked answers, and replayed "
        "text of the base's own against forgetting.",
    )
    max_repeats: float = Field(
        default=4.0,
        ge=1,
        le=100,
        description="Cap per source: most times that one source's examples are repeated to reach its share.",
    )
    batch_examples: int = Field(default=16, ge=1, le=1024, description="Least answers an optimizer step learns from.")
    pack: bool = Field(default=True, description="Several examples to a pass; they never see each other.")
    min_demonstrations: int = Field(default=4, ge=1, le=1_000_000, description="Fewest demonstrations to go on with.")


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

OVERALL = "overall"
"""The aspect that answers are compared in where nothing else is said."""

HeadName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class WeightedSum(_Frozen):
    """One reward out of several heads: Σ weight · reward of the head."""

    kind: Literal["weighted_sum"] = "weighted_sum"
    weights: dict[HeadName, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default_factory=dict, description="Weight of each head's reward; 1 for a head that is not named."
    )


class SafetyFirst(_Frozen):
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

PolicyRecipe = PreferenceRecipe | KtoRecipe | SftRecipe
"""Recipes that make a policy."""

Recipe = PolicyRecipe | AnyRewardRecipe
"""Any recipe."""
