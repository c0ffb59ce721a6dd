"""One example as token ids: a pair of answers, or an answer alone."""

from dataclasses import dataclass

from feedback.events import OVERALL
from training.examples.batches import Item
from training.examples.tokens import TokenIds


@dataclass(frozen=True)
class TokenPair:
    """A pair as token ids; `weight` multiplies its loss, `label` is how likely the chosen answer is the better one.

    `question` is the conversation's first user message, case and spacing folded as for the held-out split: votes on
    one question are not independent of each other.
    `aspect` is what the answers were compared in, `margin` (nats) how far the chosen one is to be ahead: both for
    reward models, and of no other aspect than OVERALL is anything learned by a policy.
    """

    event_id: str
    question: str
    prompt: TokenIds
    chosen: TokenIds
    rejected: TokenIds
    weight: float = 1.0
    label: float = 1.0
    aspect: str = OVERALL
    margin: float = 0.0

    @property
    def item(self) -> Item:
        """Chosen first, rejected second."""
        return Item(self.prompt, (self.chosen, self.rejected))


@dataclass(frozen=True)
class TokenAnswer:
    """One answer as token ids, with its thumb; a demonstration's is `up`. `weight` multiplies its loss.

    `source` says where a demonstration comes from, so that recipes can mix sources.
    """

    event_id: str
    question: str
    prompt: TokenIds
    answer: TokenIds
    up: bool = True
    weight: float = 1.0
    source: str = ""

    @property
    def item(self) -> Item:
        return Item(self.prompt, (self.answer,))
