"""What is told to those who learn from single answers: with thumbs, or shown as they should be."""

from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from training.algorithms.common import Training
from training.algorithms.preference import BETA


class KtoRecipe(Training):
    """Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306): single answers, good or bad."""

    algorithm: Literal["kto"]
    beta: float = BETA
    up_weight: float = Field(default=1.0, gt=0, le=10, description="Weight λ_D of answers with a thumb up.")
    down_weight: float = Field(default=1.0, gt=0, le=10, description="Weight λ_U of answers with a thumb down.")
    nll_weight: float = Field(
        default=0.0, ge=0, le=10, description="Weight of the liked answers' negative log-likelihood per token."
    )
    from_pairs: bool = Field(default=True, description="Take both sides of a preference as thumbs too.")
    batch_thumbs: int = Field(default=16, ge=2, le=1024, description="Least thumbs an optimizer step learns from.")
    min_thumbs: int = Field(default=4, ge=1, le=1_000_000, description="Fewest thumbs of each side to go on with.")


REPLAY: Final = "replay"
"""The source of demonstrations that nobody here made: general text from a file."""
DemonstrationSource = Literal["edit", "preferred", "liked", "replay"]


class SftRecipe(Training):
    """Supervised fine-tuning on demonstrations: the negative log-likelihood of the answers alone."""

    algorithm: Literal["sft"]
    shares: dict[DemonstrationSource, Annotated[float, Field(ge=0, le=1000)]] = Field(
        default={"edit": 1.0},
        min_length=1,
        description="What to learn from, and in which proportion: edits, preferred and liked answers, and replayed "
        "general text against forgetting, drawn to its share of the rest. A share of 0 is as good as none.",
    )
    max_repeats: float = Field(
        default=4.0,
        ge=1,
        le=100,
        description="Cap per source: most times that one source's examples are repeated to reach its share.",
    )
    batch_examples: int = Field(default=16, ge=1, le=1024, description="Least answers an optimizer step learns from.")
    replay_digest: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the text to replay, so that a job says which it was; filled in when the job is made.",
    )
    pack: bool = Field(default=True, description="Several examples to a pass; they never see each other.")
    min_demonstrations: int = Field(default=4, ge=1, le=1_000_000, description="Fewest demonstrations to go on with.")

    @field_validator("shares")
    @classmethod
    def _without_idle_sources(cls, shares: dict[DemonstrationSource, float]) -> dict[DemonstrationSource, float]:
        used = {source: share for source, share in shares.items() if share}
        if not used:
            raise ValueError("one share at least should be greater than 0")
        return used
