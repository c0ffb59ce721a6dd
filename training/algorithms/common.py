"""What every algorithm is told: the adapter, the optimizer, how long, how much at once."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from feedback.events import OVERALL


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AdapterRecipe(Frozen):
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


class OptimizerRecipe(Frozen):
    """AdamW with a warmup, a decay and clipped gradients."""

    learning_rate: float = Field(default=1e-4, gt=0, le=1e-2, description="Peak learning rate.")
    schedule: Literal["constant", "linear", "cosine"] = Field(default="linear", description="Decay to 0 after warmup.")
    warmup_share: float = Field(default=0.1, ge=0, le=0.5, description="Share of the steps that warm up from 0.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Decoupled weight decay.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of the gradient's mean.")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="Decay of the gradient's square.")
    max_grad_norm: float = Field(default=1.0, gt=0, le=100, description="Norm that gradients are clipped to.")


class Training(Frozen):
    """What every algorithm is told."""

    epochs: int = Field(default=2, ge=1, le=50, description="Times that everything is learned from.")
    pass_tokens: int = Field(
        default=512, ge=32, le=1_048_576, description="Most tokens in one forward pass; a longer example goes alone."
    )
    max_mismatched_share: float = Field(
        default=0.02,
        ge=0,
        le=0.5,
        description="Share of examples whose prompt or end token may differ from the engine's and be left out, one at "
        "least; above it the job stops. 0 tolerates none.",
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


class PairTraining(Training):
    """What every algorithm that learns from pairs is told."""

    batch_pairs: int = Field(default=8, ge=1, le=1024, description="Least pairs an optimizer step learns from.")
    min_pairs: int = Field(
        default=4, ge=1, le=1_000_000, description="Fewest training pairs to go on with, for each head of several."
    )
    ties: bool = Field(default=False, description="Learn from ties too, as pairs that are right either way round.")

    @property
    def aspects(self) -> tuple[str, ...]:
        """What answers may have been compared in for their pair to be learned from."""
        return (OVERALL,)
