"""What is told to those who learn from single answers: with thumbs, or shown as they should be."""

from typing import Literal

from pydantic import Field

from training.algorithms.common import Training
from training.algorithms.preference import BETA


class KtoRecipe(Training):
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


class SftRecipe(Training):
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
